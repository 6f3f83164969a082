"""Tiny random models of five families: they make every identity testable in milliseconds."""

from __future__ import annotations

import copy
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import settings
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from diffamp.engine.pairs import SeparatePair

settings.register_profile("diffamp", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("diffamp")

ROOT = Path(__file__).resolve().parents[1]
VOCAB = 160
NEW = 14
PROMPTS = [[1, 40], [1, 5, 17, 9, 33], [1, *range(20, 45)]]  # the last is longer than Gemma's window of 16

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
FAMILIES: dict[str, dict] = {
    "llama": {**_SMALL, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {**_SMALL},
    "qwen2": {**_SMALL, "num_key_value_heads": 2},
    "gemma3_text": {
        **_SMALL,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def tiny_model(family: str = "llama", seed: int = 0, vocab: int = VOCAB, **changes: object) -> PreTrainedModel:
    """A random float32 model; weights are scaled up so that its distributions are far from uniform."""
    torch.manual_seed(seed)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = {"vocab_size": vocab, "max_position_embeddings": 128}
    config = AutoConfig.for_model(family, **(special | sizes | FAMILIES[family] | changes))
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """A byte-level tokenizer of at most 160 tokens with a chat template, padding on the left."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c.isascii()]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet)
    base.train_from_iterator(["a short text about cats and dogs in the garden"] * 3, trainer)
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, padding_side="left", **special)
    tokenizer.chat_template = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny_tokenizer()


def random_adapter(base: PreTrainedModel, config: PeftConfig | None = None, scale: float = 0.1) -> PeftModel:
    """A copy of `base` with an adapter on all linear layers (default: plain LoRA), every weight of it random."""
    config = config or LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(copy.deepcopy(base), config)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn_like(parameter))
    return wrapped.eval()


def save_adapter_pair(
    folder: Path, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **adapter: object
) -> tuple[Path, Path, PreTrainedModel]:
    """A base and a random adapter on disk: their folders, and the after-model with the adapter merged into it."""
    wrapped = random_adapter(base, **adapter)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    wrapped.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter", wrapped.merge_and_unload().eval()


def separate(family: str, tokenizer: PreTrainedTokenizerBase, **changes: object) -> SeparatePair:
    """Two checkpoints; the after-model is the before-model with a random low-rank term on every layer."""
    before = tiny_model(family, **changes)
    return SeparatePair(before, random_adapter(before).merge_and_unload(), tokenizer)


def batch(prompts: list[list[int]]) -> dict[str, Tensor]:
    """Padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def continue_(model: nn.Module, prompts: list[list[int]], **changes: object) -> list[list[int]]:
    """New tokens only, to full length unless told otherwise."""
    inputs = batch(prompts)
    greedy = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    return model.generate(**inputs, **greedy | changes)[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture
def model_folder(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A tiny Llama on disk, as `diffamp.sources` would leave it."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
