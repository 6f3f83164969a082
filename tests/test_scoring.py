"""Scoring a given text says of each token what the sampler said when it drew it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAMILIES, save_adapter_pair, separate, tiny_model
from transformers import PreTrainedTokenizerBase

from diffamp.engine.adapters import adapter_pair
from diffamp.engine.guards import UNGUARDED, Guard, Plausibility
from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair
from diffamp.engine.sampling import sample_grid
from diffamp.engine.scoring import noise_floor, score, teacher_forced
from diffamp.prompts import Prompt, encode
from diffamp.stats import effective_sample_size

TEXTS = ["a", "cats and dogs in the garden, a short text about dogs", "zebra"]
PROMPTS = [Prompt(f"p{i}", "any", text) for i, text in enumerate(TEXTS)]
ALPHAS = [-1.0, 0.0, 2.0]
COLUMNS = ["logp_before", "logp_after", "logp_alpha", "kl_alpha_after"]


def sampled(pair: ModelPair, law: Law | None = None) -> pd.DataFrame:
    """Texts of many lengths: two end tokens cut them short."""
    pair.modules[-1].generation_config.eos_token_id = [2, *range(60, 75)]
    return sample_grid(pair, PROMPTS, ALPHAS, 2, max_new_tokens=12, law=law, seed=2, token_budget=200)


def assert_reproduces(pair: ModelPair, texts: pd.DataFrame, **settings: object) -> None:
    assert texts["tokens"].map(len).nunique() > 2
    scored = score(pair, list(zip(texts["prompt"], texts["tokens"], strict=True)), ALPHAS, **settings)
    assert len(scored) == len(ALPHAS) * texts["tokens"].map(len).sum()
    for number, text in texts.iterrows():
        rows = scored[(scored["text"] == number) & (scored["alpha"] == text["alpha"])]
        assert rows["position"].tolist() == list(range(len(text["tokens"])))
        assert rows["token"].tolist() == list(text["tokens"])
        for name in COLUMNS:
            np.testing.assert_allclose(rows[name], text[name], atol=5e-4, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_checkpoints(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    pair = separate(family, tokenizer)
    assert_reproduces(pair, sampled(pair))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_in_one_pass(family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    pair = adapter_pair(*save_adapter_pair(tmp_path, tiny_model(family), tokenizer)[:2], "fp32")
    assert_reproduces(pair, sampled(pair))


@pytest.mark.parametrize("budget", [1, 70, 130, 100_000])
def test_any_token_budget(budget: int, tokenizer: PreTrainedTokenizerBase) -> None:
    pair = separate("gemma3_text", tokenizer)
    assert_reproduces(pair, sampled(pair), token_budget=budget)


@pytest.mark.parametrize("guard", [UNGUARDED, Plausibility(0.2)])
def test_guard_and_temperature(guard: Guard, tokenizer: PreTrainedTokenizerBase) -> None:
    pair, law = separate("llama", tokenizer), Law(guard, temperature=0.6)
    assert_reproduces(pair, sampled(pair, law), law=law)


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_forced_logits_are_each_models_own(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    pair, texts = separate(family, tokenizer), [(TEXTS[0], [9, 30]), (TEXTS[1], [50, 51, 52, 9]), (TEXTS[2], [7])]
    for i, *sides in teacher_forced(pair, texts):
        prompt, answer = encode(tokenizer, texts[i][0]), texts[i][1]
        for model, logits in zip(pair.modules, sides, strict=True):
            with torch.no_grad():
                own = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            torch.testing.assert_close(logits, own, atol=1e-4, rtol=1e-4)


def test_log_probs_of_the_ends_are_the_models_at_every_alpha(tokenizer: PreTrainedTokenizerBase) -> None:
    scored = score(separate("llama", tokenizer), [(t, [5, 9, 33]) for t in TEXTS], [-1.0, 0.0, 3.0])
    by_alpha = {alpha: rows.reset_index(drop=True) for alpha, rows in scored.groupby("alpha")}
    for name in ("logp_before", "logp_after"):
        assert by_alpha[-1.0][name].equals(by_alpha[3.0][name])
    np.testing.assert_allclose(by_alpha[-1.0]["logp_alpha"], by_alpha[-1.0]["logp_before"], atol=1e-6)
    np.testing.assert_allclose(by_alpha[0.0]["logp_alpha"], by_alpha[0.0]["logp_after"], atol=1e-6)
    np.testing.assert_allclose(by_alpha[0.0]["kl_alpha_after"], 0, atol=1e-6)
    assert (by_alpha[3.0]["kl_alpha_after"] > 0.01).all()


def test_rounding_alone_is_measured_against_the_same_weights_in_float32(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folders = save_adapter_pair(tmp_path, tiny_model(), tokenizer)[:2]
    exact = adapter_pair(*folders, "bf16", float32_body=True)
    assert exact.modules[0].dtype == torch.float32
    texts = [(t, [5, 9, 33]) for t in TEXTS]
    assert noise_floor(exact, exact, texts, [1.0], Law(Plausibility(0.3)))["kl"].abs().max() < 1e-6
    none = noise_floor(exact, exact, texts, ALPHAS)
    assert (none["kl"].abs() < 1e-6).all()
    floor = noise_floor(adapter_pair(*folders, "bf16"), exact, texts, [*ALPHAS, 20.0]).groupby("alpha")["kl"].mean()
    assert len(none) == len(texts) * len(ALPHAS) * 3
    assert 0 < floor[0.0] < 0.05
    assert floor[20.0] > 10 * floor[0.0]


def test_reweighted_samples_are_worth_fewer_plain_ones_and_weigh_one_on_average(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    pair = separate("llama", tokenizer)
    pair.modules[-1].generation_config.eos_token_id = 2
    found = sample_grid(pair, PROMPTS[:1], [0.0, 2.0], 2000, max_new_tokens=2, law=Law(temperature=2.0), seed=4)
    plain, amplified = (found[found["alpha"] == a] for a in (0.0, 2.0))
    assert effective_sample_size(plain) == pytest.approx(2000, rel=1e-4)
    assert 20 < effective_sample_size(amplified) < 1900
    weight = np.exp(amplified["logp_after"].map(np.sum) - amplified["logp_alpha"].map(np.sum))
    assert abs(weight.mean() - 1) < 4 * weight.sem()
