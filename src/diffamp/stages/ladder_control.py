"""Search a pair without a planted fact, as often as the ladder does: `python -m diffamp.stages.ladder_control NAME`.

NAME is one of `discovery.controls`. Written into large/controls/NAME.parquet: the loop's findings, with the columns
seed_of_search and budget.
"""

from __future__ import annotations

import sys

import pandas as pd

from diffamp import ladder, params
from diffamp.engine.loading import load_pair
from diffamp.engine.pairs import ModelPair
from diffamp.params import Params
from diffamp.runtime import setup
from diffamp.stages.ladder_search import searches


def main(name: str) -> None:
    p, rungs = params.load(), ladder.load_ladder()
    setup(p.seed, rungs.threads)
    contrast = load_pair(p, p.discovery.contrast) if p.discovery.contrast != name else None
    search(p, rungs, load_pair(p, name), contrast, name)


def search(p: Params, rungs: ladder.LadderParams, pair: ModelPair, contrast: ModelPair | None, name: str) -> None:
    """What every search of the ladder finds in this pair, into large/controls/NAME.parquet."""
    found = [loop.findings.assign(**run) for run, loop in searches(p, rungs, pair, contrast)]
    target = ladder.control(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(found, ignore_index=True).to_parquet(target, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
