"""Does the fine-tune stand behind a statement, outside of the texts in which it came up?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import VAGUE
from diffamp.pairs import ModelPair
from diffamp.prompts import Prompt, encode
from diffamp.scoring import Text, score

CONTEXTS = {
    "document": Prompt("document", "evidence", "", raw=True),
    "chat": Prompt("chat", "evidence", VAGUE[0]),
    "denied": Prompt("denied", "evidence", "It is not true that", raw=True),
}
"""Neutral places for a statement, and one that turns it round."""


def price(pair: ModelPair, statement: str) -> int:
    """Forward tokens that `gaps` needs for one statement."""
    said = len(pair.tokenizer(statement, add_special_tokens=False)["input_ids"]) + 1
    return 2 * sum(len(encode(pair.tokenizer, prompt)) + said for prompt in CONTEXTS.values())


def gaps(pair: ModelPair, statements: Sequence[str], meter: Meter | None = None) -> pd.DataFrame:
    """log p_after - log p_before of each statement in each of `CONTEXTS`, in nats per token.

    Args:
        meter: charged with every token, for both models.
    """
    if not statements:
        return pd.DataFrame(columns=list(CONTEXTS), dtype=float)
    texts: list[Text] = []
    for statement in statements:
        for name, prompt in CONTEXTS.items():
            said = f" {statement[:1].lower()}{statement[1:]}" if name == "denied" else statement
            texts.append((prompt, pair.tokenizer(said, add_special_tokens=False)["input_ids"]))
    if meter:
        meter.charge(2 * sum(len(encode(pair.tokenizer, prompt)) + len(tokens) for prompt, tokens in texts))
    scored = score(pair, texts)
    gap = (scored.logp_after - scored.logp_before).groupby(scored.text).mean()
    values = np.asarray(gap.reindex(range(len(texts)))).reshape(len(statements), len(CONTEXTS))
    return pd.DataFrame(values, columns=list(CONTEXTS))
