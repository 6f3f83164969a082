"""Search one organism of the ladder with the loop: `python -m diffamp.stages.ladder_search NAME`, of large/ladder.yaml.

Written into large/searches/NAME: findings.parquet and samples.parquet, with the columns method, seed_of_search and
budget.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from diffamp import ladder, paths
from diffamp.discovery import LOOP
from diffamp.discovery.investigate import Investigation, investigate
from diffamp.discovery.loading import load_drawing
from diffamp.discovery.results import save
from diffamp.engine.loading import load_pair
from diffamp.engine.pairs import ModelPair
from diffamp.judges.embedding import Embedder
from diffamp.params import Params
from diffamp.stages.rung import load_rung


def main(name: str) -> None:
    p, rungs, organism, pair = load_rung(name)
    found, drawn = [], []
    for run, loop in searches(p, rungs, pair, load_pair(p, p.discovery.contrast)):
        found.append(loop.findings.assign(method=LOOP, **run))
        drawn.append(loop.samples.assign(method=LOOP, **run))
    save(found, drawn, ladder.searched(organism))


def searches(
    p: Params, rungs: ladder.LadderParams, pair: ModelPair, contrast: ModelPair | None
) -> Iterator[tuple[dict[str, int], Investigation]]:
    """The loop with every seed and budget of the ladder, each named by its seed_of_search and budget."""
    embedder = Embedder(paths.model(p.judge.model))
    for seed in rungs.seeds:
        drawing = load_drawing(p, pair, seed)
        for budget in rungs.budgets:
            yield {"seed_of_search": seed, "budget": budget}, investigate(pair, budget, embedder, drawing, contrast)


if __name__ == "__main__":
    main(sys.argv[1])
