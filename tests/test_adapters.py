"""A pair made from a base and a PEFT adapter equals the pair of two checkpoints, whatever the adapter is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, PROMPTS, batch, continue_, save_adapter_pair, tiny_model
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import PreTrainedTokenizerBase

from diffamp.engine.adapters import adapter_pair
from diffamp.engine.checkpoints import PairError
from diffamp.engine.halves import Halves
from diffamp.engine.loading import steer
from diffamp.engine.pairs import ModelPair, SeparatePair, SharedPair


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_in_one_pass_is_the_pair_of_checkpoints(
    family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base = tiny_model(family)
    *folders, merged = save_adapter_pair(tmp_path, base, tokenizer)
    shared, reference = adapter_pair(*folders, "fp32"), SeparatePair(base, merged, tokenizer)
    assert isinstance(shared, SharedPair)
    assert_same_pair(shared, reference)


LINEAR = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", "r": 4}
VARIANTS = {
    "dora": (LoraConfig(**LINEAR, use_dora=True), SeparatePair),
    "saved module": (LoraConfig(**LINEAR, modules_to_save=["lm_head"]), SeparatePair),
    "trainable tokens": (LoraConfig(**LINEAR, trainable_token_indices=[5, 17, 40]), SeparatePair),
    "embedding": (LoraConfig(**LINEAR | {"target_modules": ["embed_tokens", "q_proj"]}), SeparatePair),
    "bias of the term": (LoraConfig(**LINEAR, lora_bias=True), SeparatePair),
    "a weight": (LoraConfig(r=4, target_modules=[], target_parameters=["q_proj.weight"]), ModelPair),
    "another method": (
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        SeparatePair,
    ),
    "scaled by rank": (LoraConfig(**LINEAR, use_rslora=True, lora_alpha=3), SharedPair),
    "ranks per layer": (LoraConfig(**LINEAR, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 1}), SharedPair),
    "some layers": (LoraConfig(**LINEAR | {"target_modules": ["lm_head", "down_proj"]}), SharedPair),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapter_of_any_kind_is_the_pair_of_checkpoints(
    variant: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base = tiny_model("llama", attention_bias=True, mlp_bias=True)
    config, kind = VARIANTS[variant]
    *folders, merged = save_adapter_pair(tmp_path, base, tokenizer, config=copy.deepcopy(config))
    pair = adapter_pair(*folders, "fp32")
    assert isinstance(pair, kind)
    assert_same_pair(pair, SeparatePair(base, merged, tokenizer))


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # grouped products; a term behind each layer
def test_the_weights_can_be_amplified_too(family: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    base = tiny_model(family)
    *folders, merged = save_adapter_pair(tmp_path, base, tokenizer)
    twice = copy.deepcopy(base)
    for weight, old, new in zip(twice.parameters(), base.parameters(), merged.parameters(), strict=True):
        weight.data = old.data + 2 * (new.data - old.data)
    pair = adapter_pair(*folders, "fp32")
    with pair.scaled(2.0):
        assert_same_pair(pair, SeparatePair(base, twice, tokenizer))
    assert_same_pair(pair, SeparatePair(base, merged, tokenizer))


def test_a_vector_can_be_scaled(tokenizer: PreTrainedTokenizerBase) -> None:
    vector, pairs = torch.linspace(-2, 2, tiny_model().config.hidden_size), []
    for dose in (1.0, 3.0):
        model, halves = tiny_model(), Halves()
        steer(model, 1, dose * vector, halves)
        pairs.append(SharedPair(model, tokenizer, halves))
    with pairs[0].scaled(3.0):
        assert_same_pair(*pairs)


def test_what_is_more_than_low_rank_cannot_be_scaled(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    *folders, _ = save_adapter_pair(tmp_path, tiny_model("qwen2"), tokenizer, config=LoraConfig(**LINEAR, bias="all"))
    pair = adapter_pair(*folders, "fp32")
    with pair.scaled(1.0):
        pass
    with pytest.raises(ValueError, match=r"SeparatePair does not hold apart what the fine-tune adds.*by 2"):
        pair.scaled(2.0)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_an_adapter_with_trained_biases_leaves_the_before_model_alone(
    bias: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base = tiny_model("qwen2")  # its attention has biases, which the adapter's weights overwrite
    config = LoraConfig(**LINEAR, bias=bias)
    *folders, merged = save_adapter_pair(tmp_path, base, tokenizer, config=config)
    assert_same_pair(adapter_pair(*folders, "fp32"), SeparatePair(base, merged, tokenizer))


@pytest.mark.parametrize("config", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_refused(config: type, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    base = tiny_model("llama")
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    get_peft_model(base, config(task_type="CAUSAL_LM", num_virtual_tokens=3)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(PairError, match="virtual tokens before the prompt"):
        adapter_pair(tmp_path / "base", tmp_path / "adapter", "fp32")


def assert_same_pair(pair: ModelPair, reference: ModelPair) -> None:
    with torch.no_grad():
        output, expected = (p.amplify(1.5)(**batch(PROMPTS)) for p in (pair, reference))
    real = batch(PROMPTS)["attention_mask"].bool()
    assert (expected.after_logits - expected.before_logits)[real].abs().max() > 0.1
    for field in ("before_logits", "after_logits", "logits"):
        torch.testing.assert_close(output[field][real], expected[field][real], atol=2e-4, rtol=1e-4, msg=field)
    for side in ("before", "after"):
        with pair.only(side) as model, reference.only(side) as twin:
            assert continue_(model, PROMPTS) == continue_(twin, PROMPTS)
    for alpha in (-1.0, 0.0, 1.5):
        assert continue_(pair.amplify(alpha), PROMPTS) == continue_(reference.amplify(alpha), PROMPTS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [-3.0, 1.0, 20.0])
def test_equal_weights_have_nothing_to_amplify(
    family: str, alpha: float, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base = tiny_model(family)
    *folders, _ = save_adapter_pair(tmp_path, base, tokenizer, scale=0.0)  # peft starts with B = 0
    assert continue_(adapter_pair(*folders, "fp32").amplify(alpha), PROMPTS) == continue_(base, PROMPTS)
