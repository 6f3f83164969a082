"""Which texts are begun, and which go on: the budget follows what the fine-tune drives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

import pandas as pd

from diffamp.discovery.draws import PER_TOKEN, Drawing, cost
from diffamp.discovery.meter import within
from diffamp.discovery.seeds import Begun, Seed
from diffamp.engine.pairs import ModelPair

PART = 32
"""Tokens that a text is begun with, and that it goes on by."""
LONGEST = 2 * PART
"""Tokens at which a text is left."""
BEST = 3
"""Arms that are drawn from, of those that were tried."""


def owed(samples: pd.DataFrame) -> list[float]:
    """Nats that each text owes to the fine-tune: the terms of its tokens, each token's first one, so that a loop earns
    nothing.

    A log-prob gap alone would not do. Amplified gibberish has the largest gaps of all, of tokens that neither model
    expects; a term, p_after (log p_after - log p_before), is large where the fine-tuned model itself would have gone
    (scaled, as it is drawn from).

    Args:
        samples: of `diffamp.discovery.draws.draw`.
    """
    return [
        float(pd.Series(terms).groupby(tokens).first().sum())
        for tokens, terms in zip(samples.tokens, samples.terms, strict=True)
    ]


def going_on(samples: pd.DataFrame, seeds: Mapping[str, Seed]) -> dict[int, Seed]:
    """The texts that may go on, by their row, those first that owe most to the fine-tune: of each seed the best.

    Args:
        samples: of `diffamp.discovery.draws.draw`, with the column owed.
        seeds: what each text came from, by id.
    """
    table = samples[~samples.ended & (samples.terms.map(len) < LONGEST)]
    table = table.sort_values("owed", ascending=False, kind="stable").drop_duplicates("seed")
    parts = table[["text", *PER_TOKEN]].to_dict("records")
    return {
        int(row): replace(seeds[seed], begun=Begun(**part))
        for row, seed, part in zip(table.index, table.seed, parts, strict=True)
    }


def live(new: Sequence[Seed], samples: pd.DataFrame) -> list[list[Seed]]:
    """Seeds by arm, in the order in which arms are served: the `BEST` of those that were tried, by the nats that their
    texts' first parts owe to the fine-tune for each forward token; then those that were not, documents before answers,
    whose template has to be paid for with every seed.

    Args:
        samples: of `diffamp.discovery.draws.draw`, with the column owed.
    """
    arms: dict[str, list[Seed]] = {}
    for seed in sorted(new, key=lambda s: not s.prompt.raw):
        arms.setdefault(seed.arm, []).append(seed)
    if samples.empty:
        return list(arms.values())
    first = samples[samples.terms.map(len) <= PART]
    total = first.groupby("arm")[["owed", "cost"]].sum()
    tried = (total.owed / total.cost).sort_values(ascending=False, kind="stable").index
    best = [a for a in tried if a in arms][:BEST]
    return [arms[a] for a in [*best, *(a for a in arms if a not in tried)]]


def one_each(pair: ModelPair, arms: Sequence[Sequence[Seed]], tokens: float, drawing: Drawing) -> list[Seed]:
    """One seed of every arm in turn, as far as the tokens go; what is too dear is passed over."""
    in_turn = (s for turn in zip_longest(*arms) for s in turn if s is not None)
    return within(in_turn, lambda seed: cost(pair, seed, drawing), tokens)
