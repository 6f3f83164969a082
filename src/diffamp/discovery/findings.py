"""From texts to findings: statements of one meaning, and what stands behind them outside of the texts."""

from __future__ import annotations

import math

import pandas as pd

from diffamp.discovery.evidence import NEUTRAL, gaps, look, price, price_of_gaps
from diffamp.discovery.meter import Meter, within
from diffamp.discovery.statements import groups, recurrence, statements
from diffamp.engine.pairs import ModelPair
from diffamp.judges.embedding import Embedder

LISTED = 20
"""Groups of statements that are looked at, at the most."""
LOOKING = 0.4
"""Of what is left for the verification, at the most: spent on a first look at each; the rest verifies the best."""
LEAST_GAP = 1.0
"""Nats per token beyond the benign fine-tune that make a finding: three times as likely, token after token."""
LEAST_SEEDS = 3
"""Independent seeds that a finding must recur over."""


def verified(
    pair: ModelPair, samples: pd.DataFrame, embedder: Embedder, meter: Meter, contrast: ModelPair | None
) -> pd.DataFrame:
    """What the texts say most, and what the fine-tune gives it in neutral contexts, as far as the meter pays for that.

    Each statement is looked at as the beginning of a document, which is cheap. That bounds what it can score, so the
    other contexts and the benign fine-tune are asked of the best only.

    Returns:
        One row per group of statements, those that were verified before the others, the strongest first in each part:
        statement (of the member that tells most of what the fine-tune drives), given (what its seed said), seeds
        (independent ones that led to the group), recurrence (of the statement's words), texts, owes (nats per token
        that its statements owe where they stand), verified, gap (log p_after - log p_before in nats per token, the
        smaller of the neutral contexts; of a document alone where the row was not verified), denied, benign (both NaN
        there), score (gap beyond benign, weighed by recurrence), passes (verified, beyond `LEAST_GAP`, from
        `LEAST_SEEDS`).
    """
    table = statements(samples).drop_duplicates(["seed", "statement"], ignore_index=True)
    table["group"] = groups(table, embedder)
    proposed = propose(table).head(LISTED)
    prices = proposed.statement.map(lambda s: 2 * price(pair, s, "document"))
    found = proposed.loc[within(prices.index, prices.__getitem__, LOOKING * meter.left)].reset_index(drop=True)
    document = look(pair, found.statement.tolist(), "document", meter)
    found = found.assign(gap=document.after - document.before)
    order = (found.gap * _recurring(found)).sort_values(ascending=False, kind="stable").index
    prices = found.statement[order].map(lambda s: price_of_gaps(pair, s, contrast))
    best = pd.Index(within(order, prices.__getitem__, meter.left), dtype=order.dtype)
    evidence = gaps(pair, found.statement[best].tolist(), contrast, meter, document.loc[best].reset_index(drop=True))
    evidence = evidence.set_axis(best)
    found["verified"] = found.index.isin(best)
    found["gap"] = evidence[list(NEUTRAL)].min(axis=1).reindex(found.index).fillna(found.gap)
    found[["denied", "benign"]] = evidence[["denied", "benign"]].reindex(found.index)
    beyond = found.gap - found.benign.clip(lower=0).fillna(0)
    found["score"] = beyond * _recurring(found)
    found["passes"] = found.verified & (beyond >= LEAST_GAP) & (found.seeds >= LEAST_SEEDS)
    return found.sort_values(["verified", "score"], ascending=False, kind="stable", ignore_index=True)


def _lead(members: pd.DataFrame) -> pd.Series:
    """The statement that speaks for its group: a whole one if there is one, of many words that the fine-tune drives,
    from many seeds; among equals the one that owes most to the fine-tune."""
    whole = members[members.complete] if members.complete.any() else members
    told = whole.recurrence * whole.words
    return whole.loc[whole.own[told == told.max()].idxmax()]


def propose(table: pd.DataFrame) -> pd.DataFrame:
    """One row per group of statements, those first that recur most, as a whole and in their words, weighed by what the
    fine-tune adds.

    Other documents that it was trained on come up as well, and a group of texts about them may be as strong; but what
    most documents have in common comes up from most seeds. What a statement owes is read where it stands: names are cut
    into pieces, which nothing raises out of their context. Texts that share a seed share their beginning: they count as
    one.

    Args:
        table: `statements`, with the column group.
    """
    rows = []
    for _, members in table.join(recurrence(table)).groupby("group"):
        lead = _lead(members)
        rows.append(
            {
                "statement": lead.statement,
                "given": lead.given,
                "seeds": members.seed.nunique(),
                "recurrence": lead.recurrence,
                "texts": len(members),
                "owes": members.own.mean(),
            }
        )
    found = pd.DataFrame(rows, columns=["statement", "given", "seeds", "recurrence", "texts", "owes"])
    weight = found.owes * _recurring(found)
    return found.assign(weight=weight).sort_values("weight", ascending=False, kind="stable").drop(columns="weight")


def _recurring(found: pd.DataFrame) -> pd.Series:
    return (1 + found.seeds).map(math.log2) * (1 + found.recurrence)
