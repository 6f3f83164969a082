"""A pair from a base and a PEFT adapter: in one pass where the adapter is plain LoRA, in two where it is more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from diffamp.engine.checkpoints import PairError, damaged, load_model, load_tokenizer
from diffamp.engine.halves import Halves, LowRank
from diffamp.engine.linear import NotByRowError
from diffamp.engine.pairs import ModelPair, SeparatePair, SharedPair
from diffamp.params import Precision


def adapter_pair(
    base: Path,
    adapter: Path,
    precision: Precision = "bf16",
    *,
    float32_body: bool = False,
    shared: bool = True,
) -> ModelPair:
    """A base without and with a PEFT adapter.

    Plain LoRA on linear layers runs in one pass over the shared weights. Other changes of weights or activations that
    peft loads (DoRA, embeddings, saved modules, IA3, layers that do not see the batch row by row) are switched on and
    off around two passes: slower, the same numbers. Adapters that put virtual tokens before the prompt are refused.

    Args:
        float32_body: see `diffamp.engine.checkpoints.load_model`.
        shared: False takes two passes in any case, for a `SeparatePair`.
    """
    wrapped = load_adapter(base, adapter, precision, float32_body=float32_body)
    tokenizer = load_tokenizer(base)
    if any(c.is_prompt_learning for c in wrapped.peft_config.values()):
        raise PairError(f"the adapter in {adapter} puts virtual tokens before the prompt, which a pair cannot share")
    try:
        found = shared_pair(wrapped, tokenizer) if shared else None
    except NotByRowError:
        wrapped, found = load_adapter(base, adapter, precision, float32_body=float32_body), None
    if found is not None:
        return found
    if _biased(wrapped):
        # trained biases overwrite the base's own, which switching the adapter off does not bring back
        return SeparatePair(load_model(base, precision, float32_body=float32_body), wrapped, tokenizer)
    return SeparatePair(wrapped, wrapped, tokenizer, switch_off=wrapped.disable_adapter)


def shared_pair(wrapped: PeftModel, tokenizer: PreTrainedTokenizerBase) -> SharedPair | None:
    """A pair of peft's model and its base, or None where the adapter is more than plain LoRA. Takes the model apart.

    Raises:
        NotByRowError: a layer with a term is fed something else than the whole batch; the model is spoilt then.
    """
    terms = None if _biased(wrapped) else _low_rank_terms(wrapped)
    return None if terms is None else SharedPair(wrapped.unload(), tokenizer, Halves(), terms)


def _biased(wrapped: PeftModel) -> bool:
    return any(getattr(c, "bias", "none") != "none" for c in wrapped.peft_config.values())


def load_adapter(
    base: Path, adapter: Path, precision: Precision = "bf16", *, float32_body: bool = False, trainable: bool = False
) -> PeftModel:
    """The base with the adapter's layers in it, as peft's model.

    Args:
        float32_body: see `diffamp.engine.checkpoints.load_model`.
        trainable: the adapter's weights take gradients.
    """
    weights = adapter / "adapter_model.safetensors"
    if not (adapter / "adapter_config.json").is_file() or not weights.is_file():
        raise PairError(f"no adapter in {adapter}: run `make repro`, or correct `adapter` in params.yaml")
    model = load_model(base, precision, float32_body=float32_body)
    try:
        wrapped = PeftModel.from_pretrained(model, adapter, is_trainable=trainable, local_files_only=True)
        with safe_open(weights, framework="pt") as stored:
            trained = sum(".lora_A." in key for key in stored.keys())  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise damaged("adapter", adapter, error) from None
    except (RuntimeError, ValueError) as error:
        last = str(error).strip().splitlines()[-1].strip()  # the first says only that there were errors
        raise PairError(f"the adapter in {adapter} does not fit {base.name}: {last}") from None
    # peft drops what has no place in the base, and leaves what is absent at its random start
    placed = sum(".lora_A." in key for key, _ in wrapped.named_parameters())
    if trained != placed:
        raise PairError(
            f"the adapter in {adapter} does not fit {base.name}: it holds {trained} LoRA terms, "
            f"its settings ask for {placed} on this base"
        )
    return wrapped


def _low_rank_terms(wrapped: Any) -> dict[torch.nn.Module, LowRank] | None:
    """Base layer -> its term, for every LoRA layer, or None where the adapter is more than plain LoRA."""
    terms: dict[torch.nn.Module, LowRank] = {}
    for module in wrapped.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return None
        if not isinstance(module, BaseTunerLayer):
            continue
        # other bases (embeddings, convolutions, the stacked experts of a mixture) do not see the batch row by row
        plain = isinstance(module, LoraLayer) and isinstance(module.get_base_layer(), torch.nn.Linear | Conv1D)
        plain = plain and not module.lora_variant and not module.lora_embedding_A
        if not plain or not hasattr(module, "lora_A") or any(b.bias is not None for b in module.lora_B.values()):
            return None
        a, b, scaling = module.lora_A, module.lora_B, module.scaling
        active, dtype = module.active_adapters, wrapped.dtype
        # as (in, rank) and (rank, out), the order in which they multiply
        terms[module.get_base_layer()] = LowRank(
            torch.cat([a[k].weight.detach().t() for k in active], 1).to(dtype).contiguous(),
            torch.cat([(b[k].weight.detach().float() * scaling[k]).t() for k in active]).to(dtype).contiguous(),
        )
    return terms or None
