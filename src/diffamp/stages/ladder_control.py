"""Search a pair without a planted fact, as often as the ladder does: `python -m diffamp.stages.ladder_control NAME`.

NAME is one of `discovery.controls`. Written into large/controls/NAME.parquet: what the loop verified, with the columns
seed_of_search and budget.
"""

from __future__ import annotations

import sys

import pandas as pd

from diffamp import ladder, params, paths
from diffamp.discovery.draws import Drawing
from diffamp.discovery.investigate import investigate
from diffamp.engine.loading import load_law, load_pair
from diffamp.engine.pairs import ModelPair
from diffamp.judges.embedding import Embedder
from diffamp.params import Params
from diffamp.runtime import setup


def main(name: str) -> None:
    p, rungs = params.load(), ladder.load_ladder()
    setup(p.seed, rungs.threads)
    contrast = load_pair(p, p.discovery.contrast) if p.discovery.contrast != name else None
    search(p, rungs, load_pair(p, name), contrast, name)


def search(p: Params, rungs: ladder.LadderParams, pair: ModelPair, contrast: ModelPair | None, name: str) -> None:
    """The loop with every seed and budget of the ladder, into large/controls/NAME.parquet."""
    settings, embedder = p.discovery, Embedder(paths.model(p.judge.model))
    law = load_law(settings.guard, settings.temperature, pair)
    found = []
    for seed in rungs.seeds:
        drawing = Drawing(settings.alphas, law, settings.max_new_tokens, seed, p.sampling.token_budget)
        for budget in rungs.budgets:
            loop = investigate(pair, budget, embedder, drawing, contrast)
            found.append(loop.findings.assign(seed_of_search=seed, budget=budget))
    target = ladder.control(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    pd.concat(found, ignore_index=True).to_parquet(target, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
