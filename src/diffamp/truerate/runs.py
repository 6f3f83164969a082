"""Ways to estimate a rate, each within one budget of forward tokens and against plain counting."""

from __future__ import annotations

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from diffamp.stats import LEVEL, samples_for_a_hit
from diffamp.truerate.estimators import (
    ESTIMATORS,
    Array,
    effective_hits,
    effective_samples,
    interval,
    largest_step,
    plain,
)
from diffamp.truerate.mixture import Mixture
from diffamp.truerate.simulation import (
    Outcomes,
    chance_of_a_hit,
    counting_tokens,
    expected_mass_heard,
    heard,
    inner_nodes,
    replicate,
)

LISTENING = 0.2
"""Share of the budget spent on hearing openings on dev prompts."""
BUDGETS = (1.0, 0.25)
"""Parts of the budget at which everything is repeated."""


def proposal_alpha(dev: Outcomes, share: float) -> float:
    """The alpha with the smallest variance per forward token, beside a defensive share at alpha 0."""
    return float(sweep(dev, share).set_index("at").ratio.idxmax())


def listening_alpha(dev: Outcomes, budget: float) -> float:
    """The alpha above 0 at which the openings heard on dev prompts carry most of the event's probability there."""
    masses = {a: expected_mass_heard(dev, a, _listening_samples(dev, a, budget)) for a in dev.alphas if a > 0}
    return max(masses, key=lambda a: masses[a])


def sweep(outcomes: Outcomes, share: float) -> pd.DataFrame:
    """What a mixture is worth at each alpha, exactly and with the prompts' own tokens left aside.

    Returns:
        at (the alpha), hit_rate there, length of an answer in tokens, ratio: forward tokens of plain counting over
        those of the mixture at equal variance.
    """
    count = outcomes.variance(Mixture((0.0,), (1,))) * outcomes.length()
    rows = []
    for alpha in (a for a in outcomes.alphas if a != 0):
        mixture = Mixture.defensive(alpha, share, 1000)
        each = sum(s * outcomes.length(a) for a, s in zip(mixture.alphas, mixture.shares, strict=True))
        ratio = count / (outcomes.variance(mixture) * 2 * each)
        rows.append((alpha, outcomes.rate(alpha), outcomes.length(alpha), ratio))
    return pd.DataFrame(rows, columns=["at", "hit_rate", "length", "ratio"])


def leaves(outcomes: Outcomes, mixture: Mixture) -> pd.DataFrame:
    """Every opening as an event of its own: where amplification pays, exactly.

    Returns:
        opening (its number), length (tokens that decide), plain_rate, amplification (its probability in the amplified
        component over that in the after-model), variance_ratio (plain counting over the mixture, per sample).
    """
    p = outcomes.probabilities(0.0)[:, outcomes.trie.hits]
    parts = np.exp(outcomes.at(mixture.alphas))[:, outcomes.trie.hits]
    q, amplified = parts @ mixture.shares, parts[..., -1]
    rows = []
    for n, leaf in enumerate(outcomes.trie.leaves):
        counting = (p[:, n] * (1 - p[:, n])).mean()
        weighted = (p[:, n] ** 2 / q[:, n] - p[:, n] ** 2).mean()
        rows.append((n, len(leaf), p[:, n].mean(), amplified[:, n].mean() / p[:, n].mean(), counting / weighted))
    return pd.DataFrame(rows, columns=["opening", "length", "plain_rate", "amplification", "variance_ratio"])


def power(outcomes: Outcomes, runs: int, generator: np.random.Generator) -> pd.DataFrame:
    """Samples for a 95 % chance of one hit at each alpha, and the share of simulated runs of that size with a hit.

    Returns:
        at (the alpha), hit_rate, samples, tokens (forward tokens of the answers), simulated; infinite where the rate
        vanishes.
    """
    rows = []
    for alpha in outcomes.alphas:
        by_prompt = outcomes.probabilities(alpha)[:, outcomes.trie.hits].sum(1)
        samples = samples_for_a_hit(float(by_prompt.mean()))
        tokens = samples * outcomes.length(alpha) * (1 if alpha == 0 else 2)
        chance = chance_of_a_hit(by_prompt, int(samples), runs, generator) if samples < 1e9 else np.nan
        rows.append((alpha, by_prompt.mean(), samples, tokens, chance))
    return pd.DataFrame(rows, columns=["at", "hit_rate", "samples", "tokens", "simulated"])


