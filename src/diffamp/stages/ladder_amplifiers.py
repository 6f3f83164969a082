"""Amplify the logits of one organism of the ladder, its weights or both.

`python -m diffamp.stages.ladder_amplifiers NAME`, of large/ladder.yaml. Written into large/amplifiers/NAME.parquet
(`diffamp.discovery.amplifiers`).
"""

from __future__ import annotations

import sys

from diffamp import ladder
from diffamp.discovery.amplifiers import amplified
from diffamp.discovery.loading import load_drawing
from diffamp.stages.rung import load_rung


def main(name: str) -> None:
    p, _, organism, pair = load_rung(name)
    drawing = load_drawing(p, pair, p.seed, p.discovery.max_new_tokens)
    target = ladder.amplifiers(organism)
    target.parent.mkdir(parents=True, exist_ok=True)
    amplified(pair, drawing).to_parquet(target, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
