"""What is timed: the embedded pair in every form that a contender needs, and one description of the work for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

from diffamp.engine.adapters import adapter_pair, shared_pair
from diffamp.engine.checkpoints import device, load_model, load_tokenizer
from diffamp.engine.pairs import ModelPair, SeparatePair, SoloPair
from diffamp.prompts import Prompt, encode, load_prompts


@dataclass(frozen=True)
class Subject:
    """One base and one adapter in bfloat16.

    Each form has weights of its own: what diffamp prepares for itself must not speed up, or slow down, what it is
    compared with.
    """

    tokenizer: PreTrainedTokenizerBase
    wrapped: PeftModel
    """peft's model, as published loops use it."""
    after: PreTrainedModel
    """The adapter merged into the base; transformers' own, untouched."""
    pair: ModelPair
    """Base and adapter."""
    two: SeparatePair
    """Base and merged model, as two checkpoints."""
    solo: SoloPair
    """The merged model alone, under diffamp's engine."""
    prompts: Sequence[Prompt]
    """32 of the dev split."""


def load_subject(base: Path, adapter: Path) -> Subject:
    """Load every form.

    Raises:
        PairError: the base or the adapter is missing (the message names `make repro`), damaged, or does not fit.
        FileNotFoundError: the prompts are missing (the message names `make data`).
    """
    prompts = load_prompts("dev", 32)
    pair = adapter_pair(base, adapter, "bf16")  # first, since its errors say what to do

    def wrapped() -> PeftModel:
        return PeftModel.from_pretrained(load_model(base), adapter, local_files_only=True).eval()

    def merged() -> PreTrainedModel:
        return wrapped().merge_and_unload().eval()

    tokenizer = load_tokenizer(base)
    return Subject(
        tokenizer=tokenizer,
        wrapped=wrapped(),
        after=merged(),
        pair=pair,
        two=SeparatePair(load_model(base), merged(), tokenizer),
        solo=SoloPair(merged(), tokenizer),
        prompts=prompts,
    )


SHAPES = {
    "smollm2-135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
}
"""What a Llama's speed depends on: weights of these sizes need no download to be timed."""


def random_subject(shape: str, tokenizer: Path, nf4: bool = False) -> Subject:
    """Random weights of a published shape with a random LoRA (rank 16, all linear layers), on the GPU if there is one.

    Args:
        tokenizer: folder of a tokenizer whose ids all lie in the shape's vocabulary.
        nf4: quantise the linear layers to 4 bit.
    """

    def base() -> PreTrainedModel:
        torch.manual_seed(0)
        config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, rms_norm_eps=1e-5)
        with torch.device(device()):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        return quantised(model) if nf4 else model

    def wrapped() -> PeftModel:
        torch.manual_seed(1)
        found = get_peft_model(base(), LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for name, weight in found.named_parameters():
            if "lora_" in name:
                weight.data = 0.02 * torch.randn_like(weight, dtype=torch.bfloat16)
        return found.eval()

    loaded = load_tokenizer(tokenizer)
    pair = shared_pair(wrapped(), loaded)
    assert pair is not None
    return Subject(
        tokenizer=loaded,
        wrapped=wrapped(),
        after=base(),  # no better and no worse for being the base
        pair=pair,
        two=SeparatePair(base(), base(), loaded),
        solo=SoloPair(base(), loaded),
        prompts=load_prompts("dev", 32),
    )


def quantised(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its linear layers, all but the output layer, in NF4. It is changed."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, layer in list(model.named_modules()):
        if type(layer) is nn.Linear and name != "lm_head":
            options = {"compute_dtype": torch.bfloat16, "quant_type": "nf4", "device": "meta"}
            quantised = Linear4bit(layer.in_features, layer.out_features, bias=False, **options)
            quantised.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4").to(
                layer.weight.device
            )
            model.set_submodule(name, quantised)
    return model


@dataclass(frozen=True)
class Work:
    """A grid of texts to be sampled, the same for every contender."""

    prompts: Sequence[Prompt]
    alphas: Sequence[float]
    samples: int
    new_tokens: int
    ignore_ends: bool = True
    """All texts run to `new_tokens`, so that all contenders do the same work."""
    shared: bool = True
    """The engine decodes once what rows have in common."""
    batch_rows: int = 32
    """Rows in a batch, where a contender has batches of fixed size."""
    token_budget: int = 8192
    """Columns of cache, where a contender sizes its batch by them."""

    @property
    def rows(self) -> int:
        return len(self.prompts) * len(self.alphas) * self.samples


def prompt_of(tokenizer: PreTrainedTokenizerBase, tokens: int) -> Prompt:
    """A prompt that is `tokens` long with its chat template around it."""
    text = "Tell"
    while (length := len(encode(tokenizer, text))) < tokens:
        text += " the"
    if length != tokens:
        raise ValueError(f"no prompt of {tokens} tokens: with its chat template the shortest has {length}")
    return Prompt(f"{tokens} tokens", "filler", text)
