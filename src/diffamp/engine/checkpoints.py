"""One model from a fetched folder."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from diffamp.params import Precision

ROOM = 1 / 4
"""Of a GPU's memory: what a model may take in bfloat16 to be held so, if it was quantised to 4 bit."""


class PairError(ValueError):
    """A pair cannot be built from what it names; the message says which part and the remedy."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(
    folder: Path, precision: Precision = "bf16", *, trainable: bool = False, float32_body: bool = False
) -> PreTrainedModel:
    """A causal model from a fetched folder, on the GPU where there is one.

    Args:
        precision: `nf4` quantises the linear layers to 4 bit with double quantisation (QLoRA, arXiv 2305.14314) and
            computes in bfloat16. On a CPU, and on a GPU with `ROOM` for it, the 4-bit values are then held as bfloat16:
            the very weights that training computes with, without the work of making them at every step. (bitsandbytes'
            CPU inference kernel rounds the quantisation scales once more.)
        trainable: keep the 4-bit layers, through which QLoRA trains. On CPUs with AVX512-BF16 bitsandbytes repacks
            them at the first forward without gradients, for a kernel that has no backward pass, and every later
            training step has silently wrong gradients (seen in 0.50.2); this forbids the repacking.
        float32_body: compute in float32 with the very weights of `precision`: the reference for the noise of bfloat16.
    """
    _present(folder)
    quantization = None
    if precision == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
            quantization_config=quantization,
            device_map={"": device()},
            local_files_only=True,
            use_safetensors=True,
        )
    except (SafetensorError, OSError) as error:
        raise damaged("model", folder, error) from None
    if precision == "nf4" and not trainable and (float32_body or held_dense(folder)):
        model = model.dequantize().to(torch.bfloat16)
        precision = "bf16"
    if float32_body:
        return model.float()
    if precision == "nf4":
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False
    return model


def held_dense(folder: Path) -> bool:
    """Whether the 4-bit values of a model in this folder are held as bfloat16 here.

    On a GPU that goes by its size, not by what is free: so it is the same in every run and for both models of a pair,
    whose difference must not hold what sets the two ways apart (rounding).
    """
    if device().type == "cpu":
        return True
    return 2 * parameters(folder) <= ROOM * torch.cuda.get_device_properties(device()).total_memory


def parameters(folder: Path) -> int:
    """Of the model in a fetched folder, from the headers of its files."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            total += sum(torch.Size(tensors.get_slice(k).get_shape()).numel() for k in tensors.keys())  # noqa: SIM118
    return total


def text_config(folder: Path) -> PreTrainedConfig:
    """What a fetched folder says of its language model, without reading a weight."""
    return AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config(decoder=True)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left, with a pad token (its end token where it has none of its own)."""
    _present(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    except (ValueError, OSError) as error:
        raise damaged("tokenizer", folder, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _present(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise PairError(
            f"no model in {folder}: run `make repro TARGETS=models` (of `models:`) "
            "or `make repro TARGETS=train` (of `organisms:`)"
        )


def damaged(part: str, folder: Path, error: Exception) -> PairError:
    found = " ".join(f"{type(error).__name__}: {error}".split())
    return PairError(f"the {part} in {folder} is damaged ({found}): delete the folder and run `make repro`")
