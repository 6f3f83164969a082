"""What is timed: the embedded pair in every form that a contender needs, and one description of the work for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffamp.adapters import adapter_pair
from diffamp.checkpoints import load_model, load_tokenizer
from diffamp.pairs import ModelPair, SeparatePair, SoloPair
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


@dataclass(frozen=True)
class Work:
    """A grid of texts to be sampled, the same for every contender."""

    prompts: Sequence[Prompt]
    alphas: Sequence[float]
    samples: int
    new_tokens: int
    ignore_ends: bool = True
    """All texts run to `new_tokens`, so that all contenders do the same work."""
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
