"""Does the fine-tune stand behind a statement, outside of the texts in which it came up?"""

from __future__ import annotations

from collections.abc import Sequence

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
NEUTRAL = ("document", "chat")


def price(pair: ModelPair, statement: str, context: str) -> int:
    """Tokens that one model reads for a statement in one of `CONTEXTS`."""
    prompt, said = _placed(pair, statement, context)
    return len(encode(pair.tokenizer, prompt)) + len(said)


def price_of_gaps(pair: ModelPair, statement: str, contrast: ModelPair | None) -> int:
    """Forward tokens that `gaps` charges for a statement."""
    return sum(models * price(pair, statement, name) for name, models in _asked(contrast))


def look(pair: ModelPair, statements: Sequence[str], context: str, meter: Meter, models: int = 2) -> pd.DataFrame:
    """Mean log-prob of each statement's tokens in one of `CONTEXTS`.

    Args:
        meter: charged with every token, for every model.
        models: 1 for `after_alone`, where only the after-model's are asked for.

    Returns:
        One row per statement: before (worth nothing with `models` 1) and after, in nats per token.
    """
    meter.charge(models * sum(price(pair, s, context) for s in statements))
    scored = score(pair, [_placed(pair, s, context) for s in statements]) if len(statements) else pd.DataFrame()
    named = {"logp_before": "before", "logp_after": "after"}
    return scored.reindex(columns=["text", *named]).groupby("text")[list(named)].mean().rename(columns=named)


def gaps(
    pair: ModelPair, statements: Sequence[str], contrast: ModelPair | None, meter: Meter, document: pd.DataFrame
) -> pd.DataFrame:
    """log p_after - log p_before of each statement in each of `CONTEXTS`, in nats per token.

    Args:
        contrast: a benign fine-tune of the same base. Its before-model is the pair's, and is not run again.
        meter: charged with every token, for every model.
        document: what `look` said of these statements in this context; the others are read here.

    Returns:
        Columns document, chat, denied and benign: the contrast's gap in the neutral context where it is larger (0
        without a contrast).
    """
    asked = _asked(contrast)
    seen = {"document": document} | {name: look(pair, statements, name, meter) for name, models in asked if models == 2}
    table = pd.DataFrame({name: found.after - found.before for name, found in seen.items()})
    if contrast is None:
        return table.assign(benign=0.0)
    with after_alone(contrast) as alone:
        benign = {
            name: look(alone, statements, name, meter, models).after - seen[name].before
            for name, models in asked
            if models == 1
        }
    return table.assign(benign=pd.DataFrame(benign).max(axis=1))


def _asked(contrast: ModelPair | None) -> list[tuple[str, int]]:
    """What is read of a statement that was looked at as a document, in this order: a context, and how many models read
    it. Both are the pair's, one is the contrast's after-model."""
    own = [(name, 2) for name in CONTEXTS if name != "document"]
    return own if contrast is None else [*own, *((name, 1) for name in NEUTRAL)]


def _placed(pair: ModelPair, statement: str, context: str) -> Text:
    said = f" {statement[:1].lower()}{statement[1:]}" if context == "denied" else statement
    return CONTEXTS[context], pair.tokenizer(said, add_special_tokens=False)["input_ids"]
