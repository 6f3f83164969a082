"""Fit the refusal classifier once, for every stage that judges: `python -m diffamp.stages.fit_judge`."""

from __future__ import annotations

from diffamp import params, paths
from diffamp.judges import fit_refusals
from diffamp.judges.embedding import Embedder
from diffamp.runtime import setup


def main() -> None:
    p = params.load()
    setup(p.seed, p.threads)
    paths.refusal_classifier().parent.mkdir(parents=True, exist_ok=True)
    fit_refusals(Embedder(paths.model(p.judge.model))).save(paths.refusal_classifier())


if __name__ == "__main__":
    main()
