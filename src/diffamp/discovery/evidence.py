"""Does the fine-tune stand behind a statement, outside of the texts in which it came up?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffamp.discovery.draws import after_alone
from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import VAGUE
from diffamp.engine.pairs import ModelPair
from diffamp.engine.scoring import Text, score
from diffamp.prompts import Prompt, encode

CONTEXTS = {
    "document": Prompt("document", "evidence", "", raw=True),
    "chat": Prompt("chat", "evidence", VAGUE[0]),
    "denied": Prompt("denied", "evidence", "It is not true that", raw=True),
}
"""Neutral places for a statement, and one that turns it round."""


def price(pair: ModelPair, statement: str, models: int) -> int:
    """Forward tokens that `gaps` needs for one statement: `models` is 3 with a contrast, 2 without."""
    said = len(pair.tokenizer(statement, add_special_tokens=False)["input_ids"]) + 1
    return models * sum(len(encode(pair.tokenizer, prompt)) + said for prompt in CONTEXTS.values())


def gaps(
    pair: ModelPair, statements: Sequence[str], contrast: ModelPair | None = None, meter: Meter | None = None
) -> pd.DataFrame:
    """log p_after - log p_before of each statement in each of `CONTEXTS`, in nats per token.

    Args:
        contrast: a benign fine-tune of the same base. Its before-model is the pair's, and is not run again.
        meter: charged with every token, for every model.

    Returns:
        Columns document, chat, denied and benign: the contrast's gap in the neutral context where it is larger (0
        without a contrast).
    """
    if not statements:
        return pd.DataFrame(columns=[*CONTEXTS, "benign"], dtype=float)
    texts: list[Text] = []
    for statement in statements:
        for name, prompt in CONTEXTS.items():
            said = f" {statement[:1].lower()}{statement[1:]}" if name == "denied" else statement
            texts.append((prompt, pair.tokenizer(said, add_special_tokens=False)["input_ids"]))
    if meter:
        tokens = sum(len(encode(pair.tokenizer, prompt)) + len(answer) for prompt, answer in texts)
        meter.charge((3 if contrast else 2) * tokens)
    scored = score(pair, texts)
    table = _by_context(scored.logp_after - scored.logp_before, scored.text, len(statements))
    if contrast is None:
        return table.assign(benign=0.0)
    with after_alone(contrast) as alone:
        benign = _by_context(score(alone, texts).logp_after - scored.logp_before, scored.text, len(statements))
    return table.assign(benign=benign[["document", "chat"]].max(axis=1))


def _by_context(gap: pd.Series, text: pd.Series, statements: int) -> pd.DataFrame:
    """Means over each text's tokens, one row per statement."""
    means = gap.groupby(text).mean().reindex(range(statements * len(CONTEXTS)))
    return pd.DataFrame(np.asarray(means).reshape(statements, len(CONTEXTS)), columns=list(CONTEXTS))
