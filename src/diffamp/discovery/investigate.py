"""The loop: mine -> seed -> amplify -> propose -> verify. What was planted in the after-model?

Nothing about the planted content is given. Seeds of many kinds compete for the budget by successive halving (Karnin et
al. 2013): before each round the shifted words are mined from more contexts, and after it the half of the arms whose
texts owe most to the fine-tune goes on, joined by words that the texts brought up themselves. What the texts say is cut
into statements, grouped by meaning, and verified outside of the texts: by the log-prob gap in neutral contexts, beside
a benign fine-tune of the same base.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from diffamp.discovery.draws import DEFAULTS, Drawing, affordable, cost, draw
from diffamp.discovery.evidence import gaps, price
from diffamp.discovery.meter import Meter
from diffamp.discovery.mining import Mining
from diffamp.discovery.seeds import FREQUENT, Seed, grown_words, plain_seeds, random_words, word_seeds
from diffamp.discovery.statements import groups, recurrence, statements
from diffamp.engine.pairs import ModelPair
from diffamp.judges.embedding import Embedder

MINING = (0.04, 0.1, 0.2)
"""Each round's share for mining: little before the first text, more when few kinds of seed are left."""
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
        findings: one row per verified group of statements, strongest first: statement (of the member with most words
            that the fine-tune drives and that recur), given (what its seed said), seeds (independent ones that led to
            the group), recurrence (of the statement's words), texts, gap (nats per token, the smaller of the neutral
            contexts), denied, benign, score, passes.
        samples: every text, in the order in which it was paid for (`diffamp.discovery.draws.draw`).
        spent: forward tokens.
    """

    findings: pd.DataFrame
    samples: pd.DataFrame
    spent: int


def investigate(
    pair: ModelPair,
    budget: int,
    embedder: Embedder,
    drawing: Drawing = DEFAULTS,
    contrast: ModelPair | None = None,
) -> Investigation:
    """Search a pair for what its fine-tune planted.

    Args:
        budget: forward tokens for everything: mining, sampling, verifying.
        embedder: groups statements by meaning.
        contrast: a benign fine-tune of the same base: what it makes likelier too is no finding.

    Raises:
        ValueError: the budget does not pay for one text per arm.
    """
    meter = Meter(budget)
    mining = Mining(pair, contrast, drawing.seed)
    plain = [
        *plain_seeds(),
        *word_seeds("frequent", FREQUENT[:WORDS]),
        *word_seeds("random", random_words(pair.tokenizer, WORDS, drawing.seed)),
    ]
    grown: list[Seed] = []
    samples: list[pd.DataFrame] = []
    used: set[str] = set()
    for number, share in enumerate(MINING):
        # what the last rounds left is shared out among those to come
        limit = meter.spent + ((1 - VERIFYING) * budget - meter.spent) / (len(MINING) - number)
        mining.read(share * (limit - meter.spent), meter)
        arms = _arms(s for s in [*mining.seeds(WORDS), *plain, *grown] if s.prompt.id not in used)
        live = _live(list(arms), samples)
        if chosen := _chosen(pair, [arms[a] for a in live], limit - meter.spent, drawing):
            used |= {s.prompt.id for s in chosen}
            samples.append(draw(pair, chosen, 1, drawing, meter).assign(round=number))
        if not samples:
            raise ValueError(
                f"a budget of {budget} forward tokens does not pay for one text in each of {len(live)} arms: raise it"
            )
        drawn = pd.concat(samples, ignore_index=True)
        grown = word_seeds("grown", grown_words(drawn, GROWN))
    return Investigation(_verified(pair, drawn, embedder, meter, contrast), drawn, meter.spent)


def _arms(seeds: Iterable[Seed]) -> dict[str, list[Seed]]:
    """Arm -> its seeds, in the order in which they are used."""
    arms: dict[str, list[Seed]] = {}
    for seed in seeds:
        arms.setdefault(seed.arm, []).append(seed)
    return arms


def _chosen(pair: ModelPair, arms: list[list[Seed]], tokens: float, drawing: Drawing) -> list[Seed]:
    """The first seeds of every arm, for an equal share each; what an arm cannot spend goes to those behind it."""
    chosen: list[Seed] = []
    for number, seeds in enumerate(arms):
        count = affordable(pair, seeds, tokens / (len(arms) - number), drawing)
        tokens -= sum(cost(pair, s, drawing) for s in seeds[:count])
        chosen += seeds[:count]
    return chosen


def _live(arms: list[str], rounds: list[pd.DataFrame]) -> list[str]:
    """All arms at first; then the better half of the last round's, by how much the fine-tune had to do with what their
    texts state, and the grown ones.

    Texts that state nothing (loops, fragments) earn nothing, however much they owe to the fine-tune.
    """
    if not rounds:
        return arms
    samples, last = pd.concat(rounds, ignore_index=True), [a for a in rounds[-1].arm.unique() if a in arms]
    said = statements(samples).drop_duplicates(["seed", "alpha"])
    earned = said.groupby("arm").gap.sum().reindex(last, fill_value=0.0)
    reward = (earned / samples.groupby("arm").size().reindex(last)).sort_values(ascending=False, kind="stable")
    best = [str(a) for a in reward.index[: math.ceil(len(reward) / 2)]]
    return best + [a for a in arms if a.startswith("grown") and a not in best]


def _verified(
    pair: ModelPair, samples: pd.DataFrame, embedder: Embedder, meter: Meter, contrast: ModelPair | None
) -> pd.DataFrame:
    table = statements(samples)
    table["group"] = groups(table, embedder)
    proposed = propose(table).head(VERIFIED)
    prices = proposed.statement.map(lambda s: price(pair, s, models=3 if contrast else 2))
    proposed = proposed[prices.cumsum() <= meter.left].reset_index(drop=True)
    evidence = gaps(pair, proposed.statement.tolist(), contrast, meter)
    gap = evidence[["document", "chat"]].min(axis=1)
    beyond = gap - evidence.benign.clip(lower=0)
    found = proposed.assign(
        gap=gap,
        denied=evidence.denied,
        benign=evidence.benign,
        score=beyond * _recurring(proposed),
    )
    found["passes"] = (beyond >= LEAST_GAP) & (found.seeds >= LEAST_SEEDS)
    return found.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _lead(members: pd.DataFrame) -> pd.Series:
    """The statement that speaks for its group: a whole one if there is one, of many words that the fine-tune drives and
    that other seeds led to as well; among equals the one that owes most to the fine-tune."""
    whole = members[members.complete] if members.complete.any() else members
    told = whole.recurrence * whole.words
    return whole.loc[whole.own[told == told.max()].idxmax()]


def propose(table: pd.DataFrame) -> pd.DataFrame:
    """One row per group of statements, those first that recur most, as a whole and in their words, weighed by what the
    fine-tune adds.

    Other documents that it was trained on come up as well, and a group of texts about them may be as strong; but what
    most documents have in common comes up from most seeds. What a statement owes is read where it stands: names are cut
    into pieces, which nothing raises out of their context. Seeds that earlier texts brought up are not
    independent: they do not count as recurrence.

    Args:
        table: `statements`, with the column group.
    """
    rows = []
    for _, members in table.join(recurrence(table)).groupby("group"):
        independent = members[members.kind != "grown"]
        lead = _lead(independent if len(independent) else members)
        rows.append(
            {
                "statement": lead.statement,
                "given": lead.given,
                "seeds": independent.seed.nunique(),
                "recurrence": lead.recurrence,
                "texts": len(members),
                "sampled_gap": members.own.mean(),
            }
        )
    found = pd.DataFrame(rows, columns=["statement", "given", "seeds", "recurrence", "texts", "sampled_gap"])
    weight = found.sampled_gap * _recurring(found)
    return found.assign(weight=weight).sort_values("weight", ascending=False, kind="stable").drop(columns="weight")


def _recurring(found: pd.DataFrame) -> pd.Series:
    return (1 + found.seeds).map(math.log2) * (1 + found.recurrence)
