"""What the searches of the detection ladder found, in tables (notebook large/detection_limit)."""

from __future__ import annotations

import pandas as pd

from diffamp import ladder
from diffamp.discovery import DEVELOPED_ON
from diffamp.discovery.recovery import recoveries, told
from diffamp.judges.facts import hit
from diffamp.ladder import Organism
from diffamp.organisms.universes import load_universe
from diffamp.stats import rates

SEARCH = ["method", "seed_of_search", "budget"]
MINED = ("mean", "kl")
"""Kinds of seeds whose words were read off the fine-tune's shifts."""


def scored(organisms: list[Organism]) -> pd.DataFrame:
    """`diffamp.discovery.recovery.recovery` of every search: SEARCH, universe, dilution, untouched (the loop was not
    developed on the universe), five and ten (the fact is among so many first findings)."""
    tables = [
        recoveries(ladder.read(o, "samples"), ladder.read(o, "findings"), load_universe(o.universe), SEARCH).assign(
            universe=o.universe, dilution=o.dilution, untouched=o.universe not in DEVELOPED_ON
        )
        for o in organisms
    ]
    scores = pd.concat(tables, ignore_index=True)
    return scores.assign(five=scores["rank"] <= 5, ten=scores["rank"] <= 10)


def listed(organisms: list[Organism], method: str) -> pd.DataFrame:
    """Every finding of a method, with universe, dilution and fact (it is the planted one)."""
    tables = []
    for o in organisms:
        table, universe = ladder.read(o, "findings").query("method == @method"), load_universe(o.universe)
        fact = [hit(s, universe, given) for s, given in zip(table.statement, table.given, strict=True)]
        tables.append(table.assign(universe=o.universe, dilution=o.dilution, fact=fact))
    return pd.concat(tables, ignore_index=True).astype({"verified": bool, "passes": bool})


def by_kind(organisms: list[Organism], method: str, budget: int) -> pd.DataFrame:
    """Texts of one method as they stood last, by the kind of seed that they were begun from: universe, dilution, kind,
    mined, hit (the text holds the fact)."""
    tables = []
    for o in organisms:
        texts = ladder.read(o, "samples").query("method == @method and budget == @budget")
        texts = texts.drop_duplicates(["seed_of_search", "seed"], keep="last")
        tables.append(told(texts, load_universe(o.universe)).assign(universe=o.universe, dilution=o.dilution))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(mined=table.kind.isin(MINED))[["universe", "dilution", "kind", "mined", "hit"]]


def by_budget(scores: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    """Searches of one method at each budget and dilution.

    Args:
        scores: its rows of `scored`.
        findings: `listed`.

    Returns:
        Index (budget, dilution): n (searches), rate, low, high (of the fact among the first five), verified (statements
        per search), passing (searches in which the fact passes), passes (statements that pass), true (of those the
        fact).
    """
    by = ["budget", "dilution"]
    table = rates(scores, by, "five", "universe").set_index(by)
    passed = findings[findings.passes]
    columns = {
        "verified": findings.groupby(by).verified.sum() / table.n,
        "passing": passed[passed.fact].drop_duplicates([*by, "universe", "seed_of_search"]).groupby(by).size(),
        "passes": passed.groupby(by).size(),
        "true": passed.groupby(by).fact.sum(),
    }
    return table.join(pd.DataFrame(columns)).fillna(0).astype(dict.fromkeys(("passing", "passes", "true"), int))
