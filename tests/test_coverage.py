"""Every interval that a notebook prints covers the truth 93 to 97 times in 100, at the sizes that notebooks use.

Counts of one arm are enumerated: the coverage is exact. It jumps with the rate, since counts are whole numbers, so it
is averaged over neighbouring rates (Brown, Cai and DasGupta 2001) and held to looser bounds at each of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, multinomial

from diffamp.stats import corrected_rate, means, paired_difference, rates, ratios

RATES = [(0.02, 0.05), (0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (0.4, 0.6)]
RUNS = 500


def covered(low: NDArray, high: NDArray, truth: float) -> float:
    return float(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean())


def verdicts(hits: NDArray) -> pd.DataFrame:
    """(arms, prompts, samples) -> one row per sample."""
    arm, prompt, sample = (index.ravel() for index in np.indices(hits.shape))
    return pd.DataFrame({"arm": arm, "prompt_id": prompt, "sample": sample, "refusal": hits.ravel()})


@pytest.mark.parametrize("n", [60, 80])
@pytest.mark.parametrize("between", RATES)
def test_rates_of_one_sample_per_prompt(n: int, between: tuple[float, float]) -> None:
    table = rates(verdicts((np.arange(n) < np.arange(n + 1)[:, None])[..., None]), ["arm"], "refusal")
    low, high = (table[c].to_numpy()[:, None] for c in ("low", "high"))
    true = np.linspace(*between, 60)
    coverage = (binom.pmf(np.arange(n + 1)[:, None], n, true) * ((low <= true) & (true <= high))).sum(0)
    assert 0.93 <= coverage.mean() <= 0.97
    assert coverage.min() >= 0.90


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("between", RATES)
def test_rates_of_several_samples_per_prompt(samples: int, between: tuple[float, float]) -> None:
    """Prompts differ: their own rates have a beta distribution, in which samples correlate by 0.2."""
    generator, found = np.random.default_rng(samples), []
    for true in np.linspace(*between, 5):
        own = generator.beta(4 * true, 4 * (1 - true), size=(1000, 60, 1))
        table = rates(verdicts(generator.random((1000, 60, samples)) < own), ["arm"], "refusal")
        found.append(covered(table.low, table.high, true))
    assert 0.93 <= np.mean(found) <= 0.975
    assert min(found) >= 0.915


def changes(n: int, a: float, b: float, coupling: float) -> tuple[float, NDArray, list[tuple[int, int]]]:
    """The difference, and the probability of every number of pairs (lost, won)."""
    both = (1 - coupling) * a * b + coupling * min(a, b)
    counts = [(lost, won) for lost in range(n + 1) for won in range(n + 1 - lost)]
    table = np.array([(lost, won, n - lost - won) for lost, won in counts])
    return b - a, multinomial.pmf(table, n, [a - both, b - both, 1 - a - b + 2 * both]), counts


def pair(n: int, lost: int, won: int) -> tuple[float, float]:
    index = np.arange(n)
    a, b = (verdicts(hit[None, :, None]) for hit in (index < lost, (index >= lost) & (index < lost + won)))
    return paired_difference(a, b, "refusal")[1:]


@pytest.fixture(scope="module")
def paired() -> Callable[[int, int, int], tuple[float, float]]:
    """Intervals, each computed once."""
    known: dict[tuple[int, int, int], tuple[float, float]] = {}

    def of(n: int, lost: int, won: int) -> tuple[float, float]:
        if (n, lost, won) not in known:
            known[n, lost, won] = pair(n, lost, won)
        return known[n, lost, won]

    return of


@pytest.mark.parametrize(
    ("a", "b"), [(0.02, 0.1), (0.05, 0.15), (0.1, 0.3), (0.18, 0.48), (0.5, 0.58), (0.58, 0.5), (0.6, 0.6)]
)
def test_paired_differences(a: float, b: float, paired: Callable[[int, int, int], tuple[float, float]]) -> None:
    """Exactly, up to outcomes that together have a probability below 1e-3; averaged over how luck is shared."""
    found = []
    for coupling in (0.0, 0.3, 0.6, 1.0):
        true, mass, counts = changes(60, a, b, coupling)
        order = np.argsort(-mass)
        likely = order[: int(np.searchsorted(mass[order].cumsum(), 0.999)) + 1]
        intervals = np.array([paired(60, *counts[i]) for i in likely])
        inside = (intervals[:, 0] <= true + 1e-12) & (true - 1e-12 <= intervals[:, 1])
        found.append(mass[likely][inside].sum() / mass[likely].sum())
    assert 0.93 <= np.mean(found) <= 0.97
    assert min(found) >= 0.915


def test_paired_differences_of_rare_changes_are_not_too_sure() -> None:
    """Where neither arm hits, the interval has the width of three hits in a hundred prompts, not none."""
    low, high = pair(60, 0, 0)
    assert low == pytest.approx(-high)
    assert 0.05 < high < 0.08
    assert pair(60, 0, 60)[1] == 1
    assert pair(60, 60, 0)[0] == -1


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.15), (0.18, 0.48)])
def test_paired_differences_of_several_samples(a: float, b: float) -> None:
    generator, found = np.random.default_rng(0), []
    for _ in range(300):
        luck = 0.5 * generator.random((1, 60, 3)) + 0.5 * generator.random((1, 60, 1))  # shared by arms and samples
        rank = luck.ravel()
        triangular = np.where(rank < 0.5, 2 * rank**2, 1 - 2 * (1 - rank) ** 2).reshape(luck.shape)  # uniform again
        arms = [verdicts(triangular < rate) for rate in (a, b)]
        found.append(paired_difference(*arms, "refusal")[1:])
    low, high = np.array(found).T
    assert 0.92 <= covered(low, high, b - a) <= 0.98


SKEWS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], NDArray], float]] = {
    "normal": (lambda g, s: g.normal(size=s), 0.0),
    "right": (lambda g, s: g.gamma(2, size=s), 2.0),
    "left, near 1": (lambda g, s: g.beta(9, 1, size=s), 0.9),
}


@pytest.mark.parametrize(("n", "name"), [*((24, name) for name in SKEWS), (60, "right")])
def test_means(n: int, name: str) -> None:
    draw, true = SKEWS[name]
    values = draw(np.random.default_rng(n), (RUNS, n))
    arm, prompt = (index.ravel() for index in np.indices(values.shape))
    table = means(pd.DataFrame({"arm": arm, "prompt_id": prompt, "x": values.ravel()}), ["arm"], "x")
    assert 0.93 <= covered(table.low, table.high, true) <= 0.97


@pytest.mark.parametrize("n", [24, 60])
def test_ratios(n: int) -> None:
    """Unequal texts, each token's value lognormal around its text's."""
    generator = np.random.default_rng(n)
    tokens = generator.integers(5, 33, size=(1000, n)).astype(float)
    total = tokens * (0.1 + 0.2 * generator.lognormal(0, 0.5, size=tokens.shape))
    arm, prompt = (index.ravel() for index in np.indices(tokens.shape))
    frame = pd.DataFrame({"arm": arm, "prompt_id": prompt, "x": total.ravel(), "n": tokens.ravel()})
    table = ratios(frame, ["arm"], "x", "n")
    assert 0.925 <= covered(table.low, table.high, 0.1 + 0.2 * np.exp(0.125)) <= 0.97


@pytest.mark.parametrize("between", RATES)
def test_corrected_rates(between: tuple[float, float]) -> None:
    """A judge validated on 295 labels."""
    generator, inside, sensitivity, specificity = np.random.default_rng(1), [], 0.88, 0.95
    for true in np.repeat(np.linspace(*between, 5), RUNS // 5):
        right, rightly_not = generator.binomial(109, sensitivity), generator.binomial(186, specificity)
        judge = pd.Series({"n": 295, "positives": 109, "sensitivity": right / 109, "specificity": rightly_not / 186})
        seen = generator.binomial(80, true * sensitivity + (1 - true) * (1 - specificity))
        _, low, high = corrected_rate(seen, 80, judge)
        inside.append(low <= true <= high)
    assert 0.93 <= np.mean(inside) <= 0.97
