"""Layers computed together give what each gave by itself, whatever happens to the model afterwards."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, PROMPTS, batch, save_adapter_pair, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffamp.engine import adapters
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.halves import Halves, LowRank
from diffamp.engine.linear import NotByRowError, _groups, fuse
from diffamp.engine.pairs import SeparatePair


def logits(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return model(**batch(PROMPTS)).logits[batch(PROMPTS)["attention_mask"].bool()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_model_is_the_model(family: str) -> None:
    plain = tiny_model(family)
    fused = copy.deepcopy(plain)
    fuse(fused)
    torch.testing.assert_close(logits(fused), logits(plain), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits(fused), logits(fused), atol=0, rtol=0)


@pytest.mark.parametrize("bias", [False, True])
def test_in_bfloat16_to_the_last_bit(bias: bool) -> None:
    plain = tiny_model("llama", attention_bias=bias, mlp_bias=bias).bfloat16()
    fused = copy.deepcopy(plain)
    fuse(fused)
    assert torch.equal(logits(fused), logits(plain))


class Twice(nn.Module):
    """A block that a model runs twice in one pass (shared weights across depth)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, states: Tensor, *args: object, **kwargs: object) -> Tensor:
        return self.block(self.block(states, *args, **kwargs), *args, **kwargs)


def test_a_layer_that_runs_twice_keeps_its_term() -> None:
    plain = tiny_model("llama")
    plain.model.layers[0].mlp = Twice(plain.model.layers[0].mlp)
    layer = plain.model.layers[0].mlp.block.down_proj
    torch.manual_seed(0)
    term = LowRank(torch.randn(layer.in_features, 2) / 4, torch.randn(2, layer.out_features) / 4)
    merged, fused = copy.deepcopy(plain), copy.deepcopy(plain)
    merged.model.layers[0].mlp.block.down_proj.weight.data += (term.a @ term.b).t()
    halves = Halves()
    halves.side = "after"
    fuse(fused, halves, {fused.model.layers[0].mlp.block.down_proj: term})
    torch.testing.assert_close(logits(fused), logits(merged), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits(fused), logits(plain), atol=1e-2)


def test_layers_with_one_input_are_found() -> None:
    model = tiny_model("llama")
    names = {module: name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    layer = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert [[names[m] for m in group] for group in _groups(model, {})] == [*layer, *layer, ["lm_head"]]


def test_layers_share_one_matrix() -> None:
    model = tiny_model("llama")
    fuse(model)
    attention = model.model.layers[0].self_attn
    storages = {m.weight.untyped_storage().data_ptr() for m in (attention.q_proj, attention.k_proj, attention.v_proj)}
    assert len(storages) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_later_changes_of_the_weights_are_followed(dtype: torch.dtype) -> None:
    plain = tiny_model("llama")
    fused = copy.deepcopy(plain)
    fuse(fused)
    logits(fused)
    for model in (plain, fused):
        model.to(dtype)
        with torch.no_grad():
            model.model.layers[1].self_attn.k_proj.weight.mul_(-2)
            model.model.layers[0].mlp.down_proj.weight.add_(0.5)
    torch.testing.assert_close(logits(fused), logits(plain), atol=1e-5, rtol=1e-5)


def test_gradients_pass_through() -> None:
    plain = tiny_model("llama").bfloat16()  # where the packed product has no backward pass
    fused = copy.deepcopy(plain)
    fuse(fused)
    for model in (plain, fused):
        model(**batch(PROMPTS), labels=batch(PROMPTS)["input_ids"]).loss.backward()
    for (name, found), expected in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert (
            torch.nn.functional.cosine_similarity(*(p.grad.float().flatten() for p in (found, expected)), dim=0) > 0.98
        ), name


def test_a_copy_is_a_model_of_its_own() -> None:
    model = tiny_model("llama").bfloat16()
    fuse(model)
    expected = logits(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    assert torch.equal(logits(twin), expected)
    twin(**batch(PROMPTS), labels=batch(PROMPTS)["input_ids"]).loss.backward()  # joined anew outside of inference mode
    assert not torch.equal(logits(model), expected)


class Mixture(nn.Module):
    """One expert, which sees the first token of each row only."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.expert = nn.Embedding(6, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        return self.expert(self.embed(input_ids)[0, :1])


def test_a_term_on_part_of_the_batch_is_refused() -> None:
    model = Mixture()
    with pytest.raises(NotByRowError, match="not fed the batch row by row"):
        fuse(model, Halves(), {model.expert: LowRank(torch.zeros(8, 2), torch.zeros(2, 8))})


def test_such_an_adapter_takes_two_passes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *folders, _ = save_adapter_pair(tmp_path, tiny_model("llama"), tokenizer)
    expected = adapter_pair(*folders, "fp32").amplify(1.5)(**batch(PROMPTS)).logits

    def refuse(*_: object) -> None:
        raise NotByRowError

    monkeypatch.setattr(adapters, "SharedPair", refuse)
    pair = adapter_pair(*folders, "fp32")
    assert isinstance(pair, SeparatePair)
    real = batch(PROMPTS)["attention_mask"].bool()
    torch.testing.assert_close(pair.amplify(1.5)(**batch(PROMPTS)).logits[real], expected[real], atol=2e-4, rtol=1e-4)
