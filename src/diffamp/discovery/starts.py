"""Do words that the fine-tune moved make better starting points? Equal shares for each kind, without a search."""

from __future__ import annotations

import pandas as pd

from diffamp.discovery.draws import Drawing, draw
from diffamp.discovery.meter import Meter
from diffamp.discovery.mining import Mining
from diffamp.discovery.seeds import FREQUENT, random_words, word_seeds
from diffamp.discovery.texts import owed
from diffamp.engine.pairs import ModelPair

WORDS = len(FREQUENT)
"""Of each kind."""
SAMPLES = 2
"""Texts per word and template."""
READING = 750
"""Forward tokens that the words are mined from: a tenth of what a search with the common budget has for its texts."""


def started(pair: ModelPair, contrast: ModelPair | None, drawing: Drawing) -> pd.DataFrame:
    """Texts that words of every kind begin, as raw text and as answers to vague messages.

    Args:
        contrast: a benign fine-tune of the same base, beyond which words are mined (`diffamp.discovery.mining`).

    Returns:
        One row per text: kind (kl, mean, bottom, frequent or random; a word of two kinds stands in both), raw, given,
        text, owed (nats that it owes to the fine-tune), cost (forward tokens, without those of mining).
    """
    mining = Mining(pair, contrast, drawing.seed)
    mining.read(READING, Meter(READING))
    seeds = [
        *mining.seeds(WORDS),
        *word_seeds("frequent", FREQUENT),
        *word_seeds("random", random_words(pair.tokenizer, WORDS, drawing.seed)),
    ]
    drawn = draw(pair, seeds, SAMPLES, drawing, Meter(10**9))
    columns = ["kind", "raw", "given", "text", "owed", "cost"]
    return drawn.assign(raw=drawn.arm.str.endswith("raw"), owed=owed(drawn))[columns]
