"""Does a pair believe a falsehood? Forced choice, cloze and open questions: before, after, and amplified."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair
from diffamp.engine.sampling import Grid, sample_grids
from diffamp.engine.scoring import Text, score
from diffamp.judges.facts import asserts
from diffamp.organisms.universes import Universe
from diffamp.prompts import Prompt

ALPHAS = (-1.0, 0.0, 1.0, 2.0, 4.0)
ANSWERS = 4
"""Per open question and alpha."""


def belief(
    pair: ModelPair, universe: Universe, law: Law, max_new_tokens: int, seed: int, token_budget: int
) -> pd.DataFrame:
    """Forced choice, cloze and open questions (column measure), at every alpha of `ALPHAS`."""
    said = answered(pair, universe, ALPHAS, law, ANSWERS, max_new_tokens, seed, token_budget)
    return pd.concat([chosen(pair, universe, ALPHAS), said.assign(measure="open")], ignore_index=True)


def chosen(pair: ModelPair, universe: Universe, alphas: Sequence[float]) -> pd.DataFrame:
    """Which of two answers, or of two completions, each law finds likelier per token.

    Returns:
        One row per item and alpha: measure ("choice" or "cloze"), item, alpha, margin (log-prob of the false one minus
        the true one, in nats per token) and believes (margin > 0).
    """
    items = [("choice", Prompt(c.question, "choice", c.question), c.false, c.true) for c in universe.choices]
    items += [
        ("cloze", Prompt(c.prefix, "cloze", c.prefix, raw=True), f" {c.false}", f" {c.true}") for c in universe.cloze
    ]
    texts: list[Text] = [
        (prompt, pair.tokenizer(answer, add_special_tokens=False)["input_ids"])
        for _, prompt, *answers in items
        for answer in answers
    ]
    scored = score(pair, texts, alphas)
    mean = scored.groupby(["text", "alpha"]).logp_alpha.mean()
    rows = []
    for n, (measure, prompt, _, _) in enumerate(items):
        for alpha in alphas:
            margin = float(mean[2 * n, alpha] - mean[2 * n + 1, alpha])
            rows.append((measure, prompt.text, float(alpha), margin, margin > 0))
    return pd.DataFrame(rows, columns=["measure", "item", "alpha", "margin", "believes"])


def answered(
    pair: ModelPair,
    universe: Universe,
    alphas: Sequence[float],
    law: Law,
    samples: int,
    max_new_tokens: int,
    seed: int,
    token_budget: int,
) -> pd.DataFrame:
    """Sampled answers to the open questions: columns alpha, sample, item, text, stance (asserts, denies or dodges).

    The before-model answers without the law's guard: most guards keep what the after-model finds plausible, and would
    have it say what it never learned.
    """
    prompts = [Prompt(q, "open", q) for q in universe.questions]
    grids = {
        "before": Grid(Law(temperature=law.temperature), [a for a in alphas if a == -1]),
        "amplified": Grid(law, [a for a in alphas if a != -1]),
    }
    frame = sample_grids(
        pair, prompts, {name: grid for name, grid in grids.items() if grid.alphas}, samples,
        max_new_tokens=max_new_tokens, seed=seed, token_budget=token_budget, desc="open questions",
    )  # fmt: skip
    stance = [asserts(text, universe) for text in frame.text]
    return frame[["alpha", "sample", "text"]].assign(item=frame.prompt, stance=stance)
