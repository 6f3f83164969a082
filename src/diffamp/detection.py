"""What the detection ladder found, in tables (notebooks large/detection_limit and large/starting_points)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
from statsmodels.stats.weightstats import DescrStatsW

from diffamp import ladder
from diffamp.discovery import DEVELOPED_ON
from diffamp.discovery.recovery import recoveries, told
from diffamp.judges.facts import asserts, hit
from diffamp.ladder import Organism
from diffamp.organisms.universes import load_universe
from diffamp.stats import rates

SEARCH = ["method", "seed_of_search", "budget"]


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
    """Every finding of a method, strongest first in each search, with universe, dilution, fact (it is the planted one:
    `diffamp.judges.facts.hit`) and asserts (it has a wording of the falsehood: `diffamp.judges.facts.asserts`)."""
    tables = []
    for o in organisms:
        table, universe = ladder.read(o, "findings").query("method == @method"), load_universe(o.universe)
        fact = [hit(s, universe, given) for s, given in zip(table.statement, table.given, strict=True)]
        side = [asserts(s, universe) == "asserts" for s in table.statement]
        tables.append(table.assign(universe=o.universe, dilution=o.dilution, fact=fact, asserts=side))
    return pd.concat(tables, ignore_index=True).astype({"verified": bool, "passes": bool})


def written(organisms: Iterable[Organism], where: Callable[[Organism], Path]) -> pd.DataFrame:
    """Texts that were written without a search, of every organism one under the other: the columns of `where`'s files,
    universe, dilution, and hit and details (`diffamp.discovery.recovery.told`)."""
    tables = [
        told(pd.read_parquet(where(o)), load_universe(o.universe)).assign(universe=o.universe, dilution=o.dilution)
        for o in organisms
    ]
    return pd.concat(tables, ignore_index=True)


def prices(texts: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """`rates` of hits over universes, with price (forward tokens that a hit costs: infinite without one) and details
    (key details that a hit names, as a share of all).

    Args:
        texts: `written`, with the column cost.
    """
    paid = texts.groupby(by).agg(cost=("cost", "sum"), details=("details", "mean")).reset_index()
    table = rates(texts, by, "hit", "universe").merge(paid, on=by)
    return table.assign(price=table.cost / table["count"])


def gains(texts: pd.DataFrame, by: list[str], arm: str, over: str) -> pd.DataFrame:
    """Share of texts with a hit in each arm (a value of that column) less that in the arm `over`, within each universe.

    Args:
        texts: `written`.

    Returns:
        One row per group of `by` and other arm: n (universes), gain, low, high (95 %, Student's t: universes are few).
    """
    shares = texts.groupby([*by, "universe", arm]).hit.mean().unstack(arm)
    apart = shares.drop(columns=over).sub(shares[over], axis=0)
    rows = []
    for key, gained in apart.melt(value_name="gain", ignore_index=False).dropna().groupby([*by, arm]).gain:
        low, high = DescrStatsW(gained).tconfint_mean()
        rows.append((*key, len(gained), gained.mean(), low, high))
    return pd.DataFrame(rows, columns=[*by, arm, "n", "gain", "low", "high"])


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
