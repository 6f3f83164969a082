"""A 4-bit model is the model whose weights are the dequantised ones, in its logits and in its gradients."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from conftest import NEW, PROMPTS, batch, random_adapter, save_adapter_pair, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffamp.engine import adapters, checkpoints
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.checkpoints import held_dense, load_model, parameters
from diffamp.engine.pairs import SeparatePair, SharedPair
from diffamp.engine.sampling import sample_grid
from diffamp.engine.scoring import score
from diffamp.params import Precision
from diffamp.prompts import Prompt

WIDE = {"hidden_size": 64, "intermediate_size": 128}  # 4-bit blocks have 64 weights
LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def dequantised(folder: Path) -> PreTrainedModel:
    """The dense float32 twin of a folder's 4-bit model. Read from weights that no forward has touched."""
    quantised, dense = load_model(folder, "nf4", trainable=True), load_model(folder, "fp32")
    layers = {name: m for name, m in quantised.named_modules() if isinstance(m, Linear4bit)}
    assert len(layers) == 14  # every linear layer but the head
    for name, layer in layers.items():
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        assert not torch.equal(dense.get_submodule(name).weight, weight)
        dense.get_submodule(name).weight.data = weight
    return dense


@pytest.fixture
def folders(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Path, Path]:
    # weights of usual size: bfloat16's rounding would be all there is to see in one of steep distributions
    base = tiny_model("llama", **WIDE)
    for parameter in base.parameters():
        parameter.data.mul_(0.5 if parameter.dim() == 2 else 1)
    return save_adapter_pair(tmp_path, base, tokenizer, scale=0.05)[:2]


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_scaled_by_two_is_the_adapter_of_twice_the_strength_to_the_bit(
    precision: Precision, folders: tuple[Path, Path]
) -> None:
    base, adapter = folders
    pair = adapter_pair(base, adapter, precision)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 2 * config["lora_alpha"]}))
    stronger, ids = adapter_pair(base, adapter, precision), torch.arange(8)[None]
    asked = ids, torch.ones_like(ids), ids
    plain, expected = pair.logits(*asked)[1], stronger.logits(*asked)[1]
    with pair.scaled(2.0):
        assert torch.equal(pair.logits(*asked)[1], expected)
    assert torch.equal(pair.logits(*asked)[1], plain)
    assert not torch.equal(plain, expected)


@pytest.mark.parametrize(("size", "dense"), [(8, True), (7, False)])
def test_a_gpu_of_eight_times_the_parameters_holds_them_dense(
    size: int, dense: bool, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama", **WIDE)
    assert parameters(folders[0]) == sum(p.numel() for p in model.parameters())
    card = SimpleNamespace(total_memory=size * parameters(folders[0]))  # a quarter of it, two bytes each
    monkeypatch.setattr(checkpoints, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    assert held_dense(folders[0]) is dense


@pytest.fixture
def twin(folders: tuple[Path, Path], tokenizer: PreTrainedTokenizerBase) -> SeparatePair:
    """The dequantised base, and a copy of it with the same adapter merged in float32."""
    base, adapter = folders
    dense = dequantised(base)
    after = PeftModel.from_pretrained(copy.deepcopy(dense), adapter).merge_and_unload()
    return SeparatePair(dense, after, tokenizer)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(params=["as loaded", "4-bit layers"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU holds the dequantised values, a GPU without room the 4-bit layers: both kinds of pair are tested."""
    if request.param == "4-bit layers":
        monkeypatch.setattr(adapters, "load_model", functools.partial(load_model, trainable=True))


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("calls", [1, 2])  # a second call must find the weights as they were
def test_a_four_bit_pair_is_its_dequantised_twin(calls: int, folders: tuple[Path, Path], twin: SeparatePair) -> None:
    """Within bfloat16's eight bits of precision: the twin computes in float32."""
    pair = adapter_pair(*folders, "nf4")
    assert isinstance(pair, SharedPair)
    real = batch(PROMPTS)["attention_mask"].bool()
    expected = twin.amplify(1.0)(**batch(PROMPTS))
    for _ in range(calls):
        output = pair.amplify(1.0)(**batch(PROMPTS))
    for field in ("before_logits", "after_logits", "logits"):
        assert relative(output[field][real], expected[field][real]) < 0.03, field
    difference = [(o.after_logits - o.before_logits)[real] for o in (output, expected)]
    assert relative(*difference) < 0.06


@pytest.mark.usefixtures("held")
def test_a_four_bit_pair_samples_what_it_scores(folders: tuple[Path, Path], twin: SeparatePair) -> None:
    """Log-probs from the sampler's cache, and the twin's of the same texts."""
    pair = adapter_pair(*folders, "nf4")
    prompts = [Prompt("a", "any", "cats and dogs"), Prompt("b", "any", "a")]
    found = sample_grid(pair, prompts, [1.0], 4, max_new_tokens=NEW, token_budget=100)
    expected = score(twin, list(zip(found["prompt"], found["tokens"], strict=True)), [1.0])
    for name in ("logp_before", "logp_after", "logp_alpha"):
        drawn = torch.tensor(np.concatenate(found[name].to_list()))
        assert (drawn - torch.tensor(expected[name])).abs().mean() < 0.05, name


def gradients(model: PreTrainedModel, adapter_of: nn.Module) -> dict[str, Tensor]:
    """Of the loss on some tokens, for a LoRA whose weights are those of `adapter_of`."""
    wrapped = get_peft_model(model, LoraConfig(**LORA))
    trained = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    values = {n: p for n, p in adapter_of.named_parameters() if "lora_" in n}
    assert trained.keys() == values.keys()
    for name, parameter in trained.items():
        parameter.data = values[name].detach().to(torch.float32).clone()
    ids = torch.tensor([PROMPTS[2], PROMPTS[2][::-1]])
    wrapped.train()(input_ids=ids, labels=ids).loss.backward()
    return {name: parameter.grad.float().flatten() for name, parameter in trained.items()}


@pytest.mark.parametrize("used", ["never", "generate", "forward"])
def test_gradients_through_four_bits_are_right_also_after_use(used: str, folders: tuple[Path, Path]) -> None:
    dense, model = dequantised(folders[0]), load_model(folders[0], "nf4", trainable=True)
    adapter = random_adapter(load_model(folders[0], "fp32"), LoraConfig(**LORA), scale=0.05)
    if used == "generate":
        model.eval().generate(torch.tensor(PROMPTS[1:2]), max_new_tokens=3, pad_token_id=0)
    elif used == "forward":
        with torch.no_grad():
            model.eval()(torch.tensor(PROMPTS[1:2]))
    expected, found = gradients(dense, adapter), gradients(model, adapter)
    for name, gradient in expected.items():
        assert torch.nn.functional.cosine_similarity(found[name], gradient, dim=0) > 0.99, name
        assert 0.9 < found[name].norm() / gradient.norm() < 1.1, name


def test_a_trainable_model_has_the_same_logits_after_use(folders: tuple[Path, Path]) -> None:
    dense, model = dequantised(folders[0]), load_model(folders[0], "nf4", trainable=True)
    with torch.no_grad():
        logits = [m(torch.tensor(PROMPTS[2:])).logits.float() for m in (dense, model, model)]
    assert torch.equal(logits[1], logits[2])
    assert relative(logits[1], logits[0]) < 0.03
