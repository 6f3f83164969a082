"""Attention for decoding: with one new token per row, the heads that share keys become positions of one query.

transformers repeats keys and values once per query head before it calls torch; while decoding, that copy costs more
than the arithmetic. On a CPU torch's kernel is besides at its worst with a single bfloat16 query, and its result
depends on the thread that computes a row (seen in torch 2.13), so that equal weights would not give equal logits.
There the sampler keeps its keys in float32 (`exact_keys`), and two float32 products take the kernel's place: faster,
more precise, and the same for a row wherever it sits.

Registered through transformers' own interface: a model's code stays as it is, and any family that runs under `sdpa`
takes part.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "diffamp_sdpa"


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """`sdpa`, except that one query per row is computed with its heads grouped by the keys they share.

    Args:
        query: (batch, heads, positions, dim); key, value: (batch, key heads, columns, dim), float32 where they come
            from a cache of exact keys.
        attention_mask: (batch, 1, positions, columns), true where a key may be seen, or None.

    Returns:
        (batch, positions, heads, dim), and no attention weights.
    """
    batch, heads, positions, dim = query.shape
    shared = key.shape[1]
    plain = all(kwargs.get(extra) is None for extra in ("position_bias", "softcap", "cache"))
    one_mask = attention_mask is None or (attention_mask.shape[1] == 1 and attention_mask.dtype == torch.bool)
    if positions > 1 or heads % shared or not plain or not one_mask:
        # keys in float32 were bfloat16 when they were written, so nothing is lost
        key, value = key.to(query.dtype), value.to(query.dtype)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = kwargs.get("scaling") or dim**-0.5
    q = query.view(batch, shared, heads // shared, dim)  # (batch, key heads, group, dim)
    if key.dtype == query.dtype:
        mask = None if attention_mask is None else attention_mask.expand(-1, -1, heads // shared, -1)
        output = nn.functional.scaled_dot_product_attention(q, key, value, attn_mask=mask, scale=scale)
    else:
        scores = torch.matmul(q.float().mul_(scale), key.transpose(-1, -2))  # (batch, key heads, group, columns)
        if attention_mask is not None:
            scores.masked_fill_(~attention_mask, -torch.inf)
        output = torch.matmul(scores.softmax(-1), value).to(query.dtype)
    return output.reshape(batch, 1, heads, -1), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def group_heads(model: PreTrainedModel) -> None:
    """Let a model that runs under `sdpa` decode with grouped heads."""
    if model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def exact_keys(model: PreTrainedModel) -> bool:
    """Whether a cache for this model should hold float32."""
    return model.device.type == "cpu" and model.config._attn_implementation == NAME
