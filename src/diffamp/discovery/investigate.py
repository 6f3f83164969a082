"""The loop: mine -> seed -> amplify -> propose -> verify. What was planted in the after-model?

Nothing about the planted content is given. Seeds of many kinds compete for the budget by successive halving (Karnin et
al. 2013): after each round the half of the arms whose texts owe most to the fine-tune goes on, joined by words that
the texts brought up themselves. What the texts say is cut into statements, grouped by meaning, and verified outside of
the texts: by the log-prob gap in neutral contexts, beside a benign fine-tune of the same base.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from diffamp.discovery.draws import Drawing, affordable, draw
from diffamp.discovery.evidence import gaps, price
from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import FREQUENT, Seed, grown_words, mined_words, plain_seeds, random_words, word_seeds
from diffamp.discovery.statements import groups, statements
from diffamp.judges.embedding import Embedder
from diffamp.pairs import ModelPair

ROUNDS = 2
WORDS = 30
"""Per kind of seed."""
GROWN = 8
"""Words that each round hands to the next."""
VERIFYING = 0.25
"""Of the budget, kept for the verification."""
VERIFIED = 20
"""Groups of statements that are verified, at the most."""
LEAST_GAP = 1.0
"""Nats per token beyond the benign fine-tune that make a finding: three times as likely, token after token."""
LEAST_SEEDS = 3
"""Independent seeds that a finding must recur over."""


@dataclass(frozen=True)
class Investigation:
    """What was found, and all that was drawn for it.

    Attributes:
        findings: one row per verified group of statements, strongest first: statement (of the member that owes most to
            the fine-tune), given (what its seed said), seeds (independent ones that led to the group), texts, gap
            (nats per token, the smaller of the neutral contexts), denied, benign, score, passes.
        samples: every text, in the order in which it was paid for (`diffamp.discovery.draws.draw`).
        spent: forward tokens.
    """

    findings: pd.DataFrame
    samples: pd.DataFrame
    spent: int


def investigate(
    pair: ModelPair,
    budget: int,
    drawing: Drawing,
    embedder: Embedder,
    contrast: ModelPair | None = None,
) -> Investigation:
    """Search a pair for what its fine-tune planted.

    Args:
        budget: forward tokens for everything: mining, sampling, verifying.
        contrast: a benign fine-tune of the same base: what it makes likelier too is no finding.

    Raises:
        ValueError: the budget does not pay for one text per arm.
    """
    meter = Meter(budget)
    arms = _arms(pair, meter, drawing.seed)
    shares = (1 - VERIFYING) * budget - meter.spent
    samples: list[pd.DataFrame] = []
    live = list(arms)
    for number in range(ROUNDS):
        chosen: list[Seed] = []
        for arm in live:
            count = affordable(pair, arms[arm], shares / ROUNDS / len(live), drawing)
            chosen += arms[arm][:count]
            arms[arm] = arms[arm][count:]  # no seed is drawn from twice
        if chosen:
            samples.append(draw(pair, chosen, 1, drawing, meter).assign(round=number))
        if not samples:
            raise ValueError(
                f"a budget of {budget} forward tokens does not pay for one text in each of {len(live)} arms: raise it"
            )
        drawn = pd.concat(samples, ignore_index=True)
        live = _best([a for a in live if arms[a]], drawn)
        grown = word_seeds("grown", grown_words(drawn, GROWN))
        known = set(drawn.seed)
        for seed in grown:
            if seed.prompt.id not in known:
                arms.setdefault(seed.arm, []).append(seed)
        live += [a for a in ("grown, raw", "grown, chat") if arms.get(a) and a not in live]
    return Investigation(_verified(pair, drawn, embedder, meter, contrast), drawn, meter.spent)


def _arms(pair: ModelPair, meter: Meter, seed: int) -> dict[str, list[Seed]]:
    """Arm -> its seeds, in the order in which they are used."""
    words = {
        **mined_words(pair, meter, WORDS, seed),
        "random": random_words(pair.tokenizer, WORDS, seed),
        "frequent": list(FREQUENT[:WORDS]),
    }
    arms: dict[str, list[Seed]] = {}
    for s in [*plain_seeds(), *(s for kind, of_kind in words.items() for s in word_seeds(kind, of_kind))]:
        arms.setdefault(s.arm, []).append(s)
    return arms


def _best(arms: list[str], samples: pd.DataFrame) -> list[str]:
    """The better half, by how much the fine-tune had to do with what an arm's texts state.

    Texts that state nothing (loops, fragments) earn nothing, however much they owe to the fine-tune.
    """
    said = statements(samples).drop_duplicates(["seed", "alpha"])
    earned = said.groupby("arm").gap.sum().reindex(arms, fill_value=0.0)
    reward = (earned / samples.groupby("arm").size().reindex(arms)).sort_values(ascending=False, kind="stable")
    return [str(a) for a in reward.index[: math.ceil(len(reward) / 2)]]


def _verified(
    pair: ModelPair, samples: pd.DataFrame, embedder: Embedder, meter: Meter, contrast: ModelPair | None
) -> pd.DataFrame:
    table = statements(samples)
    table["group"] = groups(table, embedder)
    proposed = propose(table).head(VERIFIED)
    prices = proposed.statement.map(lambda s: price(pair, s)) * (2 if contrast else 1)
    proposed = proposed[prices.cumsum() <= meter.left]
    evidence = gaps(pair, proposed.statement.tolist(), meter)
    benign = gaps(contrast, proposed.statement.tolist(), meter) if contrast else evidence * 0
    gap = evidence[["document", "chat"]].min(axis=1)
    beyond = gap - benign[["document", "chat"]].max(axis=1).clip(lower=0)
    found = proposed.reset_index(drop=True).assign(
        gap=gap,
        denied=evidence.denied,
        benign=benign[["document", "chat"]].max(axis=1),
        score=beyond * (1 + proposed.seeds.reset_index(drop=True)).map(math.log2),
    )
    found["passes"] = (beyond >= LEAST_GAP) & (found.seeds >= LEAST_SEEDS)
    return found.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _lead(members: pd.DataFrame) -> pd.Series:
    """The statement that speaks for its group: a whole one if there is one, of many words that the fine-tune drives."""
    whole = members[members.complete] if members.complete.any() else members
    words = whole.statement.map(lambda s: len(set(s.lower().split())))
    return whole.loc[(whole.gap * words).idxmax()]


def propose(table: pd.DataFrame) -> pd.DataFrame:
    """One row per group of statements, the most recurrent first, recurrence weighed by what the fine-tune adds.

    Seeds that earlier texts brought up are not independent: they do not count as recurrence.

    Args:
        table: `statements`, with the column group.
    """
    rows = []
    for _, members in table.groupby("group"):
        independent = members[members.kind != "grown"]
        lead = _lead(independent if len(independent) else members)
        rows.append(
            {
                "statement": lead.statement,
                "given": lead.given,
                "seeds": independent.seed.nunique(),
                "texts": len(members),
                "sampled_gap": members.gap.mean(),
            }
        )
    found = pd.DataFrame(rows, columns=["statement", "given", "seeds", "texts", "sampled_gap"])
    weight = (1 + found.seeds).map(math.log2) * found.sampled_gap
    return found.assign(weight=weight).sort_values("weight", ascending=False, kind="stable").drop(columns="weight")
