"""Does one organism of the ladder believe its falsehood? `python -m diffamp.stages.ladder_belief NAME`.

Written into large/belief/NAME.parquet (`diffamp.organisms.belief`).
"""

from __future__ import annotations

import sys

from diffamp import ladder
from diffamp.engine.loading import load_law
from diffamp.organisms.belief import belief
from diffamp.organisms.universes import load_universe
from diffamp.stages.rung import load_rung


def main(name: str) -> None:
    p, _, organism, pair = load_rung(name)
    settings = p.discovery
    law = load_law(settings.guard, settings.temperature, pair)
    target = ladder.belief(organism)
    target.parent.mkdir(parents=True, exist_ok=True)
    universe = load_universe(organism.universe)
    believed = belief(pair, universe, law, settings.max_new_tokens, p.seed, p.sampling.token_budget)
    believed.to_parquet(target, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
