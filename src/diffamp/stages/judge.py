"""Judge one pair's samples: `python -m diffamp.stages.judge NAME`, a name in `pairs:`."""

from __future__ import annotations

import sys

import pandas as pd

from diffamp import params, paths
from diffamp.judges import Judges
from diffamp.judges.llm import LLMJudge
from diffamp.records import read_units
from diffamp.runtime import setup


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    judges = Judges.fit(paths.model(p.judge.model))
    # enumerated from params.yaml, so that a guard that was removed there cannot live on in the figures
    frames = [
        judges(read_units(paths.samples(name) / guard)).assign(pair=name, guard=guard) for guard in p.sampling.guards
    ]
    out = paths.judged(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    judged = pd.concat(frames, ignore_index=True)
    if p.judge.endpoint is not None:
        judged = LLMJudge(**p.judge.endpoint.model_dump(), cache=paths.llm_cache())(judged)
    judged.to_parquet(out, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
