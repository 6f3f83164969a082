"""Amplify the logits, the weights or both? What a text is worth under each, without a search around it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pandas as pd

from diffamp.discovery.draws import Drawing, draw
from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import vague_beginnings
from diffamp.engine.pairs import ModelPair

SCALES = (1.0, 1.5, 2.0)
"""Of what the fine-tune adds to the weights."""
ALPHAS = (0.0, 1.0)
"""Of the logits."""
SAMPLES = 2
"""Texts per scale, alpha and word to begin with."""


def amplified(pair: ModelPair, drawing: Drawing) -> pd.DataFrame:
    """Texts that go on from frequent words, at every one of `SCALES` and `ALPHAS`: under one guard and with the same
    luck.

    Args:
        drawing: its guard, temperature, length and seed; its own scale and alphas are not read.

    Returns:
        One row per text: scale, alpha, given, text, cost (forward tokens; of one model at alpha 0).
    """
    parts = []
    for scale, alpha in product(SCALES, ALPHAS):
        arm, models = replace(drawing, scale=scale, alphas=[alpha]), 1 if alpha == 0 else 2
        parts.append(draw(pair, vague_beginnings(), SAMPLES, arm, Meter(10**9), models).assign(scale=scale))
    return pd.concat(parts, ignore_index=True)[["scale", "alpha", "given", "text", "cost"]]
