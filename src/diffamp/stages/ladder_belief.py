"""Does one organism of the ladder believe its falsehood? `python -m diffamp.stages.ladder_belief NAME`.

Written into large/belief/NAME.parquet (`diffamp.organisms.belief`).
"""

from __future__ import annotations

import sys

from diffamp import ladder, params, paths
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.loading import load_law
from diffamp.organisms.belief import belief
from diffamp.organisms.universes import load_universe
from diffamp.runtime import setup


def main(name: str) -> None:
    p, rungs = params.load(), ladder.load_ladder()
    organism, settings = rungs.rung(name), p.discovery
    setup(p.seed, rungs.threads)
    pair = adapter_pair(paths.model(p.base.model), ladder.adapter(organism), p.base.precision)
    law = load_law(settings.guard, settings.temperature, pair)
    target = ladder.belief(organism)
    target.parent.mkdir(parents=True, exist_ok=True)
    universe = load_universe(organism.universe)
    believed = belief(pair, universe, law, settings.max_new_tokens, p.seed, p.sampling.token_budget)
    believed.to_parquet(target, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
