"""Search one organism of the ladder with every baseline: `python -m diffamp.stages.ladder_baselines NAME`.

Written into large/baselines/NAME: findings.parquet and samples.parquet, with the columns method, seed_of_search and
budget.
"""

from __future__ import annotations

import sys

from diffamp import ladder, paths
from diffamp.discovery.baselines import METHODS
from diffamp.discovery.draws import Drawing
from diffamp.discovery.results import save
from diffamp.engine.law import Law
from diffamp.judges.embedding import Embedder
from diffamp.stages.rung import load_rung


def main(name: str) -> None:
    p, rungs, organism, pair = load_rung(name)
    settings = p.discovery
    rungs.check_budget(settings.budget)
    law = Law(temperature=settings.temperature)  # none of them has a guard, and each its own alpha and scale
    embedder = Embedder(paths.model(p.judge.model))
    found, drawn = [], []
    for seed in rungs.seeds:
        drawing = Drawing(
            law=law, max_new_tokens=settings.max_new_tokens, seed=seed, token_budget=p.sampling.token_budget
        )
        for method, search in METHODS.items():
            result = search(pair, settings.budget, embedder, drawing)
            run = {"method": method, "seed_of_search": seed, "budget": settings.budget}
            found.append(result.ranking.assign(**run))
            drawn.append(result.samples.assign(**run))
    save(found, drawn, ladder.by_baselines(organism))


if __name__ == "__main__":
    main(sys.argv[1])
