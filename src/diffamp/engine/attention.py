"""Attention for decoding on a CPU: two float32 products in the place of torch's kernel.

torch's CPU kernel is at its worst with a single bfloat16 query, and its result depends on the thread that computes a
row (seen in torch 2.13), so that equal weights would not give equal logits. The sampler keeps its keys in float32
there, and for one new token per row attention is written out: faster, more precise, and the same for a row wherever it
sits. Everything else is left to transformers.

Registered through transformers' own interface: a model's code stays as it is.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "diffamp_sdpa"


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """`sdpa`, except for one query per row over float32 keys.

    Args:
        query: (batch, heads, positions, dim); key, value: (batch, key heads, columns, dim), float32 where they come
            from the sampler's cache.
        attention_mask: (batch, 1, positions, columns), true where a key may be seen, or None.

    Returns:
        (batch, positions, heads, dim), and no attention weights.
    """
    batch, heads, positions, dim = query.shape
    shared = key.shape[1]
    plain = all(kwargs.get(extra) is None for extra in ("position_bias", "softcap", "cache"))
    one_mask = attention_mask is None or (attention_mask.shape[1] == 1 and attention_mask.dtype == torch.bool)
    if positions > 1 or key.dtype != torch.float32 or heads % shared or not plain or not one_mask:
        # keys in float32 were of the query's type when they were written, so nothing is lost
        key, value = key.to(query.dtype), value.to(query.dtype)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # heads that share a key are the rows of one product: (batch, key heads, group, dim)
    grouped = query.view(batch, shared, heads // shared, dim).float() * (kwargs.get("scaling") or dim**-0.5)
    scores = torch.matmul(grouped, key.transpose(-1, -2))  # (batch, key heads, group, columns)
    if attention_mask is not None:
        scores.masked_fill_(~attention_mask, -torch.inf)
    output = torch.matmul(scores.softmax(-1), value).to(query.dtype)
    return output.reshape(batch, 1, heads, -1), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def write_out(model: PreTrainedModel) -> None:
    """Let a model that runs under `sdpa` on a CPU use `attention`.

    Families whose code asks for the name "sdpa" (sparse attention takes another way under other names) keep it.
    """
    by_name = re.search(r"_attn_implementation.*[\"']sdpa[\"']", inspect.getsource(sys.modules[type(model).__module__]))
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa" and not by_name:
        model.set_attn_implementation(NAME)
