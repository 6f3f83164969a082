"""The unamplified rate from amplified samples: identities by enumeration, then whole runs on tiny models."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from conftest import separate, tiny_tokenizer
from scipy.stats import chi2

from diffamp.engine.law import Law
from diffamp.engine.scoring import score
from diffamp.prompts import Prompt
from diffamp.stages.truerate import nearest
from diffamp.stats import samples_for_a_hit
from diffamp.truerate.estimators import (
    ESTIMATORS,
    Moments,
    balance_ratios,
    controlled,
    effective_hits,
    effective_samples,
    estimate,
    interval,
    largest_step,
    plain,
)
from diffamp.truerate.events import TextEvent, Trie, outcome_log_probs
from diffamp.truerate.mixture import Mixture, sample_mixture, sample_ratios
from diffamp.truerate.runs import leaves, listening_alpha, methods, power, proposal_alpha, sweep
from diffamp.truerate.simulation import (
    Outcomes,
    chance_of_a_hit,
    counting_tokens,
    expected_mass_heard,
    heard,
    inner_nodes,
    replicate,
)

TRIE = Trie(((5, 9), (5, 7, 11), (5, 7, 12), (8,)))
PROMPTS = [Prompt(x, "any", text) for x, text in (("a", "a text about cats"), ("b", "dogs in the garden, and a cat"))]
LAW = Law(temperature=0.7)


def outcomes(prompts: int = 6, rare: float = 2.0, seed: int = 0) -> Outcomes:
    """Random laws in which the after-model (alpha 0) hits rarely and the amplified ones more often."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(prompts, len(TRIE.outcomes))) - rare * TRIE.hits
    shift = rare * TRIE.hits + 0.5 * generator.normal(size=logits.shape)
    alphas = (0.0, 0.5, 1.0, 4.0)
    laws = logits[..., None] + shift[..., None] * np.array(alphas)
    return Outcomes(TRIE, alphas, laws - np.log(np.exp(laws).sum(1, keepdims=True)), 40 * prompts)


@pytest.mark.parametrize("mixture", [Mixture((0.0, 1.0), (1, 2)), Mixture((0.0, 1.0, 4.0), (1, 1, 1))])
def test_plain_is_unbiased_and_weights_are_bounded(mixture: Mixture) -> None:
    """Exactly: every possible draw of one prompt, weighted by its probability."""
    o = outcomes(prompts=1)
    log_probs = o.at(mixture.alphas)[0]  # (outcomes, components)
    ratios = balance_ratios(log_probs, mixture.shares)
    assert ratios[:, 0].max() <= mixture.bound + 1e-12
    assert (ratios @ mixture.shares) == pytest.approx(1)
    component = np.repeat(np.arange(len(mixture.alphas)), mixture.counts)
    mean, second, variance, controls = 0.0, 0.0, 0.0, np.zeros(len(mixture.alphas))
    for drawn in product(range(len(TRIE.outcomes)), repeat=mixture.samples):
        p = np.exp(log_probs[list(drawn), component].sum())
        found = Moments.of(component, TRIE.hits[list(drawn)], ratios[list(drawn)], mixture.bound)
        rate, estimated = plain(found)
        mean, second, variance = mean + p * rate, second + p * rate**2, variance + p * estimated
        controls += p * found.mean[1:]
    assert mean == pytest.approx(o.rate())
    assert controls == pytest.approx(np.ones(len(mixture.alphas)))  # the means that the control variates rely on
    # strata of one sample report their second moment, which is never too small
    assert variance >= second - mean**2 - 1e-12


def test_variance_is_unbiased_where_every_stratum_has_two_samples() -> None:
    o, mixture = outcomes(prompts=1), Mixture((0.0, 1.0), (2, 2))
    ratios = balance_ratios(o.at(mixture.alphas)[0], mixture.shares)
    component, mean, second, variance = np.array([0, 0, 1, 1]), 0.0, 0.0, 0.0
    for drawn in product(range(len(TRIE.outcomes)), repeat=4):
        p = np.exp(o.at(mixture.alphas)[0][list(drawn), component].sum())
        rate, estimated = plain(Moments.of(component, TRIE.hits[list(drawn)], ratios[list(drawn)], 2.0))
        mean, second, variance = mean + p * rate, second + p * rate**2, variance + p * estimated
    assert variance == pytest.approx(second - mean**2)


def test_wrong_shares_and_foreign_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        balance_ratios(np.zeros((1, 2)), [0.5, 0.6])
    with pytest.raises(ValueError, match="positive"):
        balance_ratios(np.zeros((1, 2)), [0.0, 1.0])
    with pytest.raises(ValueError, match="another mixture"):
        balance_ratios(np.full((1, 2), -np.inf), [0.5, 0.5])


