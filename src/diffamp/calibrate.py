"""An alpha that spends a given KL: the unit in which pairs and guards compare."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair
from diffamp.engine.sampling import sample_grid
from diffamp.prompts import Prompt

LADDER = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Alphas tried."""

log = logging.getLogger(__name__)


def alpha_for(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    nats: float,
    law: Law | None = None,
    *,
    max_new_tokens: int,
    seed: int = 0,
    token_budget: int = 8192,
) -> float:
    """The alpha at which free-running text diverges from the after-model by `nats` per token, on average.

    Measured, not derived: KL grows with alpha at a given context, but the contexts themselves change with alpha. Texts
    are sampled at a ladder of alphas, and alpha is interpolated between two of them, both on log scales (KL is
    quadratic in small alphas).

    Args:
        prompts: dev prompts: the alpha is a choice.

    Returns:
        alpha, rounded to three digits; where no alpha of the ladder spends so much (equal models, a guard that caps
        the divergence), the largest one, with a warning.
    """
    frame = sample_grid(
        pair,
        prompts,
        LADDER,
        1,
        max_new_tokens=max_new_tokens,
        law=law,
        seed=seed,
        token_budget=token_budget,
        desc=f"alpha for {nats:g} nats per token",
    )
    tokens = frame[["alpha", "kl_alpha_after"]].explode("kl_alpha_after").astype(float)
    realised = np.maximum.accumulate(tokens.groupby("alpha").kl_alpha_after.mean().to_numpy())  # along the ladder
    if realised[-1] < nats:
        log.warning("no alpha up to %g spends %g nats per token (it spends %.3g)", LADDER[-1], nats, realised[-1])
        return LADDER[-1]
    if realised[0] >= nats:  # below the ladder, where KL is quadratic
        return float(f"{LADDER[0] * np.sqrt(nats / realised[0]):.3g}")
    first = int(np.argmax(realised >= nats))
    x, y = np.log(LADDER[first - 1 : first + 1]), np.log(np.maximum(realised[first - 1 : first + 1], 1e-12))
    return float(f"{np.exp(np.interp(np.log(nats), y, x)):.3g}")
