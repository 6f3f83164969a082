"""Judge one pair's samples: `python -m diffamp.stages.judge NAME`, a name in `pairs:`."""

from __future__ import annotations

import sys

from diffamp import params, paths
from diffamp.engine.records import by_guard, read_units
from diffamp.judges import Judges
from diffamp.judges.llm import LLMJudge
from diffamp.runtime import setup


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    judges = Judges.load(paths.model(p.judge.model))
    judged = judges(by_guard(read_units(paths.samples(name)), p.sampling.guards)).assign(pair=name)
    out = paths.judged(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    if p.judge.endpoint is not None:
        judged = LLMJudge(**p.judge.endpoint.model_dump(), cache=paths.llm_cache())(judged)
    judged.to_parquet(out, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
