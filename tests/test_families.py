"""Families beyond the five of conftest: latent attention, experts, softcaps, norms and names of other kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import FAMILIES, continue_, tiny_model, tiny_tokenizer

from diffamp.engine.pairs import SeparatePair, UnsupportedCacheError
from diffamp.engine.sampling import sample_grid
from diffamp.engine.scoring import score
from diffamp.prompts import Prompt

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GROUPED = {**_SMALL, "num_key_value_heads": 2}
OTHERS: dict[str, dict] = {
    "deepseek_v3": {
        **_SMALL,
        **{"moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
        **{"first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8},
        **{"qk_nope_head_dim": 8, "v_head_dim": 8, "n_shared_experts": 1, "num_key_value_heads": 4},
    },
    "mixtral": {**_GROUPED, "num_local_experts": 4},
    "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": 16},
    "qwen3": {**_GROUPED, "head_dim": 8},
    "olmo2": _GROUPED,
    "opt": {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
}
PROMPTS = [Prompt("a", "any", "a cat"), Prompt("b", "any", "dogs and cats in the garden")]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("family", OTHERS)
def test_what_is_sampled_is_what_is_scored(
    family: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, family, OTHERS[family])
    pair = SeparatePair(*(tiny_model(family, seed=s).to(dtype) for s in (0, 1)), tiny_tokenizer())
    found = sample_grid(pair, PROMPTS, [-1.0, 0.0, 1.0], 2, max_new_tokens=5, token_budget=300)
    scored = score(pair, list(zip(found["prompt"], found["tokens"], strict=True)), [-1.0, 0.0, 1.0])
    for number, row in found.iterrows():
        of_row = scored[(scored["text"] == number) & (scored["alpha"] == row["alpha"])]
        for name in ("logp_before", "logp_after", "logp_alpha"):
            np.testing.assert_allclose(of_row[name], row[name], atol=3 * tolerance, err_msg=name)


def test_a_family_with_other_states_can_be_generated_from_and_the_sampler_refuses_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, "lfm2", {**_GROUPED, "layer_types": ["conv", "full_attention"]})
    before, after = (tiny_model("lfm2", seed=s) for s in (0, 1))
    pair = SeparatePair(before, after, tiny_tokenizer())
    assert continue_(pair.amplify(0.0), [[1, 5, 17]]) == continue_(after, [[1, 5, 17]])
    with pytest.raises(UnsupportedCacheError, match="lfm2 keeps something else than keys and values"):
        sample_grid(pair, PROMPTS, [1.0], 1, max_new_tokens=2)
