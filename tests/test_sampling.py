"""The sampler against a naive loop: no cache, no batch, one row at a time, the same luck."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAMILIES, VOCAB, save_adapter_pair, separate, tiny_model, tiny_tokenizer
from peft import LoraConfig
from scipy.stats import chisquare
from transformers import PreTrainedTokenizerBase

from diffamp.engine.adapters import adapter_pair
from diffamp.engine.guards import UNGUARDED, Guard, Plausibility
from diffamp.engine.law import PER_TOKEN, Law
from diffamp.engine.noise import uniforms
from diffamp.engine.pairs import ModelPair, SeparatePair, SoloPair
from diffamp.engine.sampling import NonFiniteLogitsError, sample_grid
from diffamp.params import Precision
from diffamp.prompts import Prompt, encode

NEW = 10
ALPHAS = [-1.0, 0.0, 1.5, 100.0]
TEXTS = ["a", "cats and dogs in the garden, a short text about dogs and cats: zebra", "dogs", "a text. about xyz"]
PROMPTS = [Prompt(f"p{i}", "any", text) for i, text in enumerate(TEXTS)]
BUDGETS = [1, 200, 400, 10_000]  # one slot, three, six, all 32


def grid(
    pair: ModelPair, prompts: list[Prompt] = PROMPTS, alphas: list[float] = ALPHAS, **changes: Any
) -> pd.DataFrame:
    settings = {"samples": 2, "max_new_tokens": NEW, "seed": 5} | changes
    return sample_grid(pair, prompts, alphas, **settings)


def naive(pair: ModelPair, prompts: list[Prompt] = PROMPTS, law: Law | None = None) -> pd.DataFrame:
    """What `grid` must give, written down without anything that makes it fast."""
    law, rows = law or Law(), []
    end = pair.tokenizer.eos_token_id
    for prompt in prompts:
        for sample in range(2):
            luck = torch.from_numpy(uniforms(5, prompt.text, sample, NEW))
            for alpha in ALPHAS:
                ids, scores = encode(pair.tokenizer, prompt.text), []
                for u in luck:
                    sides = []
                    for side in ("before", "after"):
                        with pair.only(side) as model, torch.no_grad():
                            logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1, : pair.vocab_size]
                        sides.append(logits)
                    token, score = law.draw(*sides, torch.tensor([alpha]), u[None])
                    ids.append(int(token))
                    scores.append(score[0].numpy())
                    if ids[-1] == end:
                        break
                rows.append((prompt.id, sample, alpha, np.array(ids[-len(scores) :]), *np.stack(scores, 1)))
    return pd.DataFrame(rows, columns=["prompt_id", "sample", "alpha", "tokens", *PER_TOKEN])


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Same rows, same tokens, and scores to float32's precision (at alpha 100 it is amplified as well)."""
    key = [name for name in ("guard", "prompt_id", "alpha", "sample") if name in found and name in expected]
    found, expected = (f.sort_values(key, ignore_index=True) for f in (found, expected))
    assert found[key].equals(expected[key])
    assert [t.tolist() for t in found["tokens"]] == [t.tolist() for t in expected["tokens"]]
    for name in PER_TOKEN:
        for one, other, alpha in zip(found[name], expected[name], found["alpha"], strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4 * (1 + abs(alpha)), rtol=1e-4, err_msg=name)


