"""The unamplified rate of a behaviour from samples of a mixture of amplified laws: estimators and intervals.

Samples of prompt i come from several laws p_j (alphas), a fixed number n_ij from each. Every one of them has the weight
r_0 = p_after / q_i with the mixture q_i = sum_j (n_ij / n_i) p_j (the balance heuristic, Veach and Guibas 1995): with a
share of at least s drawn at alpha 0 no weight exceeds 1 / s (the defensive mixture: Hesterberg 1995; Owen and Zhou
2000). Numbers only: which probabilities a sample has is found out by `diffamp.truerate.mixture`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import gamma

from diffamp.stats import LEVEL

Array = NDArray[np.float64]

FEW = 10
"""Effective hits at which the largest weight seen and the bound on weights count alike for an interval."""


def balance_ratios(log_probs: ArrayLike, shares: Sequence[float]) -> Array:
    """p_j / sum_k share_k p_k for every component j.

    Args:
        log_probs: (..., components) log-probs of each sample under every component, in nats.
        shares: (components,) of the samples drawn from each; they sum to one.

    Returns:
        (..., components), each at most 1 / share_j. The column of alpha 0 is the importance weight.

    Raises:
        ValueError: shares that are not positive or do not sum to one, or a sample that no component can draw.
    """
    log_probs, given = np.asarray(log_probs, float), np.asarray(shares, float)
    if (given <= 0).any() or abs(given.sum() - 1) > 1e-9:
        raise ValueError(f"shares must be positive and sum to 1, got {list(shares)}")
    largest = log_probs.max(-1, keepdims=True)
    if not np.isfinite(largest).all():
        raise ValueError("a sample has probability 0 under every component: its log-probs are of another mixture")
    ratio = np.exp(log_probs - largest)
    return ratio / (ratio @ given)[..., None]


@dataclass(frozen=True)
class Moments:
    """Sums over the samples of each stratum (a prompt and a component) of y, r_0, r_1, ... and of their products.

    y is the weight r_0 of a sample in which the behaviour occurred, 0 of another; r are `balance_ratios`. Leading axes
    are replicates.

    Attributes:
        n: (strata,) samples.
        total: (..., strata, 1 + components).
        product: (..., strata, 1 + components, 1 + components).
        largest: (...) the largest y.
        bound: the most that a y can be, 1 / share of alpha 0.
    """

    n: Array
    total: Array
    product: Array
    largest: Array
    bound: float

    @property
    def samples(self) -> float:
        return float(self.n.sum())

    @classmethod
    def of(cls, stratum: ArrayLike, hit: ArrayLike, ratios: ArrayLike, bound: float) -> Self:
        """From samples.

        Args:
            stratum: (samples,) labels, one for each prompt and component.
            hit: (samples,) whether the behaviour occurred.
            ratios: (samples, components) `balance_ratios`, alpha 0 first.
        """
        ratios = np.asarray(ratios, float)
        y = ratios[:, 0] * np.asarray(hit, bool)
        z = np.column_stack([y, ratios])
        labels, index = np.unique(np.asarray(stratum), return_inverse=True)
        total = np.zeros((len(labels), z.shape[1]))
        product = np.zeros((len(labels), z.shape[1], z.shape[1]))
        np.add.at(total, index, z)
        np.add.at(product, index, z[:, :, None] * z[:, None, :])
        return cls(np.bincount(index).astype(float), total, product, np.asarray(y.max()), bound)

    @property
    def mean(self) -> Array:
        """(..., 1 + components) over all samples."""
        return self.total.sum(-2) / self.samples

    @property
    def covariance(self) -> Array:
        """(..., 1 + components, 1 + components) of `mean`: only the spread within strata counts.

        Strata with a single sample say nothing of their spread; the second moment stands in, which is an upper bound.
        """
        outer = self.total[..., :, None] * self.total[..., None, :]
        n = self.n[:, None, None]
        within = np.where(n > 1, (self.product - outer / n) * n / np.maximum(n - 1, 1), self.product)
        return within.sum(-3) / self.samples**2


def plain(m: Moments) -> tuple[Array, Array]:
    """The mean of y, unbiased, and its variance."""
    return m.mean[..., 0], m.covariance[..., 0, 0]


def self_normalised(m: Moments) -> tuple[Array, Array]:
    """The mean of y over the mean of the weights (a bias of order 1 / n), and its variance by linearisation."""
    mean, covariance = m.mean, m.covariance
    rate = mean[..., 0] / mean[..., 1]
    variance = covariance[..., 0, 0] - 2 * rate * covariance[..., 0, 1] + rate**2 * covariance[..., 1, 1]
    return rate, np.maximum(variance, 0) / mean[..., 1] ** 2


def controlled(m: Moments) -> tuple[Array, Array]:
    """The mean of y, freed by regression of what the components' ratios explain, whose means are known to be 1.

    Control variates of a mixture (Owen and Zhou 2000, section 3): asymptotically never worse than the best of plain
    and self-normalised. One ratio is left out, since the ratios' weighted sum is constant.
    """
    mean, covariance = m.mean, m.covariance
    inner, cross = covariance[..., 1:-1, 1:-1], covariance[..., 1:-1, 0]
    beta = (np.linalg.pinv(inner, hermitian=True) @ cross[..., None])[..., 0]
    rate = mean[..., 0] - (beta * (mean[..., 1:-1] - 1)).sum(-1)
    return rate, np.maximum(covariance[..., 0, 0] - (beta * cross).sum(-1), 0)


Estimator = Callable[[Moments], tuple[Array, Array]]
ESTIMATORS: dict[str, Estimator] = {"plain": plain, "self-normalised": self_normalised, "control variates": controlled}


def effective_hits(m: Moments) -> Array:
    """(sum y)^2 / sum y^2: how many hits of equal weight say as much."""
    square = m.product[..., 0, 0].sum(-1)
    return np.where(square > 0, m.total[..., 0].sum(-1) ** 2 / np.where(square > 0, square, 1), 0.0)


def effective_samples(m: Moments) -> Array:
    """(sum r_0)^2 / sum r_0^2 (Kish 1965): how many samples of the after-model say as much, on average over events."""
    return m.total[..., 1].sum(-1) ** 2 / m.product[..., 1, 1].sum(-1)


def largest_step(m: Moments) -> Array:
    """By how much one hit more could raise the mean of y, for `interval`.

    Between the bound on a weight and the largest one seen, on a logarithmic scale, the nearer to what was seen the more
    hits there were. A few hits say little of the weights that were missed: with the largest seen alone, intervals of
    five effective hits covered 55 to 93 % in simulation instead of 95, with the bound alone those of fifty were half
    again as wide as they need be.
    """
    trust = effective_hits(m) / (effective_hits(m) + FEW)
    seen = np.where(m.largest > 0, m.largest, m.bound)
    return seen**trust * m.bound ** (1 - trust) / m.samples


def interval(rate: ArrayLike, variance: ArrayLike, step: ArrayLike, level: float = LEVEL) -> tuple[Array, Array]:
    """Mid-p gamma interval of a weighted sum of rare counts (Fay and Kim 2017, Biometrical Journal 59, 814-825).

    The sum is taken for a multiple of a Poisson variable with the observed mean and variance; the upper end allows for
    one hit more. With weights of 1 and few hits this is the mid-p Poisson interval; with many hits, the normal one.
    Unlike it, it is never empty: without a hit it ends at 3 steps.

    Args:
        rate: (...) estimate, at least 0.
        variance: (...) of it.
        step: (...) by how much one hit more would raise it: the largest weight over the number of samples.

    Returns:
        low, high: (...).
    """
    rate, variance, step = (np.asarray(x, float) for x in np.broadcast_arrays(rate, variance, step))
    hit = (rate > 0) & (variance > 0)
    mean, spread = np.where(hit, rate, 1), np.where(hit, variance, 1)
    below = gamma(mean**2 / spread, scale=spread / mean)
    above = gamma((rate + step) ** 2 / (variance + step**2), scale=(variance + step**2) / (rate + step))
    tail = (1 - level) / 2
    ends = []
    for p in (tail, 1 - tail):
        low, high = np.zeros_like(rate), above.ppf(1 - tail / 2)
        for _ in range(50):
            middle = (low + high) / 2
            under = (np.where(hit, below.cdf(middle), 1) + above.cdf(middle)) / 2 < p
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        ends.append(high)
    return np.where(hit, ends[0], 0.0), ends[1]


@dataclass(frozen=True)
class Estimate:
    """A rate with its 95 % interval."""

    rate: float
    low: float
    high: float
    samples: int
    hits: int
    effective_hits: float
    effective_samples: float


def estimate(
    stratum: ArrayLike,
    hit: ArrayLike,
    ratios: ArrayLike,
    bound: float,
    *,
    known: float = 0.0,
    by: Estimator = controlled,
) -> Estimate:
    """The after-model's rate, averaged over the prompts that were sampled (equally often each).

    Args:
        stratum, hit, ratios, bound: as for `Moments.of`.
        known: the part of the rate that is computed exactly (`diffamp.truerate.events.outcome_log_probs`), which `hit`
            excludes.
        by: one of `ESTIMATORS`.
    """
    m = Moments.of(stratum, hit, ratios, bound)
    rate, variance = by(m)
    rate = np.maximum(rate, 0)
    low, high = interval(rate, variance, largest_step(m))
    return Estimate(
        float(known + rate), float(known + low), float(known + high), int(m.samples), int(np.sum(hit)),
        float(effective_hits(m)), float(effective_samples(m)),
    )  # fmt: skip
