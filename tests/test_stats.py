"""Intervals: known values, and coverage in simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from diffamp.stages.vector import mild_dose
from diffamp.stats import agreement, corrected_rate, means, paired_difference, percent, rates, ratios, samples_for_a_hit
from diffamp.tables import select, texts_flat


def frame(verdicts: np.ndarray, samples: int = 1) -> pd.DataFrame:
    prompts = np.repeat(np.arange(len(verdicts) // samples), samples)
    return pd.DataFrame(
        {
            "prompt_id": prompts,
            "sample": np.tile(np.arange(samples), len(verdicts) // samples),
            "arm": "a",
            "refusal": verdicts,
        }
    )


def test_wilson_as_in_the_textbook() -> None:
    row = rates(frame(np.arange(10) < 1), ["arm"], "refusal").iloc[0]
    assert (row.n, row["count"], row.rate) == (10, 1, 0.1)
    assert (row.low, row.high) == pytest.approx((0.0179, 0.4042), abs=1e-4)


@pytest.mark.parametrize("rate", [0.03, 0.1, 0.3, 0.5])
def test_wilson_covers_what_it_promises(rate: float) -> None:
    """Exactly: the probability of every count, summed where the interval holds the rate."""
    tables = [rates(frame(np.arange(80) < k), ["arm"], "refusal").iloc[0] for k in range(81)]
    covers = np.array([t.low <= rate <= t.high for t in tables])
    assert 0.93 <= binom.pmf(np.arange(81), 80, rate)[covers].sum() <= 0.98


def test_several_samples_of_a_prompt_are_not_taken_as_independent() -> None:
    generator = np.random.default_rng(0)
    verdicts = np.repeat(generator.random(50) < 0.5, 4)  # four samples that always agree
    clustered = rates(frame(verdicts, samples=4), ["arm"], "refusal").iloc[0]
    single = rates(frame(verdicts[::4]), ["arm"], "refusal").iloc[0]
    assert clustered.rate == single.rate
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, rel=0.15)


def test_paired_difference_matches_rows_and_covers() -> None:
    generator = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        luck = generator.random(80)  # common luck: one threshold against another
        a, b = frame(luck < 0.2), frame(luck < 0.5)
        gap, low, high = paired_difference(a, b.sample(frac=1, random_state=seed), "refusal", seed=seed)
        assert gap == pytest.approx((luck < 0.5).mean() - (luck < 0.2).mean())
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_ratios_pool_before_they_divide() -> None:
    table = pd.DataFrame({"prompt_id": [0, 0, 1], "arm": "a", "error": [1.0, 0.0, 3.0], "target": [0.01, 4.0, 3.99]})
    assert ratios(table, ["arm"], "error", "target").ratio.item() == pytest.approx(0.5)
    assert means(table, ["arm"], "error")["mean"].item() == pytest.approx(4 / 3)


def test_agreement_and_wording() -> None:
    a = pd.Series([True, True, False, False])
    assert agreement(a, a) == (1.0, 1.0)
    assert agreement(a, ~a) == (0.0, -1.0)
    assert percent(0.234, 0.16, 0.32) == "23 % [16, 32]"


def test_select_names_what_is_missing() -> None:
    table = frame(np.ones(2, bool))
    assert len(select(table, arm="a")) == 2
    with pytest.raises(ValueError, match=r"arm = 'b'; there are \['a'\]"):
        select(table, arm="b")


@pytest.mark.parametrize(("texts", "flat"), [(["x", "x"], True), (["x", "y"], False)])
def test_texts_flat(texts: list[str], flat: bool) -> None:
    assert (
        texts_flat(pd.DataFrame({"guard": "none", "prompt_id": "p", "sample": 0, "alpha": [0, 1], "text": texts}))
        is flat
    )


def dose_table(refusal: list[float], nonsense: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"refusal": refusal, "nonsense": nonsense}, index=[0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("refusal", "nonsense", "dose"),
    [
        ([0.0, 0.1, 0.6], [0, 0, 0], 0.2),
        ([0.0, 0.1, 0.1], [0, 0, 0.9], 0.2),  # refusals that are rare because the text is broken are not mild
        ([0.0, 0.5, 0.1], [0, 0, 0], 0.1),
        ([0.0, 0.1, 0.2], [0, 0, 0], 0.3),
    ],
)
def test_the_mild_dose_is_the_last_before_the_first_excess(refusal: list, nonsense: list, dose: float) -> None:
    assert mild_dose(dose_table(refusal, nonsense), 0.2) == dose


def test_no_mild_dose_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="add smaller doses"):
        mild_dose(dose_table([0.5, 0.6, 0.7], [0, 0, 0]), 0.2)


@pytest.mark.parametrize(("rate", "samples"), [(1e-4, 29956), (1 / 30, 89), (0.5, 5), (1.0, 1), (0.0, np.inf)])
def test_samples_for_a_hit(rate: float, samples: float) -> None:
    assert samples_for_a_hit(rate) == samples


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_so_many_samples_hit_as_often_as_promised(rate: float) -> None:
    n, runs = samples_for_a_hit(rate, 0.9), 20_000
    hits = np.random.default_rng(0).binomial(n, rate, runs) > 0
    assert abs(hits.mean() - (1 - (1 - rate) ** n)) < 4 * np.sqrt(0.09 / runs)
    assert 1 - (1 - rate) ** n >= 0.9 > 1 - (1 - rate) ** (n - 1)


def test_a_perfect_judge_needs_no_correction() -> None:
    judge = pd.Series({"n": 10**7, "positives": 5 * 10**6, "sensitivity": 1.0, "specificity": 1.0})
    assert corrected_rate(20, 80, judge)[0] == pytest.approx(0.25)
