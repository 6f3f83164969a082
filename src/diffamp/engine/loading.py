"""From a block of params.yaml to a pair in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from diffamp import paths
from diffamp.engine import guards
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.checkpoints import PairError, load_model, load_tokenizer, text_config
from diffamp.engine.halves import Halves, add_vector
from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair, ProxyPair, SeparatePair, SharedPair
from diffamp.engine.vocabulary import Reconciliation, reconcile
from diffamp.params import GuardParams, PairParams, Params, Precision

log = logging.getLogger(__name__)


def load_pair(params: Params, name: str, *, float32_body: bool = False) -> ModelPair:
    """The pair of this name in params.yaml.

    Args:
        float32_body: see `diffamp.engine.checkpoints.load_model`.

    Raises:
        PairError, ParamsError: something it names is missing, damaged or does not fit.
    """
    pair = params.pair(name)
    before = folder_of(params, pair.before)
    if pair.steering is not None:
        layer, vector = load_vector(paths.find_root() / pair.steering.file)
        return steered_pair(before, layer, vector * pair.steering.dose, pair.precision, float32_body=float32_body)
    after = folder_of(params, pair.after or pair.adapter or "")
    if pair.target is None and pair.adapter is not None:
        return adapter_pair(before, after, pair.precision, float32_body=float32_body)
    if pair.adapter is not None:
        small: ModelPair = adapter_pair(before, after, pair.precision, float32_body=float32_body, shared=False)
    else:
        small = checkpoint_pair(before, after, pair.precision, float32_body=float32_body, overlap=pair.overlap)
    if pair.target is None:
        return small
    assert isinstance(small, SeparatePair)
    target = folder_of(params, pair.target)
    vocabulary = reconcile(load_tokenizer(target), small.tokenizer, small.vocab_size, small.vocab_size)
    if not vocabulary.equal:
        raise PairError(f"pairs.{name}.target: {pair.target} needs the vocabulary of the two models; {vocabulary}")
    return ProxyPair(small, load_model(target, pair.precision, float32_body=float32_body))


def folder_of(params: Params, name: str) -> Path:
    """Where the weights of this name lie: made here, or fetched."""
    return paths.organism(name) if params.trains(name) else paths.model(name)


def folders_of(params: Params, pair: PairParams) -> list[Path]:
    """Every folder that a pair is made of, whole models first."""
    names = [pair.before, pair.after, pair.target, pair.adapter]
    return [folder_of(params, name) for name in names if name is not None]


def checkpoint_pair(
    before: Path, after: Path, precision: Precision = "bf16", *, float32_body: bool = False, overlap: float = 0.95
) -> SeparatePair:
    """Two checkpoints, whose vocabularies may differ in a few tokens (`diffamp.engine.vocabulary`).

    Prompts take the after-model's template; `models.NAME.chat_template` in params.yaml puts another in its place.

    Args:
        overlap: least share of the after-model's tokens that the before-model must know.

    Raises:
        PairError: it knows fewer, or a file is missing or damaged.
    """
    tokenizers = load_tokenizer(before), load_tokenizer(after)
    vocabulary = reconcile(*tokenizers, *(text_config(folder).vocab_size for folder in (before, after)))
    # before minutes go into weights that do not fit
    check_overlap(vocabulary, overlap, before.name, after.name)
    if not vocabulary.equal:
        log.warning("%s and %s: %s", before.name, after.name, vocabulary)
    first, second = (load_model(folder, precision, float32_body=float32_body) for folder in (before, after))
    return SeparatePair(first, second, tokenizers[1], vocabulary=None if vocabulary.equal else vocabulary)


def check_overlap(vocabulary: Reconciliation, overlap: float, before: str, after: str) -> None:
    if vocabulary.share < overlap:
        raise PairError(
            f"the vocabularies of {before} and {after} do not match: {vocabulary}. Logits can only be subtracted token "
            f"by token: choose two models of one tokenizer, or set `overlap` of the pair below {vocabulary.share:.3f}."
        )


def steered_pair(
    base: Path, layer: int, vector: torch.Tensor, precision: Precision = "bf16", *, float32_body: bool = False
) -> SharedPair:
    """A base without and with a vector (hidden,) added after decoder layer `layer` at every position."""
    model, halves = load_model(base, precision, float32_body=float32_body), Halves()
    steer(model, layer, vector, halves)
    return SharedPair(model, load_tokenizer(base), halves)


def steer(model: PreTrainedModel, layer: int, vector: torch.Tensor, halves: Halves) -> RemovableHandle:
    """Add a vector (hidden,) after a decoder layer, on the after rows; the handle takes it away again.

    Raises:
        PairError: the model has no such layer, or another width.
    """
    blocks, name = decoder_layers(model), Path(model.config.name_or_path).name
    if not 0 <= layer < len(blocks):
        raise PairError(f"steering: layer {layer} is outside {name}'s {len(blocks)} layers")
    width = model.config.get_text_config().hidden_size
    if vector.shape != (width,):
        raise PairError(f"steering: the vector has the shape {tuple(vector.shape)}, {name} needs {(width,)}")
    return add_vector(blocks[layer], vector.to(model.device), halves)


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The stack of decoder blocks, whatever the family calls it: the longest module list of the network."""
    depth = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise PairError(f"{type(model).__name__} has no list of {depth} decoder layers to steer")
    return stacks[0]


