"""Estimates of a rate repeated a thousand times, without a model: answers drawn from exact laws of their outcomes.

`diffamp.truerate.events.outcome_log_probs` gives the exact probability of everything that can happen, so that the
sampling process can be simulated and each replicate compared with the exact rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from diffamp.stats import LEVEL
from diffamp.truerate.estimators import Array, Moments, balance_ratios, interval
from diffamp.truerate.events import Trie
from diffamp.truerate.mixture import Mixture


@dataclass(frozen=True)
class Outcomes:
    """Exact laws of a trie's outcomes over a set of prompts.

    Attributes:
        log_probs: (prompts, outcomes, alphas) from `outcome_log_probs`.
        prompt_tokens: of all prompts together.
    """

    trie: Trie
    alphas: tuple[float, ...]
    log_probs: Array
    prompt_tokens: int

    def at(self, alphas: tuple[float, ...]) -> Array:
        """(prompts, outcomes, alphas) log-probs at some of the alphas."""
        return self.log_probs[..., [self.alphas.index(a) for a in alphas]]

    def probabilities(self, alpha: float) -> Array:
        """(prompts, outcomes)."""
        return np.exp(self.at((alpha,))[..., 0])

    def rate(self, alpha: float = 0.0) -> float:
        """Exact rate of the event, the mean over the prompts."""
        return float(self.probabilities(alpha)[:, self.trie.hits].sum(1).mean())

    def length(self, alpha: float = 0.0) -> float:
        """Expected tokens of an answer up to its deciding prefix."""
        return float((self.probabilities(alpha) @ self.trie.lengths).mean())

    def tokens(self, mixture: Mixture) -> float:
        """Expected forward tokens: every prompt once, every answer's tokens, by each model that has to run."""
        answers = sum(n * self.length(a) for a, n in zip(mixture.alphas, mixture.counts, strict=True))
        return mixture.models * (self.prompt_tokens + len(self.log_probs) * answers)

    def affordable(self, alpha: float, share: float, budget: float) -> Mixture:
        """The largest mixture of alpha 0 and `alpha` within a budget of forward tokens.

        Raises:
            ValueError: the budget does not even pay for the prompts and two answers to each.
        """
        small = Mixture.defensive(alpha, share, 2)
        rates = {0.0: share, alpha: 1 - share} if alpha else {0.0: 1.0}
        each = sum(s * self.length(a) for a, s in rates.items()) * len(self.log_probs)
        samples = int((budget / small.models - self.prompt_tokens) / each)
        if samples < 2:
            raise ValueError(f"a budget of {budget:.0f} forward tokens is spent by the prompts: raise true_rate.budget")
        return Mixture.defensive(alpha, share, samples)

    def variance(self, mixture: Mixture) -> float:
        """Exact variance of a plain estimate, times its number of samples."""
        p, q = self.probabilities(0.0), np.exp(self.at(mixture.alphas)) @ mixture.shares
        hits = self.trie.hits
        return float((p[:, hits] ** 2 / q[:, hits]).sum(1).mean() - (p[:, hits].sum(1) ** 2).mean())