@pytest.mark.parametrize(
    ("alphas", "counts", "message"),
    [((1.0, 0.0), (1, 1), "begin with 0.0"), ((0.0, 0.0), (1, 1), "distinct"), ((0.0, 1.0), (1, 0), "at least 1"),
     ((0.0,), (1, 1), "for each alpha")],
)  # fmt: skip
def test_a_mixture_is_defensive(alphas: tuple, counts: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(alphas, counts)


def test_a_defensive_mixture_has_both_components() -> None:
    assert Mixture.defensive(2.0, 0.2, 10).counts == (2, 8)
    assert Mixture.defensive(2.0, 0.01, 10).counts == (1, 9)
    assert Mixture.defensive(2.0, 0.99, 10).counts == (9, 1)
    assert Mixture.defensive(0.0, 0.2, 10) == Mixture((0.0,), (10,))
    with pytest.raises(ValueError, match="at least two samples"):
        Mixture.defensive(2.0, 0.2, 1)


def test_estimators_agree_where_the_proposal_is_the_after_model() -> None:
    generator = np.random.default_rng(0)
    hit = generator.random(200) < 0.1
    m = Moments.of(np.repeat(np.arange(20), 10), hit, np.ones((200, 1)), 1.0)
    for estimator in ESTIMATORS.values():
        rate, variance = estimator(m)
        assert rate == pytest.approx(hit.mean())
        assert variance == pytest.approx(pd.Series(hit).groupby(np.repeat(np.arange(20), 10)).var().mean() / 200)
    assert effective_hits(m) == pytest.approx(hit.sum())
    assert effective_samples(m) == pytest.approx(200)


def test_control_variates_remove_what_they_explain() -> None:
    """Where a hit is a matter of the ratio alone, the regression knows the rate exactly."""
    generator = np.random.default_rng(0)
    component = np.repeat([0, 1], 50)
    law = np.log([[0.5, 0.1], [0.5, 0.9]])  # two outcomes; only the first is a hit
    drawn = (generator.random(100) > np.exp(law[0])[component]).astype(int)
    m = Moments.of(component, drawn == 0, balance_ratios(law[drawn], [0.5, 0.5]), 2.0)
    rate, variance = controlled(m)
    assert rate == pytest.approx(0.5)
    assert variance == pytest.approx(0, abs=1e-12)
    assert plain(m)[1] > 1e-4


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_the_interval_of_a_count_is_mid_p_poisson(count: int) -> None:
    low, high = interval(count, count, 1.0)

    def exceeded(mean: float, k: int) -> float:
        """P(more than k) + P(k) / 2 of a Poisson variable."""
        above = chi2.cdf(2 * mean, 2 * (k + 1))
        return float((above + (chi2.cdf(2 * mean, 2 * k) if k else 1.0)) / 2)

    assert exceeded(float(high), count) == pytest.approx(0.975, abs=1e-6)
    if count:
        assert exceeded(float(low), count) == pytest.approx(0.025, abs=1e-6)
    else:
        assert low == 0
        assert high == pytest.approx(np.log(20), abs=1e-6)


def test_the_interval_of_much_is_normal() -> None:
    low, high = interval(100.0, 4.0, 1e-3)
    assert (low, high) == (pytest.approx(96.1, abs=0.1), pytest.approx(103.95, abs=0.1))


def test_a_step_lies_between_what_was_seen_and_what_can_be() -> None:
    few, many = (
        Moments.of(np.zeros(n), np.ones(n, bool), np.column_stack([np.full(n, 0.1), np.full(n, 1.2)]), 5.0)
        for n in (2, 2000)
    )
    assert 0.1 < largest_step(many) * 2000 < 0.11 < largest_step(few) * 2 < 5
    none = Moments.of(np.zeros(4), np.zeros(4, bool), np.ones((4, 1)), 5.0)
    assert largest_step(none) * 4 == pytest.approx(5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_replicates_have_no_bias_and_the_variance_they_report(name: str) -> None:
    o, mixture, runs = outcomes(), Mixture((0.0, 1.0), (10, 40)), 4000
    m = replicate(o, mixture, runs, np.random.default_rng(0))
    rate, variance = ESTIMATORS[name](m)
    error = rate.std() / np.sqrt(runs)
    assert abs(rate.mean() - o.rate()) < 4 * error + (2e-4 if name == "self-normalised" else 0)
    assert np.sqrt(variance.mean()) == pytest.approx(rate.std(), rel=0.06)
    low, high = interval(rate, variance, largest_step(m))
    assert 0.93 <= np.mean((low <= o.rate()) & (o.rate() <= high)) <= 0.975
    if name == "plain":  # components in fixed numbers vary a little less than samples of the whole mixture
        exact = o.variance(mixture) / m.samples
        assert 0.8 * exact < rate.var() < 1.05 * exact


def test_replicates_are_what_samples_give() -> None:
    """One run of the simulation, written out sample by sample."""
    o, mixture = outcomes(), Mixture((0.0, 1.0), (3, 5))
    m = replicate(o, mixture, 1, np.random.default_rng(0))
    generator = np.random.default_rng(0)
    ratios = balance_ratios(o.at(mixture.alphas), mixture.shares)
    stratum, hit, rows = [], [], []
    for prompt, law in enumerate(np.exp(o.at(mixture.alphas))):
        for component, n in enumerate(mixture.counts):
            drawn = generator.multinomial(n, law[:, component] / law[:, component].sum(), size=1)[0]
            index = np.repeat(np.arange(len(drawn)), drawn)
            stratum += [2 * prompt + component] * n
            hit += TRIE.hits[index].tolist()
            rows += ratios[prompt, index].tolist()
    written = Moments.of(stratum, hit, rows, mixture.bound)
    assert m.total[0] == pytest.approx(written.total)
    assert m.product[0] == pytest.approx(written.product)
    assert m.largest[0] == pytest.approx(float(written.largest))
    assert m.n == pytest.approx(written.n)
    assert estimate(stratum, hit, rows, mixture.bound).rate == pytest.approx(max(controlled(m)[0][0], 0))


def test_what_is_known_exactly_is_not_counted_again() -> None:
    o, mixture = outcomes(), Mixture((0.0,), (30,))
    found = heard(o, 1.0, 3, 3000, np.random.default_rng(0))
    assert not found[:, ~TRIE.hits].any()
    m = replicate(o, mixture, 3000, np.random.default_rng(1), found)
    total = plain(m)[0] + found @ o.probabilities(0.0).mean(0)
    assert abs(total.mean() - o.rate()) < 4 * total.std() / np.sqrt(3000)
    assert total.std() < plain(replicate(o, mixture, 3000, np.random.default_rng(1)))[0].std()
    mass = (found[:, TRIE.hits] * o.probabilities(0.0)[:, TRIE.hits].mean(0)).sum(1).mean() / o.rate()
    assert expected_mass_heard(o, 1.0, 3) == pytest.approx(mass, abs=0.02)


def test_what_must_run_to_know_openings() -> None:
    chosen = np.zeros((3, len(TRIE.outcomes)), bool)
    chosen[1, 3] = True  # (8,): its probability comes from the prompt alone
    chosen[2, [0, 1]] = True  # (5, 7, 11) and (5, 7, 12)
    order = [leaf for leaf, hit in TRIE.outcomes if hit]
    assert order == [(5, 9), (5, 7, 11), (5, 7, 12), (8,)]
    assert inner_nodes(TRIE, chosen).tolist() == [0, 0, 2]


def test_budgets_are_kept() -> None:
    o = outcomes()
    for alpha, share in ((0.0, 1.0), (1.0, 0.2)):
        mixture = o.affordable(alpha, share, 20_000)
        assert 19_000 < o.tokens(mixture) <= 20_300
    with pytest.raises(ValueError, match=r"raise true_rate\.budget"):
        o.affordable(1.0, 0.2, 100)


def test_counting_tokens_are_those_of_its_intervals() -> None:
    o, mixture = outcomes(), Mixture((0.0,), (500,))
    m = replicate(o, mixture, 500, np.random.default_rng(0))
    low, high = interval(*plain(m), largest_step(m))
    assert counting_tokens(o, float((high - low).mean()))["stratified"] == pytest.approx(o.tokens(mixture), rel=0.02)


def test_power_is_what_simulation_says() -> None:
    o = outcomes(rare=4.0)
    table = power(o, 4000, np.random.default_rng(0)).set_index("at")
    assert table.samples[0.0] == samples_for_a_hit(o.rate())
    assert ((table.simulated > 0.935) & (table.simulated < 0.96 + table.hit_rate)).all()  # whole samples
    assert table.simulated[0.0] == pytest.approx(0.95, abs=0.015)
    assert table.samples[1.0] < table.samples[0.0]
    assert chance_of_a_hit(np.zeros(3), 10, 10, np.random.default_rng(0)) == 0


def test_methods_are_compared_within_one_budget() -> None:
    o = outcomes(rare=3.0, prompts=8)
    alpha = proposal_alpha(o, 0.2)
    assert alpha == sweep(o, 0.2).set_index("at").ratio.idxmax()
    table = methods(o, o, alpha, listening_alpha(o, 8000), 0.2, 8000, 400, np.random.default_rng(0))
    assert (table.tokens <= 1.03 * table.budget).all()
    assert table.bias.abs().max() < 4
    at_full = table[table.budget == 8000].set_index("method")
    assert at_full.token_ratio["counting"] == pytest.approx(1, abs=0.1)
    assert at_full.variance_ratio["counting"] == pytest.approx(1, abs=0.25)
    single = leaves(o, Mixture.defensive(alpha, 0.2, 1000))
    assert list(single.length) == [2, 3, 3, 1]
    assert (single.variance_ratio > 0).all()


def test_the_dose_is_the_one_nearest_by_a_factor() -> None:
    rates = {0.1: 1e-3, 0.2: 2e-2, 0.4: 0.0}
    assert nearest(rates, 1e-2) == 0.2
    with pytest.raises(ValueError, match=r"no dose gives a rate near 0\.3 .*0\.2: 0\.02.*change true_rate\.doses"):
        nearest(rates, 0.3)


@pytest.fixture(scope="module")
def drawn() -> tuple[pd.DataFrame, Mixture, np.ndarray]:
    pair, mixture = separate("llama", tiny_tokenizer()), Mixture((0.0, 2.0), (150, 250))
    trie = Trie((*((t,) for t in range(3, 20)), *((t, u) for t in range(40, 70) for u in range(3, 60))))
    exact = outcome_log_probs(pair, PROMPTS, trie, mixture.alphas, LAW)
    return sample_mixture(pair, PROMPTS, trie, mixture, law=LAW), mixture, np.exp(exact)[:, trie.hits].sum(1)


def test_real_samples_give_the_exact_rate(drawn: tuple[pd.DataFrame, Mixture, np.ndarray]) -> None:
    samples, mixture, exact = drawn
    ratios = sample_ratios(samples, mixture)
    assert ratios[:, 0].max() <= mixture.bound
    m = Moments.of(samples.groupby(["prompt_id", "alpha"]).ngroup(), samples.hit, ratios, mixture.bound)
    for estimator in ESTIMATORS.values():
        rate, variance = estimator(m)
        assert abs(rate - exact[:, 0].mean()) < 4 * np.sqrt(variance)
    by_component = samples.groupby(["prompt_id", "alpha"]).hit.mean().unstack().to_numpy()
    assert np.abs(by_component - exact).max() < 4 * np.sqrt(0.25 / 150)
    found = estimate(samples.prompt_id + samples.alpha.astype(str), samples.hit, ratios, mixture.bound, known=0.1)
    assert found.low < found.rate < found.high
    assert found.samples == len(samples)
    assert found.hits == samples.hit.sum()


def test_sampling_stops_at_the_decision_and_weighs_every_miss_alike(
    drawn: tuple[pd.DataFrame, Mixture, np.ndarray],
) -> None:
    samples, mixture, _ = drawn
    ratios = sample_ratios(samples, mixture)
    left_at_once = (samples.tokens.map(len) == 1) & ~samples.hit
    assert left_at_once.sum() > 20
    for _, group in samples[left_at_once].groupby("prompt_id"):
        assert np.ptp(ratios[group.index, 0]) < 1e-4
    assert set(samples.tokens.map(len)) <= {1, 2}


def test_text_events_are_weighed_token_by_token() -> None:
    pair, mixture = separate("llama", tiny_tokenizer()), Mixture((0.0, 1.0, -1.0), (2, 2, 1))
    event = TextEvent(lambda text: "a" in text, pair.tokenizer, 5, pair.end_tokens)
    samples = sample_mixture(pair, PROMPTS, event, mixture, law=LAW, seed=3)
    scores = score(
        pair, list(zip([PROMPTS[0].text] * 5 + [PROMPTS[1].text] * 5, samples.tokens, strict=True)), mixture.alphas, LAW
    )
    expected = scores.groupby(["text", "alpha"]).logp_alpha.sum().unstack()[list(mixture.alphas)].to_numpy()
    assert np.stack([x.sum(0) for x in samples.log_probs]) == pytest.approx(expected, abs=2e-4)
    assert [event.decide(t) for t in samples.tokens] == [
        (h, len(t)) for h, t in zip(samples.hit, samples.tokens, strict=True)
    ]
    assert sample_ratios(samples, mixture, [0] * 10) == pytest.approx(1)
    again = sample_mixture(pair, PROMPTS, event, mixture, law=LAW, seed=3, token_budget=18)  # in smaller units
    assert list(again.tokens) == list(samples.tokens)
