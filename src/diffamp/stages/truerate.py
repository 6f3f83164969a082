"""Estimates of a known rate from amplified samples, repeated and compared with plain counting.

`python -m diffamp.stages.truerate`. The after-model is the base with a small dose of the artificial vector, the event
an opening that the organism was heard to refuse with on dev prompts. Its rate is exact (`diffamp.truerate.events`), so
that bias and coverage are what they are, up to the number of replicates. Every choice (dose, alpha) is made on dev
prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from diffamp import params, paths
from diffamp.engine.checkpoints import load_model, load_tokenizer
from diffamp.engine.halves import Halves
from diffamp.engine.law import Law
from diffamp.engine.loading import load_vector
from diffamp.engine.pairs import ModelPair, SharedPair
from diffamp.judges.refusal import declines
from diffamp.organisms.vectors import dosed
from diffamp.prompts import Prompt, encode, load_prompts
from diffamp.runtime import setup
from diffamp.truerate.estimators import Moments, effective_samples, estimate, plain
from diffamp.truerate.events import TextEvent, Trie, openings, outcome_log_probs
from diffamp.truerate.mixture import Mixture, sample_mixture, sample_ratios
from diffamp.truerate.runs import leaves, listening_alpha, methods, power, proposal_alpha, sweep
from diffamp.truerate.simulation import Outcomes

LONGEST = 8
"""Tokens within which an opening must decline."""
CHECKED, CONTINUED = 12, 16
"""Real answers to every prompt, and their tokens: to see that the sampler draws what the exact laws say, and what
weights become when they go on behind the deciding prefix."""


def main() -> None:
    p = params.load()
    setup(p.seed, p.threads)
    t = p.true_rate
    dev, test = load_prompts("dev", t.dev_prompts), load_prompts("test", t.test_prompts)
    law, alphas = Law(temperature=p.sampling.temperature), (0.0, *(a for a in t.alphas if a != 0))
    base, folder = paths.model(p.base.model), paths.vector(p.base.vector)
    layer, vector = load_vector(folder / "vector.safetensors")
    pair = SharedPair(load_model(base, p.base.precision), load_tokenizer(base), Halves())
    trie, heard_of = refusals(pair, folder)
    tables = [heard_of.assign(table="listed")]
    rates = {}
    for dose in t.doses:
        with dosed(pair, layer, vector * dose):
            rates[dose] = float(np.exp(outcome_log_probs(pair, dev, trie, [0.0], law))[:, trie.hits].sum(1).mean())
    chosen = {target: nearest(rates, target) for target in sorted(t.rates, reverse=True)}
    for number, (target, dose) in enumerate(chosen.items()):
        generator = np.random.default_rng([p.seed, number])
        with dosed(pair, layer, vector * dose):
            on_dev, on_test = (
                Outcomes(
                    trie, alphas, outcome_log_probs(pair, prompts, trie, alphas, law), prompt_tokens(pair, prompts)
                )
                for prompts in (dev, test)
            )
            alpha = proposal_alpha(on_dev, t.defensive_share)
            if number == 0:  # the commonest, so that a few real answers hold hits
                real = truncation(pair, test, on_test, alpha, t.defensive_share, law, p.seed)
        frames = {
            "methods": methods(
                on_dev, on_test, alpha, listening_alpha(on_dev, t.budget), t.defensive_share, t.budget, t.replicates,
                generator,
            ),
            "sweep": sweep(on_test, t.defensive_share),
            "leaves": leaves(on_test, Mixture.defensive(alpha, t.defensive_share, 1000)),
            "power": power(on_test, t.replicates, generator),
        }  # fmt: skip
        if number == 0:
            frames["truncation"] = real
        rate = {"target": target, "dose": dose, "true": on_test.rate(), "dev_rate": rates[dose], "alpha": alpha}
        tables += [frame.assign(table=name, **rate) for name, frame in frames.items()]
    paths.true_rate().parent.mkdir(parents=True, exist_ok=True)
    pd.concat(tables, ignore_index=True).to_parquet(paths.true_rate(), index=False)


def refusals(pair: ModelPair, vector: Path) -> tuple[Trie, pd.DataFrame]:
    """How the organism's teacher opened its refusals on dev prompts, at any dose (`diffamp.stages.vector`).

    Returns:
        the openings; and one row that says how complete they are: of `refusals` answers to test prompts that decline as
        early, `listed` open in one of these ways.
    """
    answers = pd.read_parquet(vector / "responses.parquet", columns=["split", "tokens"])
    event = TextEvent(declines, pair.tokenizer, LONGEST, pair.end_tokens)
    trie = openings(event, answers[answers.split == "dev"].tokens.tolist())
    early = [tokens for tokens in answers[answers.split == "test"].tokens if event.decide(tokens)[0]]
    listed = sum(trie.decide(tokens)[0] is True for tokens in early)
    return trie, pd.DataFrame([{"openings": len(trie.leaves), "refusals": len(early), "listed": listed}])


def nearest(rates: dict[float, float], target: float) -> float:
    """The dose whose rate is the smallest factor away from the target.

    Raises:
        ValueError: it is off by more than a factor of 3.
    """
    dose = min(rates, key=lambda d: abs(np.log(max(rates[d], 1e-300) / target)))
    if not target / 3 <= rates[dose] <= target * 3:
        found = ", ".join(f"{d:g}: {r:.2g}" for d, r in rates.items())
        raise ValueError(
            f"no dose gives a rate near {target:g} (dose: rate on dev prompts {found}); change true_rate.doses"
        )
    return dose


def prompt_tokens(pair: ModelPair, prompts: Sequence[Prompt]) -> int:
    return sum(len(encode(pair.tokenizer, prompt)) for prompt in prompts)


def truncation(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    outcomes: Outcomes,
    alpha: float,
    share: float,
    law: Law,
    seed: int,
) -> pd.DataFrame:
    """Real answers from the mixture: the rate, and what weights are worth up to how many tokens behind the decision.

    Returns:
        One row per extra number of tokens (`beyond`): rate, low, high, exact_z (the distance from the exact rate in
        standard errors), worth (effective samples per sample) and variance.
    """
    mixture = Mixture.defensive(alpha, share, CHECKED)
    endless = TextEvent(lambda _: False, pair.tokenizer, CONTINUED, pair.end_tokens)
    samples = sample_mixture(pair, prompts, endless, mixture, law=law, seed=seed)
    decided = [outcomes.trie.decide(tokens) for tokens in samples.tokens]
    hit = [verdict is True for verdict, _ in decided]
    stratum = samples.groupby(["prompt_id", "alpha"]).ngroup()
    rows = []
    for beyond in (0, 1, 2, 4, 8, CONTINUED):
        ratios = sample_ratios(samples, mixture, [length + beyond for _, length in decided])
        m = Moments.of(stratum, hit, ratios, mixture.bound)
        rate, variance = plain(m)
        found = estimate(stratum, hit, ratios, mixture.bound, by=plain)
        rows.append({
            "beyond": beyond, "rate": found.rate, "low": found.low, "high": found.high, "variance": float(variance),
            "exact_z": float((rate - outcomes.rate()) / np.sqrt(variance)),
            "worth": float(effective_samples(m)) / m.samples, "n": len(samples), "hits": found.hits,
        })  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
