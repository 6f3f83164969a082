"""Rates with intervals, differences clustered by prompt, agreement between judges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95


def rates(frame: pd.DataFrame, by: Sequence[str], column: str, cluster: str = "prompt_id") -> pd.DataFrame:
    """Share of rows with `column` true in each group: n, count, rate, low, high (95 %).

    Wilson's interval. Several samples of one prompt are not independent: there it is taken at the number of
    independent samples that has the variance seen between prompts, with Student's quantile over the prompts (Korn and
    Graubard 1998; with Wilson's interval: Dean and Pagano 2015). A rate of 0 or 1 counts every prompt once.
    """
    by = list(by)
    table = frame.groupby(by, observed=True)[column].agg(n="size", count="sum").reset_index()
    table["rate"] = table["count"] / table.n
    sums = frame.groupby([*by, cluster], observed=True)[column].agg(size="size", total="sum").reset_index()
    sums = sums.merge(table[[*by, "rate"]], on=by)
    sums["square"] = (sums.total - sums.rate * sums["size"]) ** 2
    spread = sums.groupby(by, observed=True).square.agg(clusters="size", square="sum").reset_index(drop=True)
    k = spread.clusters.to_numpy(float)
    variance = (spread.square / table.n**2).to_numpy() * k / np.maximum(k - 1, 1)
    quantiles = norm.ppf((1 + LEVEL) / 2) / t.ppf((1 + LEVEL) / 2, np.maximum(k - 1, 1))
    p = table.rate.to_numpy()
    seen = np.where(variance > 0, p * (1 - p) / np.where(variance > 0, variance, 1), k).clip(1, table.n)
    effective = np.where(k == table.n, table.n, seen * quantiles**2)
    low, high = proportion_confint(p * effective, effective, alpha=1 - LEVEL, method="wilson")
    # at 0 and at n the bound rounds to a hair on the wrong side of the rate
    return table.assign(low=np.minimum(low, p), high=np.maximum(high, p))


def means(
    frame: pd.DataFrame, by: Sequence[str], column: str, cluster: str = "prompt_id", seed: int = 0
) -> pd.DataFrame:
    """Mean of `column` in each group: n, mean, low, high (95 % studentised bootstrap over clusters)."""
    table = ratios(frame.assign(_one=1.0), by, column, "_one", cluster, seed)
    return table.rename(columns={"ratio": "mean"})


def ratios(
    frame: pd.DataFrame, by: Sequence[str], numerator: str, denominator: str, cluster: str = "prompt_id", seed: int = 0
) -> pd.DataFrame:
    """Sum of one column over sum of another in each group: n, ratio, low, high (95 %, as in `means`)."""
    rows = []
    for key, group in frame.groupby(list(by), observed=True):
        sums = group.groupby(cluster, observed=True)[[numerator, denominator]].sum()
        totals, sizes = sums[numerator].to_numpy(float), sums[denominator].to_numpy(float)
        rows.append((*key, len(group), totals.sum() / sizes.sum(), *_studentised(totals, sizes, seed)))
    return pd.DataFrame(rows, columns=[*by, "n", "ratio", "low", "high"])


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, column: str, cluster: str = "prompt_id", seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `column` in b minus in a, rows matched by prompt and sample: difference, low, high (95 %).

    Verdicts on one sample per prompt: Tango's score interval for paired proportions (1998). Otherwise a studentised
    bootstrap over prompts: samples of one prompt, and the coupled noise of a pair, are not independent.
    """
    keys = [cluster, "sample"]
    both = a.set_index(keys)[[column]].join(b.set_index(keys)[[column]], lsuffix="_a", rsuffix="_b", how="inner")
    if both.empty:
        raise ValueError("no row of one table has the prompt and sample of a row of the other: nothing to pair")
    gap = both[f"{column}_b"].astype(float) - both[f"{column}_a"].astype(float)
    clusters = gap.groupby(level=0).agg(["sum", "size"])
    each = (clusters["sum"] / clusters["size"]).to_numpy()
    if np.isin(each, (-1.0, 0.0, 1.0)).all() and (len(gap) == len(each) or np.ptp(each) == 0):
        return float(gap.mean()), *_tango(int((each < 0).sum()), int((each > 0).sum()), len(each))
    low, high = _studentised(clusters["sum"].to_numpy(float), clusters["size"].to_numpy(float), seed)
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


def _studentised(totals: NDArray, sizes: NDArray, seed: int, draws: int = 4000) -> tuple[float, float]:
    """95 % bootstrap-t interval (Efron and Tibshirani 1993, section 12.5) of a ratio of sums over clusters.

    Both ends are where the ratio would lie as many of its standard errors away as resampled ratios do from it: a skew
    of the clusters makes the interval lopsided, where percentiles of resampled ratios lean to the wrong side. NaN for a
    single cluster.
    """
    n = len(totals)

    def studied(totals: NDArray, sizes: NDArray) -> tuple[NDArray, NDArray]:
        ratio = totals.sum(-1) / sizes.sum(-1)
        square = ((totals - ratio[..., None] * sizes) ** 2).sum(-1)
        return ratio, np.sqrt(square * n / (n - 1)) / np.abs(sizes.sum(-1))

    if n < 2:
        return math.nan, math.nan
    ratio, error = studied(totals, sizes)
    if error <= 1e-12 * abs(ratio):  # all clusters alike
        return float(ratio), float(ratio)
    chosen = np.random.default_rng(seed).integers(n, size=(draws, n))
    ratios_drawn, errors = studied(totals[chosen], sizes[chosen])
    distance = (ratios_drawn - ratio)[errors > 0] / errors[errors > 0]
    below, above = np.percentile(distance, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(ratio - above * error), float(ratio - below * error)


def _tango(lost: int, won: int, n: int) -> tuple[float, float]:
    """95 % score interval of a difference of paired proportions, from the pairs that changed (Tango 1998)."""
    z, gap = norm.ppf((1 + LEVEL) / 2), (won - lost) / n

    def score(difference: float) -> float:
        b = (2 * n - won + lost) * difference - won - lost
        root = math.sqrt(max(b * b + 8 * n * lost * difference * (1 - difference), 0.0))
        variance = n * ((root - b) / (2 * n) + difference * (1 - difference))
        return float((won - lost - n * difference) / math.sqrt(variance))

    edge = 1 - 1e-9  # at -1 and 1 the variance vanishes
    low = -1.0 if gap <= -edge else float(brentq(lambda d: score(d) - z, -edge, gap - 1e-9))
    high = 1.0 if gap >= edge else float(brentq(lambda d: score(d) + z, gap + 1e-9, edge))
    return low, high
