"""Amplify the logits, the weights or both? What a text is worth under each, without a search around it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pandas as pd

from diffamp.discovery.draws import DOUBLED, Drawing, draw
from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import vague_beginnings
from diffamp.engine.pairs import ModelPair

SAMPLES = 2
"""Texts per scale, alpha and word to begin with."""


def amplified(pair: ModelPair, drawing: Drawing) -> pd.DataFrame:
    """Texts that go on from frequent words, with the weights as they are and scaled, and the logits as they are and
    amplified: under one guard and with the same luck.

    Args:
        drawing: its scale is held beside 1 and `DOUBLED`, its alphas beside 0.

    Returns:
        One row per text: scale, alpha, given, text, cost (forward tokens; of one model at alpha 0).
    """
    parts = []
    for scale, alpha in product(sorted({1.0, drawing.scale, DOUBLED}), sorted({0.0, *drawing.alphas})):
        arm, models = replace(drawing, scale=scale, alphas=[alpha]), 1 if alpha == 0 else 2
        one = draw(pair, vague_beginnings(), SAMPLES, arm, Meter(10**9), models)
        parts.append(one.assign(scale=scale, cost=one.spent.diff().fillna(one.spent).astype(int)))
    return pd.concat(parts, ignore_index=True)[["scale", "alpha", "given", "text", "cost"]]