def replicate(
    outcomes: Outcomes,
    mixture: Mixture,
    replicates: int,
    generator: np.random.Generator,
    known: NDArray[np.bool_] | None = None,
) -> Moments:
    """Moments of many independent runs of a mixture over all prompts.

    Args:
        known: (replicates, outcomes) what is computed exactly in each run and does not count as a hit.
    """
    log_probs = outcomes.at(mixture.alphas)
    ratios = balance_ratios(log_probs, mixture.shares)  # (prompts, outcomes, components)
    hits = outcomes.trie.hits
    counted = np.broadcast_to(hits, (replicates, len(hits))) & ~(False if known is None else known)
    totals, products, largest = [], [], np.zeros(replicates)
    for law, r in zip(np.exp(log_probs), ratios, strict=True):
        y, size = r[:, 0], r.shape[1] + 1
        for component, n in enumerate(mixture.counts):
            drawn = generator.multinomial(n, law[:, component] / law[:, component].sum(), size=replicates)
            hit = drawn * counted  # (replicates, outcomes)
            product = np.empty((replicates, size, size))
            product[:, 0, 0] = hit @ y**2
            product[:, 0, 1:] = product[:, 1:, 0] = hit @ (y[:, None] * r)
            product[:, 1:, 1:] = np.einsum("ro,oi,oj->rij", drawn, r, r, optimize=True)
            totals.append(np.column_stack([hit @ y, drawn @ r]))
            products.append(product)
            largest = np.maximum(largest, np.where(hit > 0, y, 0).max(1))
    return Moments(
        np.tile(np.array(mixture.counts, float), len(ratios)),
        np.stack(totals, 1),
        np.stack(products, 1),
        largest,
        mixture.bound,
    )


def heard(
    outcomes: Outcomes, alpha: float, samples: int, replicates: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """(replicates, outcomes) which hits occur at least once among `samples` answers to every prompt."""
    found = np.zeros((replicates, len(outcomes.trie.hits)), bool)
    for law in outcomes.probabilities(alpha):
        found |= generator.multinomial(samples, law / law.sum(), size=replicates) > 0
    return found & outcomes.trie.hits


def expected_mass_heard(outcomes: Outcomes, alpha: float, samples: int) -> float:
    """Share of the event's probability that `heard` finds on average, on the prompts that are listened to."""
    at_alpha, plain = (outcomes.probabilities(a)[:, outcomes.trie.hits] for a in (alpha, 0.0))
    missed = np.exp(samples * np.log1p(-at_alpha.clip(max=1 - 1e-12)).sum(0))
    return float((plain.mean(0) * (1 - missed)).sum() / plain.sum(1).mean())


def inner_nodes(trie: Trie, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(replicates,) undecided prefixes, but for the empty one, that must be run to know the chosen outcomes exactly.

    Args:
        chosen: (replicates, outcomes), hits only.
    """
    nodes = [n for n in trie.children if n]
    leads = np.array([[leaf[: len(n)] == n for n in nodes] for leaf in trie.leaves]).reshape(-1, len(nodes))
    return (chosen[:, : len(trie.leaves)].astype(int) @ leads > 0).sum(1)


def counting_tokens(outcomes: Outcomes, width: float) -> dict[str, float]:
    """Forward tokens that plain counting needs for intervals of this width.

    Returns:
        "wilson": with Wilson's interval on the pooled counts, its mean width; "stratified": with `interval` and the
        exact variance over the strata, at its typical width. Prompts run once, answers stop when they are decided.
    """
    rate = outcomes.rate()
    variance = outcomes.variance(Mixture((0.0,), (1,)))
    middles = (np.arange(200) + 0.5) / 200

    def wilson(n: float) -> float:
        low, high = proportion_confint(binom.ppf(middles, round(n), rate), round(n), 1 - LEVEL, method="wilson")
        return float(np.mean(high - low))

    def stratified(n: float) -> float:
        low, high = interval(rate, variance / n, 1 / n)
        return float(high - low)

    def tokens(of: Callable[[float], float]) -> float:
        log_n = brentq(lambda x: of(np.exp(x)) - width, np.log(2), np.log(1e10), xtol=1e-4)
        return float(outcomes.prompt_tokens + np.exp(log_n) * outcomes.length())

    return {"wilson": tokens(wilson), "stratified": tokens(stratified)}


def chance_of_a_hit(rates: Array, samples: int, runs: int, generator: np.random.Generator) -> float:
    """Share of simulated runs in which `samples` answers, each to a prompt chosen at random, contain a hit.

    Args:
        rates: (prompts,) of each prompt.
    """
    asked = generator.multinomial(samples, np.full(len(rates), 1 / len(rates)), size=runs)  # (runs, prompts)
    return float((generator.binomial(asked, rates).sum(1) > 0).mean())
