"""Amplify the logits of one organism of the ladder, its weights or both.

`python -m diffamp.stages.ladder_amplifiers NAME`, of large/ladder.yaml. Written into large/amplifiers/NAME.parquet
(`diffamp.discovery.amplifiers`).
"""

from __future__ import annotations

import sys

from diffamp import ladder, params, paths
from diffamp.discovery.amplifiers import amplified
from diffamp.discovery.draws import Drawing
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.loading import load_law
from diffamp.runtime import setup


def main(name: str) -> None:
    p, rungs = params.load(), ladder.load_ladder()
    organism, settings = rungs.rung(name), p.discovery
    setup(p.seed, rungs.threads)
    pair = adapter_pair(paths.model(p.base.model), ladder.adapter(organism), p.base.precision)
    law = load_law(settings.guard, settings.temperature, pair)
    drawing = Drawing(settings.alphas, settings.scale, law, settings.max_new_tokens, p.seed, p.sampling.token_budget)
    target = ladder.amplifiers(organism)
    target.parent.mkdir(parents=True, exist_ok=True)
    amplified(pair, drawing).to_parquet(target, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