def load_vector(file: Path) -> tuple[int, torch.Tensor]:
    """The layer and the vector (hidden,) float32 from a file that `diffamp.stages.vector` wrote."""
    if not file.is_file():
        raise PairError(f"no steering vector at {file}: run `make repro TARGETS=vector`, or correct `steering.file`")
    try:
        with safe_open(file, framework="pt") as stored:
            return int(stored.metadata()["layer"]), stored.get_tensor("vector")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PairError(f"{file} is not a steering vector written by diffamp ({error})") from None


def load_mild_vector(folder: Path, layer: int | None = None) -> tuple[int, torch.Tensor]:
    """The layer and the vector at its mild dose, from a folder that `diffamp.stages.vector` wrote.

    Args:
        layer: of the candidates; default the one that was kept.

    Raises:
        PairError: the folder is not there, or the vector has no mild dose in that layer.
    """
    choice = json.loads((folder / "choice.json").read_text()) if (folder / "choice.json").is_file() else {}
    if "doses" not in choice:
        raise PairError(f"no vector in {folder}, or one of an older version: run `make repro TARGETS=vector`")
    wanted = choice["layer"] if layer is None else layer
    if str(wanted) not in choice["doses"]:
        raise PairError(
            f"{folder}: no dose is mild enough in layer {wanted}; add smaller doses to `doses` of this vector"
        )
    name = "vector" if wanted == choice["layer"] else f"layer-{wanted}"
    found, vector = load_vector(folder / f"{name}.safetensors")
    return found, vector * choice["doses"][str(wanted)]


GUARDS: dict[str, Callable[..., guards.Guard]] = {
    "plausibility": guards.Plausibility,
    "floor": guards.Floor,
    "after_top_p": guards.AfterTopP,
    "top_p": guards.TopP,
    "top_k": guards.TopK,
    "min_p": guards.MinP,
    "clip": guards.Clip,
    "kl_cap": guards.KLCap,
    "gate": guards.Gate,
    "peaks": guards.Peaks,
    "rescale": guards.Rescale,
}


def load_law(chain: Sequence[GuardParams], temperature: float, pair: ModelPair) -> Law:
    """The law that a chain of guards in params.yaml describes, at a temperature.

    Args:
        pair: whose end tokens `end_unamplified` leaves alone.
    """
    links: list[guards.Guard] = []
    half_life = math.inf
    for link in chain:
        if link.method == "decay":
            half_life = link.setting["half_life"]
        elif link.method == "end_unamplified":
            links.append(guards.Unamplified(tuple(pair.end_tokens)))
        else:
            guard = GUARDS[link.method]
            tempered = {"temperature": temperature} if hasattr(guard, "temperature") else {}
            links.append(guard(**link.setting, **tempered))
    return Law(guards.Chain(tuple(links)), temperature, half_life)


def fingerprint(params: Params, name: str) -> str:
    """A digest of every file that the pair of this name is made of: weights, configurations, tokenizer, template."""
    pair, digest = params.pair(name), hashlib.sha256()
    files = [f for folder in folders_of(params, pair) for f in sorted(folder.iterdir()) if f.is_file()]
    if pair.steering is not None:
        files.append(paths.find_root() / pair.steering.file)
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
