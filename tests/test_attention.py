"""Grouped heads give what repeated keys give, and a row's result does not depend on where it sits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import VOCAB, tiny_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from diffamp.engine.attention import NAME, attention, write_out


class Layer(nn.Module):
    """What transformers' function reads of the calling module."""

    is_causal = True

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups = groups


def inputs(heads: int, shared: int, columns: int, positions: int = 1, rows: int = 5) -> dict[str, Any]:
    torch.manual_seed(columns)
    mask = torch.ones(rows, 1, positions, columns, dtype=torch.bool)
    for row in range(rows):
        mask[row, :, :, : row * columns // (2 * rows)] = False  # left padding
    return {
        "query": torch.randn(rows, heads, positions, 16),
        "key": torch.randn(rows, shared, columns, 16),
        "value": torch.randn(rows, shared, columns, 16),
        "attention_mask": mask,
    }


@pytest.mark.parametrize(("heads", "shared"), [(9, 3), (4, 4), (8, 1)])
@pytest.mark.parametrize("columns", [1, 7, 40])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_one_query(heads: int, shared: int, columns: int, masked: bool, scaling: float | None) -> None:
    given = inputs(heads, shared, columns)
    if not masked:
        given["attention_mask"] = None
    expected, _ = sdpa_attention_forward(Layer(heads // shared), **given, scaling=scaling)
    found, _ = attention(Layer(heads // shared), **given, scaling=scaling)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # keys in float32 under a bfloat16 query: exact up to the rounding of the query and of the result
    exact, _ = attention(Layer(heads // shared), **{**given, "query": given["query"].bfloat16()}, scaling=scaling)
    assert exact.dtype == torch.bfloat16
    torch.testing.assert_close(exact.float(), expected, atol=0.03, rtol=0.03)


def test_several_queries_are_left_to_transformers() -> None:
    given = inputs(4, 2, 9, positions=3)
    expected, _ = sdpa_attention_forward(Layer(2), **given)
    assert torch.equal(attention(Layer(2), **given)[0], expected)
    rounded = {k: v.bfloat16() if v.is_floating_point() else v for k, v in given.items()}
    expected, _ = sdpa_attention_forward(Layer(2), **rounded)
    kept = {**rounded, "key": rounded["key"].float(), "value": rounded["value"].float()}
    assert torch.equal(attention(Layer(2), **kept)[0], expected)


def test_a_softcap_is_refused_as_transformers_refuses_it() -> None:
    with pytest.raises(ValueError, match="softcap"):
        attention(Layer(2), **inputs(4, 2, 9), softcap=30.0)


@pytest.mark.parametrize("columns", range(33, 90, 8))
def test_equal_rows_have_equal_results_wherever_they_sit(columns: int) -> None:
    given = inputs(9, 3, columns, rows=1)
    rows = 61

    def everywhere(x: Tensor) -> Tensor:
        return x.expand(rows, *x.shape[1:]).contiguous()

    many = {k: everywhere(v) for k, v in given.items()}
    many["query"] = many["query"].bfloat16()
    found, _ = attention(Layer(3), **many)
    assert (found == found[:1]).all()


def test_only_models_under_sdpa_take_part() -> None:
    model = tiny_model("llama")
    write_out(model)
    assert model.config._attn_implementation == NAME
    eager = tiny_model("llama", attn_implementation="eager")
    write_out(eager)
    assert eager.config._attn_implementation == "eager"


def test_a_family_that_asks_for_sdpa_by_name_keeps_it() -> None:
    falcon = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("falcon", hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=VOCAB)
    )
    write_out(falcon)
    assert falcon.config._attn_implementation == "sdpa"