def methods(
    dev: Outcomes,
    test: Outcomes,
    alpha: float,
    listen_at: float,
    share: float,
    budget: float,
    replicates: int,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Every method within each part of the budget, repeated.

    Args:
        alpha, share: of the mixture.
        listen_at: alpha at which openings are heard.

    Returns:
        method, budget, samples per prompt, tokens (spent, mean), bias (in standard errors of the mean over replicates),
        spread (standard deviation of the estimates over the true rate), coverage, width (mean, over the true rate),
        effective_hits and worth (effective samples per sample), means; heard: the share of the true rate that is known
        exactly. variance_ratio: plain counting's variance at equal tokens over this. token_ratio: plain counting's
        tokens at equal width over this (token_ratio_wilson: with Wilson's interval on the pooled counts).
    """
    rows = []
    for part in (budget * b for b in BUDGETS):
        common = (test, part, replicates, generator)
        rows += _counting(*common)
        rows += _mixture(*common, alpha, share)
        rows += _openings(*common, dev, listen_at, f"openings heard at alpha {listen_at:g}")
        rows += _openings(*common, dev, 0.0, "openings heard at alpha 0")
    return pd.DataFrame(rows)


def _counting(test: Outcomes, budget: float, replicates: int, generator: np.random.Generator) -> list[dict]:
    mixture = test.affordable(0.0, 1.0, budget)
    m = replicate(test, mixture, replicates, generator)
    rate, variance = plain(m)
    hits = m.total[..., 0].sum(-1)
    shared = {"budget": budget, "samples": mixture.samples, "effective_hits": hits.mean(), "worth": 1.0}
    tokens = test.tokens(mixture)
    below, above = proportion_confint(hits, m.samples, 1 - LEVEL, method="wilson")
    low, high = interval(rate, variance, largest_step(m))
    return [
        {"method": "counting", **shared, **_judge(test, rate, low, high, tokens)},
        {"method": "counting, Wilson", **shared, **_judge(test, rate, below, above, tokens)},
    ]


def _mixture(
    test: Outcomes, budget: float, replicates: int, generator: np.random.Generator, alpha: float, share: float
) -> list[dict]:
    mixture = test.affordable(alpha, share, budget)
    m = replicate(test, mixture, replicates, generator)
    worth = {"effective_hits": effective_hits(m).mean(), "worth": (effective_samples(m) / m.samples).mean()}
    rows = []
    for name, estimator in ESTIMATORS.items():
        rate, variance = estimator(m)
        rate = np.maximum(rate, 0)
        low, high = interval(rate, variance, largest_step(m))
        shared = {"method": f"mixture, {name}", "budget": budget, "samples": mixture.samples, **worth}
        rows.append(shared | _judge(test, rate, low, high, test.tokens(mixture)))
    return rows


def _openings(
    test: Outcomes,
    budget: float,
    replicates: int,
    generator: np.random.Generator,
    dev: Outcomes,
    listen_at: float,
    name: str,
) -> list[dict]:
    """Openings heard on dev prompts are computed exactly on test prompts, the rest of the event is counted."""
    samples = _listening_samples(dev, listen_at, budget)
    if samples < 1:
        return []
    known = heard(dev, listen_at, samples, replicates, generator)
    exact = known @ test.probabilities(0.0).mean(0)  # (replicates,)
    spent = dev.tokens(Mixture((0.0,), (1,))) - len(dev.log_probs) * dev.length()  # the dev prompts themselves
    spent = (spent + len(dev.log_probs) * samples * dev.length(listen_at)) * (1 if listen_at == 0 else 2)
    spent += float(inner_nodes(test.trie, known).mean()) * len(test.log_probs)
    mixture = test.affordable(0.0, 1.0, budget - spent)
    m = replicate(test, mixture, replicates, generator, known)
    rate, variance = plain(m)
    low, high = interval(rate, variance, largest_step(m))
    row = {
        "method": name,
        "budget": budget,
        "samples": mixture.samples,
        "effective_hits": effective_hits(m).mean(),
        "heard": exact.mean() / test.rate(),
        **_judge(test, exact + rate, exact + low, exact + high, spent + test.tokens(mixture)),
    }
    return [row]


def _listening_samples(dev: Outcomes, alpha: float, budget: float) -> int:
    each = LISTENING * budget / (1 if alpha == 0 else 2) - dev.prompt_tokens
    return int(each / (len(dev.log_probs) * dev.length(alpha)))


def _judge(test: Outcomes, rate: Array, low: Array, high: Array, tokens: float) -> dict[str, float]:
    true, width, spread = test.rate(), float(np.mean(high - low)), float(rate.std(ddof=1))
    counted = counting_tokens(test, width)
    counting = test.variance(Mixture((0.0,), (1,))) * test.length() / (tokens - test.prompt_tokens)
    exact = spread < 1e-9 * true  # every opening was heard in every replicate
    return {
        "tokens": tokens,
        "bias": 0.0 if exact else float(rate.mean() - true) / (spread / np.sqrt(len(rate))),
        "spread": spread / true,
        "coverage": float(((low <= true) & (true <= high)).mean()),
        "width": width / true,
        "variance_ratio": np.inf if exact else counting / spread**2,
        "token_ratio": counted["stratified"] / tokens,
        "token_ratio_wilson": counted["wilson"] / tokens,
    }
