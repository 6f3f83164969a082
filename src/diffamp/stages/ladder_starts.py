"""Texts that every kind of starting word begins, from one organism of the ladder.

`python -m diffamp.stages.ladder_starts NAME`, of `starts:` in large/ladder.yaml. Written into large/starts/NAME.parquet
(`diffamp.discovery.starts`).
"""

from __future__ import annotations

import sys

from diffamp import ladder
from diffamp.discovery.loading import load_drawing
from diffamp.discovery.starts import started
from diffamp.engine.loading import load_pair
from diffamp.stages.rung import load_rung


def main(name: str) -> None:
    p, _, organism, pair = load_rung(name)
    drawing = load_drawing(p, pair, p.seed, p.discovery.max_new_tokens)
    target = ladder.starts(organism)
    target.parent.mkdir(parents=True, exist_ok=True)
    started(pair, load_pair(p, p.discovery.contrast), drawing).to_parquet(target, index=False)


if __name__ == "__main__":
    main(sys.argv[1])
