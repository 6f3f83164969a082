"""From a block of params.yaml to a pair in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from diffamp import paths
from diffamp.amplify import Guard, Plausibility, Unguarded
from diffamp.halves import Halves, add_low_rank, add_vector
from diffamp.pairs import ModelPair, SeparatePair, SharedPair
from diffamp.params import GuardParams, NoGuard, Params, Precision


class PairError(ValueError):
    """A pair cannot be built from what it names; the message says which part and the remedy."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, precision: Precision = "bf16", *, trainable: bool = False) -> PreTrainedModel:
    """A causal model from a fetched folder, on the GPU where there is one.

    Args:
        precision: `nf4` quantises the linear layers to 4 bit with double quantisation (QLoRA, arXiv 2305.14314) and
            computes in bfloat16. On a CPU the 4-bit values are then kept as bfloat16: the very numbers that training
            computes with, where bitsandbytes' CPU inference kernel rounds the quantisation scales once more.
        trainable: keep the 4-bit layers, through which QLoRA trains. On CPUs with AVX512-BF16 bitsandbytes repacks
            them at the first forward without gradients, for a kernel that has no backward pass, and every later
            training step has silently wrong gradients (seen in 0.50.2); this forbids the repacking.
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
        raise _damaged("model", folder, error) from None
    if precision == "nf4" and not trainable and model.device.type == "cpu":
        return model.dequantize().to(torch.bfloat16)
    if precision == "nf4":
        from bitsandbytes.nn import Linear4bit

        for module in model.modules():
            if isinstance(module, Linear4bit):
                module.support_avx512bf16_for_cpu = False
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer, padding on the left, with a pad token (its end token where it has none of its own)."""
    _present(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    except (ValueError, OSError) as error:
        raise _damaged("tokenizer", folder, error) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _present(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise PairError(f"no model in {folder}: run `dvc repro models` (or `make repro`), which fetches it")


def _damaged(part: str, folder: Path, error: Exception) -> PairError:
    found = " ".join(f"{type(error).__name__}: {error}".split())
    return PairError(f"the {part} in {folder} is damaged ({found}): delete the folder and run `make repro`")


def load_pair(params: Params, name: str) -> ModelPair:
    """The pair of this name in params.yaml.

    Raises:
        PairError, ParamsError: something it names is missing, damaged or does not fit.
    """
    pair = params.pair(name)
    if pair.after is not None:
        return checkpoint_pair(paths.model(pair.before), paths.model(pair.after), pair.precision)
    if pair.steering is not None:
        layer, vector = load_vector(paths.find_root() / pair.steering.file)
        return steered_pair(paths.model(pair.before), layer, vector * pair.steering.dose, pair.precision)
    assert pair.adapter is not None  # PairParams has checked that one of the three is given
    folder = paths.organism(pair.adapter) if pair.adapter in params.organisms else paths.model(pair.adapter)
    return adapter_pair(paths.model(pair.before), folder, pair.precision)


def checkpoint_pair(before: Path, after: Path, precision: Precision = "bf16") -> SeparatePair:
    """Two checkpoints with one tokenizer."""
    tokenizers = load_tokenizer(before), load_tokenizer(after)
    vocabularies = [set(t.get_vocab().items()) for t in tokenizers]
    if vocabularies[0] != vocabularies[1]:
        shared = len(vocabularies[0] & vocabularies[1]) / max(map(len, vocabularies))
        raise PairError(
            f"the vocabularies of {before.name} and {after.name} do not match: {shared:.1%} of the tokens have the "
            "same id in both. Logits can only be subtracted token by token; choose two models with one tokenizer."
        )
    return SeparatePair(load_model(before, precision), load_model(after, precision), tokenizers[1])


def steered_pair(base: Path, layer: int, vector: torch.Tensor, precision: Precision = "bf16") -> SharedPair:
    """A base without and with a vector (hidden,) added after decoder layer `layer` at every position."""
    model, halves = load_model(base, precision), Halves()
    blocks = decoder_layers(model)
    if not 0 <= layer < len(blocks):
        raise PairError(f"steering: layer {layer} is outside {base.name}'s {len(blocks)} layers")
    width = model.config.get_text_config().hidden_size
    if vector.shape != (width,):
        raise PairError(f"steering: the vector has the shape {tuple(vector.shape)}, {base.name} needs {(width,)}")
    add_vector(blocks[layer], vector.to(model.device), halves)
    return SharedPair(model, load_tokenizer(base), halves)


def adapter_pair(base: Path, adapter: Path, precision: Precision = "bf16") -> ModelPair:
    """A base without and with a PEFT adapter.

    Plain LoRA on linear layers runs in one pass over the shared weights. Anything else that peft loads (DoRA,
    embeddings, saved modules, other methods) is switched on and off around two passes: slower, the same numbers.
    """
    from peft import PeftModel

    weights = adapter / "adapter_model.safetensors"
    if not (adapter / "adapter_config.json").is_file() or not weights.is_file():
        raise PairError(f"no adapter in {adapter}: run `make repro`, or correct `adapter` in params.yaml")
    model = load_model(base, precision)
    try:
        wrapped = PeftModel.from_pretrained(model, adapter, local_files_only=True)
        with safe_open(weights, framework="pt") as stored:
            trained = sum(".lora_A." in key for key in stored.keys())  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise _damaged("adapter", adapter, error) from None
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
    tokenizer = load_tokenizer(base)
    if any(getattr(c, "bias", "none") != "none" for c in wrapped.peft_config.values()):
        # trained biases overwrite the base's own, which switching the adapter off does not bring back
        return SeparatePair(load_model(base, precision), wrapped, tokenizer)
    terms = _low_rank_terms(wrapped)
    if terms is None:
        return SeparatePair(wrapped, wrapped, tokenizer, switch_off=wrapped.disable_adapter)
    halves = Halves()
    for module, a, b in terms:
        add_low_rank(module, a, b, halves)
    return SharedPair(wrapped.unload(), tokenizer, halves)


def _low_rank_terms(wrapped: Any) -> list[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]] | None:
    """(base layer, A, scaled B) of every LoRA layer, or None where the adapter is more than plain LoRA."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    terms = []
    for module in wrapped.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return None
        if not isinstance(module, BaseTunerLayer):
            continue
        plain = isinstance(module, LoraLayer) and not module.lora_variant and not module.lora_embedding_A
        if not plain or not hasattr(module, "lora_A") or any(b.bias is not None for b in module.lora_B.values()):
            return None
        dtype = wrapped.dtype
        for key in module.active_adapters:
            a, b = module.lora_A[key].weight, module.lora_B[key].weight
            # stored as (in, rank) and (rank, out), the order in which the hook multiplies
            scaled = (b.detach().float() * module.scaling[key]).t().to(dtype).contiguous()
            terms.append((module.get_base_layer(), a.detach().t().to(dtype).contiguous(), scaled))
    return terms or None


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The stack of decoder blocks, whatever the family calls it: the longest module list of the network."""
    depth = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise PairError(f"{type(model).__name__} has no list of {depth} decoder layers to steer")
    return stacks[0]


def load_vector(file: Path) -> tuple[int, torch.Tensor]:
    """The layer and the vector (hidden,) float32 that notebook 01 wrote."""
    if not file.is_file():
        raise PairError(f"no steering vector at {file}: run `dvc repro vector`, or correct `steering.file`")
    try:
        with safe_open(file, framework="pt") as stored:
            return int(stored.metadata()["layer"]), stored.get_tensor("vector")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PairError(f"{file} is not a steering vector written by diffamp ({error})") from None


def load_guard(settings: GuardParams) -> Guard:
    """The guard that a block of `sampling.guards` describes."""
    return Unguarded() if isinstance(settings, NoGuard) else Plausibility(settings.c)


def fingerprint(params: Params, name: str) -> str:
    """A digest of every file that the pair of this name is made of: weights, configurations, tokenizer, template."""
    pair, digest = params.pair(name), hashlib.sha256()
    folders = [paths.model(pair.before)]
    if pair.after is not None:
        folders.append(paths.model(pair.after))
    if pair.adapter is not None:
        folders.append(paths.organism(pair.adapter) if pair.adapter in params.organisms else paths.model(pair.adapter))
    files = [f for folder in folders for f in sorted(folder.iterdir()) if f.is_file()]
    if pair.steering is not None:
        files.append(paths.find_root() / pair.steering.file)
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
