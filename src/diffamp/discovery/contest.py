"""What others do in place of the loop, on one pair, for the same number of forward tokens each."""

from __future__ import annotations

from collections.abc import Iterator

from diffamp.discovery.baselines import METHODS, Found, plain_sampling
from diffamp.discovery.draws import Drawing
from diffamp.judges.embedding import Embedder
from diffamp.pairs import ModelPair

SCALED = "weights scaled"
"""Plain sampling from the after-model whose LoRA is doubled, instead of its logits' difference."""


def baselines(
    pair: ModelPair, doubled: ModelPair, budget: int, drawing: Drawing, embedder: Embedder
) -> Iterator[tuple[str, Found]]:
    """Name and result of every method but the loop.

    Args:
        doubled: the same pair with its low-rank terms multiplied by two.
    """
    for method, search in METHODS.items():
        yield method, search(pair, budget, drawing, embedder)
    yield SCALED, plain_sampling(doubled, budget, drawing, embedder)