@lru_cache
def family_pair(family: str) -> tuple[SeparatePair, pd.DataFrame]:
    pair = separate(family, tiny_tokenizer())
    return pair, naive(pair)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_checkpoints_give_what_the_naive_loop_gives(family: str, budget: int) -> None:
    pair, expected = family_pair(family)
    found = grid(pair, token_budget=budget)
    assert_same(found, expected)
    assert found["finish"].tolist() == ["end" if t[-1] == 2 else "length" for t in found["tokens"]]
    assert found["text"].tolist() == pair.tokenizer.batch_decode(list(found["tokens"]), skip_special_tokens=True)
    assert found.groupby("alpha")["tokens"].apply(lambda t: str([x.tolist() for x in t])).nunique() == len(ALPHAS)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_in_one_pass_gives_what_the_naive_loop_gives(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    pair = adapter_pair(*save_adapter_pair(tmp_path, tiny_model(family), tokenizer)[:2], "fp32")
    for budget in BUDGETS[1:3]:
        assert_same(grid(pair, token_budget=budget), family_pair(family)[1])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_that_is_switched_gives_what_the_naive_loop_gives(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    dora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", use_dora=True)
    pair = adapter_pair(*save_adapter_pair(tmp_path, tiny_model(family), tokenizer, config=dora)[:2], "fp32")
    assert isinstance(pair, SeparatePair)
    for budget in BUDGETS[1:3]:
        assert_same(grid(pair, token_budget=budget), naive(pair))


@pytest.mark.parametrize("budget", BUDGETS[1:])
def test_one_model_on_both_sides(budget: int, tokenizer: PreTrainedTokenizerBase) -> None:
    pair = SoloPair(tiny_model("gemma3_text"), tokenizer)
    assert_same(grid(pair, token_budget=budget), naive(pair))


@pytest.mark.parametrize("sizes", [(VOCAB, VOCAB + 7), (VOCAB + 7, VOCAB)])
def test_vocabularies_padded_to_different_sizes(sizes: tuple[int, int], tokenizer: PreTrainedTokenizerBase) -> None:
    pair = SeparatePair(*(tiny_model(seed=s, vocab=v) for s, v in enumerate(sizes)), tokenizer)
    assert_same(grid(pair, PROMPTS[:2], token_budget=300), naive(pair, PROMPTS[:2]))


@pytest.mark.parametrize("guard", [UNGUARDED, Plausibility(0.1), Plausibility(1.0)])
def test_guard_and_temperature(guard: Guard) -> None:
    pair, law = family_pair("llama")[0], Law(guard, temperature=0.7)
    expected = naive(pair, PROMPTS[:2], law)
    found = grid(pair, PROMPTS[:2], law=law, token_budget=300)
    assert_same(found, expected)
    logp_alpha, kl = (np.concatenate(found[c].to_list()) for c in ("logp_alpha", "kl_after_alpha"))
    assert np.isfinite(logp_alpha).all()  # no sampled token is ruled out
    assert np.isinf(kl).any() == (guard != UNGUARDED)
    if guard == Plausibility(1.0):
        np.testing.assert_array_equal(logp_alpha, 0)  # only the top token is left


@pytest.mark.parametrize("budget", BUDGETS)
def test_end_tokens_cut_the_texts_and_change_nothing_else(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, expected = family_pair("qwen2")
    ends = [int(expected["tokens"][0][0]), int(expected["tokens"][3][4])]  # the first ends a text in its first step
    monkeypatch.setattr(pair.modules[1].generation_config, "eos_token_id", ends)
    found, expected = grid(pair, token_budget=budget), expected.copy()
    lengths = [next((n for n, t in enumerate(row, 1) if t in ends), len(row)) for row in expected["tokens"]]
    for name in ("tokens", *PER_TOKEN):
        expected[name] = [row[:n] for row, n in zip(expected[name], lengths, strict=True)]
    assert_same(found, expected)
    assert min(lengths) == 1
    assert max(lengths) == NEW
    assert found["finish"].tolist() == ["end" if t[-1] in [*ends, 2] else "length" for t in found["tokens"]]


def test_all_texts_may_end_in_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = family_pair("llama")[0]
    monkeypatch.setattr(pair.modules[1].generation_config, "eos_token_id", list(range(VOCAB)))
    assert set(grid(pair, token_budget=200)["tokens"].map(len)) == {1}


@pytest.mark.parametrize("budget", BUDGETS[1:])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_weights_give_the_same_bytes_at_every_alpha(
    family: str, precision: Precision, budget: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    folders = save_adapter_pair(tmp_path, tiny_model(family), tokenizer, scale=0.0)[:2]  # peft starts with B = 0
    found = grid(adapter_pair(*folders, precision), token_budget=budget, shared=False)
    assert len(found) == 32
    assert (found.groupby(["prompt_id", "sample"])["text"].nunique() == 1).all()
    assert (found.groupby(["prompt_id", "sample"])["tokens"].agg(lambda t: len({x.tobytes() for x in t})) == 1).all()


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text"])
def test_neither_order_nor_company_matters(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, expected = family_pair(family)
    assert_same(grid(pair, PROMPTS[::-1], ALPHAS[::-1], token_budget=250), expected)
    alone = pd.concat([grid(pair, [p], [a], token_budget=250) for p in PROMPTS for a in ALPHAS])
    assert_same(alone, expected)
    monkeypatch.setattr("diffamp.engine.sampling.ROWS_PER_UNIT", 9)  # a unit per prompt
    assert_same(grid(pair, token_budget=250), expected)
    fewer = expected[expected["sample"] == 0].assign(sample=0)
    assert_same(grid(pair, samples=1), fewer)


@pytest.mark.parametrize(("alpha", "guard"), [(0.0, UNGUARDED), (1.5, UNGUARDED), (-0.5, Plausibility(0.02))])
def test_tokens_come_as_often_as_the_law_says(alpha: float, guard: Guard) -> None:
    pair, samples, law = family_pair("llama")[0], 3000, Law(guard, 1.5)
    found = grid(pair, PROMPTS[:1], [alpha], samples=samples, max_new_tokens=1, law=law)
    ids = torch.tensor([encode(pair.tokenizer, PROMPTS[0].text)])
    with torch.no_grad():
        before, after = ((m(ids).logits[:, -1] / 1.5).double().log_softmax(-1) for m in pair.modules)
    p = (after + alpha * (after - before))[0]
    if isinstance(guard, Plausibility):
        p[(after < after.max() + np.log(guard.c))[0]] = -torch.inf
    expected = samples * p.softmax(-1).numpy()
    counts = np.bincount([t[0] for t in found["tokens"]], minlength=VOCAB)
    assert (counts[expected == 0] == 0).all()
    common = expected >= 5
    assert common.sum() > 5
    cells = [np.append(x[common], x[~common].sum()) for x in (counts, expected)]
    keep = cells[1] > 0
    assert chisquare(cells[0][keep], cells[1][keep]).pvalue > 0.001


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_overflow_is_reported_with_prompt_alpha_and_step(
    side: int, bad: float, tokenizer: PreTrainedTokenizerBase
) -> None:
    pair = separate("llama", tokenizer)
    found = grid(pair, samples=1)
    said = [(row, t, step) for row, tokens in enumerate(found["tokens"]) for step, t in enumerate(tokens)]
    asked = {t for p in PROMPTS for t in encode(tokenizer, p.text)}
    once = [
        (row, t, s) for row, t, s in said if 1 < s < NEW - 1 and t not in asked and sum(t == x[1] for x in said) == 1
    ]
    row, token, step = once[len(once) // 2]
    with torch.no_grad():
        pair.modules[side].get_input_embeddings().weight[token, 0] = bad  # reading it is what overflows
    expected = rf"{found['prompt_id'][row]!r}, alpha {found['alpha'][row]}, step {step + 1}$"
    with pytest.raises(NonFiniteLogitsError, match=expected):
        grid(pair, samples=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alphas": [0.0, np.inf]}, "alphas must be finite"),
        ({"alphas": []}, "at least one"),
        ({"prompts": []}, "at least one"),
        ({"samples": 0}, "at least one"),
        ({"max_new_tokens": 127}, r"prompt 'p0' has \d tokens; with 127 new ones it exceeds the context of 128"),
    ],
)
def test_a_grid_that_cannot_be_sampled_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(family_pair("llama")[0], **changes)
