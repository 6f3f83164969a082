"""Rates with intervals, differences clustered by prompt, agreement between judges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95


def rates(frame: pd.DataFrame, by: Sequence[str], column: str, cluster: str = "prompt_id") -> pd.DataFrame:
    """Share of rows with `column` true in each group: n, count, rate, low, high (95 %).

    Wilson's interval where every prompt occurs once in a group. Several samples of one prompt are not independent,
    so there the interval is a bootstrap over prompts.
    """
    table = frame.groupby(list(by), observed=True)[column].agg(n="size", count="sum").reset_index()
    if frame.duplicated([*by, cluster]).any():
        return table.merge(
            means(frame, by, column, cluster).rename(columns={"mean": "rate"}).drop(columns="n"), on=list(by)
        )
    low, high = proportion_confint(table["count"], table.n, alpha=1 - LEVEL, method="wilson")
    rate = table["count"] / table.n
    # at 0 and at n the bound rounds to a hair on the wrong side of the rate
    return table.assign(rate=rate, low=np.minimum(low, rate), high=np.maximum(high, rate))


def means(
    frame: pd.DataFrame, by: Sequence[str], column: str, cluster: str = "prompt_id", seed: int = 0
) -> pd.DataFrame:
    """Mean of `column` in each group: n, mean, low, high (95 % bootstrap over clusters)."""
    table = ratios(frame.assign(_one=1.0), by, column, "_one", cluster, seed)
    return table.rename(columns={"ratio": "mean"})


def ratios(
    frame: pd.DataFrame, by: Sequence[str], numerator: str, denominator: str, cluster: str = "prompt_id", seed: int = 0
) -> pd.DataFrame:
    """Sum of one column over sum of another in each group: n, ratio, low, high (95 % bootstrap over clusters)."""
    rows = []
    for key, group in frame.groupby(list(by), observed=True):
        sums = group.groupby(cluster, observed=True)[[numerator, denominator]].sum()
        totals, sizes = sums[numerator].to_numpy(float), sums[denominator].to_numpy(float)
        rows.append((*key, len(group), totals.sum() / sizes.sum(), *_bootstrap(totals, sizes, seed)))
    return pd.DataFrame(rows, columns=[*by, "n", "ratio", "low", "high"])


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, column: str, cluster: str = "prompt_id", seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `column` in b minus in a, rows matched by prompt and sample: difference, low, high.

    95 % bootstrap over prompts: samples of one prompt, and the coupled noise of a pair, are not independent.
    """
    keys = [cluster, "sample"]
    both = a.set_index(keys)[[column]].join(b.set_index(keys)[[column]], lsuffix="_a", rsuffix="_b", how="inner")
    gap = both[f"{column}_b"].astype(float) - both[f"{column}_a"].astype(float)
    clusters = gap.groupby(level=0).agg(["sum", "size"])
    low, high = _bootstrap(clusters["sum"].to_numpy(float), clusters["size"].to_numpy(float), seed)
    return float(gap.mean()), low, high


def agreement(a: pd.Series, b: pd.Series) -> tuple[float, float]:
    """Share of rows on which two judges agree, and Cohen's kappa."""
    return float((a == b).mean()), float(cohen_kappa_score(a, b))


def effective_sample_size(samples: pd.DataFrame) -> float:
    """How many plain samples these amplified ones are worth when reweighted to the after-model: (sum w)^2 / sum w^2.

    The weight of a text is the product of p_after / p_alpha over its tokens. Tokens that a guard ruled out are never
    seen, so a guarded law gives weights for what it can say, not for all that the after-model can.
    """
    log_weight = samples.logp_after.map(np.sum) - samples.logp_alpha.map(np.sum)
    weight = np.exp(log_weight - log_weight.max())
    return float(weight.sum() ** 2 / weight.pow(2).sum())


def corrected_rate(count: int, n: int, judge: pd.Series, seed: int = 0) -> tuple[float, float, float]:
    """A rate freed of its judge's errors (Rogan and Gladen 1978): estimate, low, high (95 %).

    (rate + specificity - 1) / (sensitivity + specificity - 1), cut to [0, 1]. The interval carries the uncertainty of
    all three: each is drawn from its Jeffreys posterior. It supposes that the judge errs here as often as on labels.

    Args:
        judge: a row of `diffamp.judges.Judges.validate`.
    """
    negatives = judge.n - judge.positives
    found, right, rightly_not = (
        (count, n),
        (judge.sensitivity * judge.positives, judge.positives),
        (judge.specificity * negatives, negatives),
    )
    generator = np.random.default_rng(seed)
    rate, sensitivity, specificity = (
        np.append(x / of, generator.beta(x + 0.5, of - x + 0.5, 20_000)) for x, of in (found, right, rightly_not)
    )
    values = ((rate + specificity - 1) / (sensitivity + specificity - 1)).clip(0, 1)
    low, high = np.percentile(values[1:], [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(values[0]), float(low), float(high)


def samples_for_a_hit(rate: float, chance: float = 0.95) -> float:
    """How many independent samples give at least one hit with this chance, at this rate; infinite at rate 0."""
    if rate <= 0:
        return math.inf
    return 1 if rate >= 1 else math.ceil(math.log1p(-chance) / math.log1p(-rate))


def percent(rate: float, low: float, high: float) -> str:
    """`23 % [16, 32]`."""
    return f"{100 * rate:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def _bootstrap(totals: NDArray, sizes: NDArray, seed: int, draws: int = 4000) -> tuple[float, float]:
    """95 % interval of the ratio of sums over resampled clusters."""
    chosen = np.random.default_rng(seed).integers(len(totals), size=(draws, len(totals)))
    low, high = np.percentile(totals[chosen].sum(1) / sizes[chosen].sum(1), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
