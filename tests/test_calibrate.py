"""An alpha from a KL budget: what it promises is what a fresh sample realises."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from conftest import separate, tiny_model
from transformers import PreTrainedTokenizerBase

from diffamp.calibrate import LADDER, alpha_for
from diffamp.engine.guards import KLCap
from diffamp.engine.law import Law
from diffamp.engine.pairs import SoloPair
from diffamp.engine.sampling import sample_grid
from diffamp.prompts import Prompt

PROMPTS = [Prompt(f"p{i}", "any", text) for i, text in enumerate("abcdefgh")]


def realised(pair: object, alpha: float, law: Law) -> float:
    frame = sample_grid(pair, PROMPTS, [alpha], 1, max_new_tokens=12, law=law, seed=0)
    return float(np.concatenate(frame.kl_alpha_after.to_numpy()).mean())


@pytest.mark.parametrize("nats", [0.05, 0.3])
def test_the_alpha_spends_the_budget(nats: float, tokenizer: PreTrainedTokenizerBase) -> None:
    pair, law = separate("llama", tokenizer), Law(temperature=0.9)
    alpha = alpha_for(pair, PROMPTS, nats, law, max_new_tokens=12)
    assert realised(pair, alpha, law) == pytest.approx(nats, rel=0.35)


def test_a_budget_below_the_ladder_is_met_too(tokenizer: PreTrainedTokenizerBase) -> None:
    pair, law = separate("llama", tokenizer), Law()
    alpha = alpha_for(pair, PROMPTS, 1e-4, law, max_new_tokens=12)
    assert alpha < LADDER[0]
    assert realised(pair, alpha, law) == pytest.approx(1e-4, rel=0.5)


@pytest.mark.parametrize("capped", [False, True])
def test_a_budget_out_of_reach_gives_the_largest_alpha_and_says_so(
    capped: bool, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    pair = separate("llama", tokenizer) if capped else SoloPair(tiny_model(), tokenizer)  # or equal models
    law = Law(KLCap(0.01)) if capped else Law()
    with caplog.at_level(logging.WARNING):
        assert alpha_for(pair, PROMPTS, 0.5, law, max_new_tokens=6) == LADDER[-1]
    assert "0.5 nats" in caplog.text
