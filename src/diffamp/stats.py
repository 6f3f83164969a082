"""Rates with intervals, differences clustered by prompt, agreement between judges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95


def rates(frame: pd.DataFrame, by: Sequence[str], column: str) -> pd.DataFrame:
    """Share of rows with `column` true in each group: n, count, rate, low, high (95 % Wilson interval).

    The interval takes rows as independent: use it with one sample per prompt and group.
    """
    table = frame.groupby(list(by), observed=True)[column].agg(n="size", count="sum").reset_index()
    low, high = proportion_confint(table["count"], table.n, alpha=1 - LEVEL, method="wilson")
    return table.assign(rate=table["count"] / table.n, low=low, high=high)


def means(
    frame: pd.DataFrame, by: Sequence[str], column: str, cluster: str = "prompt_id", seed: int = 0
) -> pd.DataFrame:
    """Mean of `column` in each group: n, mean, low, high (95 % bootstrap over clusters)."""
    rows = []
    for key, group in frame.groupby(list(by), observed=True):
        draws = _resampled(group.groupby(cluster, observed=True)[column].agg(["sum", "size"]), seed)
        low, high = _interval(draws)
        rows.append((*key, len(group), group[column].mean(), low, high))
    return pd.DataFrame(rows, columns=[*by, "n", "mean", "low", "high"])


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, column: str, cluster: str = "prompt_id", seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `column` in b minus in a, rows matched by prompt and sample: difference, low, high.

    95 % bootstrap over prompts: samples of one prompt, and the coupled noise of a pair, are not independent.
    """
    keys = [cluster, "sample"]
    both = a.set_index(keys)[[column]].join(b.set_index(keys)[[column]], lsuffix="_a", rsuffix="_b", how="inner")
    gap = both[f"{column}_b"].astype(float) - both[f"{column}_a"].astype(float)
    low, high = _interval(_resampled(gap.groupby(level=0).agg(["sum", "size"]), seed))
    return float(gap.mean()), low, high


def agreement(a: pd.Series, b: pd.Series) -> tuple[float, float]:
    """Share of rows on which two judges agree, and Cohen's kappa."""
    return float((a == b).mean()), float(cohen_kappa_score(a, b))


def percent(rate: float, low: float, high: float) -> str:
    """`23 % [16, 32]`."""
    return f"{100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _resampled(clusters: pd.DataFrame, seed: int, draws: int = 4000) -> np.ndarray:
    """Means of resampled clusters (ratio of sums, so clusters may differ in size)."""
    totals, sizes = clusters["sum"].to_numpy(float), clusters["size"].to_numpy(float)
    chosen = np.random.default_rng(seed).integers(len(totals), size=(draws, len(totals)))
    return totals[chosen].sum(1) / sizes[chosen].sum(1)


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return float(low), float(high)
