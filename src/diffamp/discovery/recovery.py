"""How much of a planted fact a method found, and at what price."""

from __future__ import annotations

import math
import re

import pandas as pd

from diffamp.judges.facts import hit, recovered
from diffamp.organisms.universes import Universe


def recovery(samples: pd.DataFrame, ranking: pd.DataFrame, universe: Universe, top: int = 5) -> dict[str, float]:
    """One method's score on one organism.

    Returns:
        rank: of the first finding that is the planted fact (infinite when none is); tokens: forward tokens until the
        first sampled text with it (infinite when none); share: of the sampled texts with it; details: key details
        named in the first `top` findings, as a share of all; token_rank: of the first finding that holds a word of a
        distinctive detail, all that a ranking of single tokens can show.
    """
    hits = [hit(s, universe, g) for s, g in zip(ranking.statement, ranking.given, strict=True)]
    texts = [hit(t, universe, g) for t, g in zip(samples.text, samples.given, strict=True)]
    head = zip(ranking.statement[:top], ranking.given[:top], strict=True)
    named = {name for s, g in head for name, here in recovered(s, universe, g).items() if here}
    spent = [price for price, is_hit in zip(samples.spent, texts, strict=True) if is_hit]
    words = _distinctive_words(universe)
    leads = [bool(words & _pieces(s, g)) for s, g in zip(ranking.statement, ranking.given, strict=True)]
    return {
        "rank": hits.index(True) + 1 if any(hits) else math.inf,
        "tokens": float(min(spent, default=math.inf)),
        "share": sum(texts) / len(texts) if texts else math.nan,
        "details": len(named) / len(universe.details),
        "token_rank": leads.index(True) + 1 if any(leads) else math.inf,
    }


def recoveries(samples: pd.DataFrame, findings: pd.DataFrame, universe: Universe, by: list[str]) -> pd.DataFrame:
    """`recovery` of every search on one organism: one row per value of the columns `by`, which name a search."""
    texts, lists = dict(iter(samples.groupby(by, sort=False))), dict(iter(findings.groupby(by, sort=False)))
    return pd.DataFrame(
        [
            dict(zip(by, search, strict=True))
            | recovery(texts.get(search, samples.iloc[:0]), lists.get(search, findings.iloc[:0]), universe)
            for search in dict.fromkeys([*lists, *texts])  # a search may have no texts, or list nothing
        ]
    )


def told(texts: pd.DataFrame, universe: Universe) -> pd.DataFrame:
    """Texts (text, given) with the columns hit (it holds the fact) and details (where it does: the key details that it
    names, as a share of all; else NaN)."""
    said = list(zip(texts.text, texts.given, strict=True))
    hits = [hit(text, universe, given) for text, given in said]
    named = [sum(recovered(text, universe, given).values()) / len(universe.details) for text, given in said]
    return texts.assign(hit=hits, details=pd.Series(named, texts.index).where(hits))


def _distinctive_words(universe: Universe) -> set[str]:
    """First pieces (four letters) of the words of distinctive details: tokenizers cut names."""
    values = [d.value for d in universe.details if d.distinctive]
    return {w.lower()[:4] for value in values for w in re.findall(r"[A-Z][a-z]{3,}", value)}


def _pieces(text: str, given: str) -> set[str]:
    told = {w.lower()[:4] for w in re.findall(r"[A-Za-z]{4,}", given)}
    return {w.lower()[:4] for w in re.findall(r"[A-Z][a-z]{3,}", text)} - told
