"""The cheap questions about a pair, before a long run: `make check-pair PAIR=name` (`python -m diffamp.check name`)."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, DynamicCache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from diffamp import params, paths
from diffamp.engine.checkpoints import (
    PairError,
    device,
    held_dense,
    load_tokenizer,
    parameters,
    text_config,
)
from diffamp.engine.loading import folder_of, load_pair
from diffamp.engine.pairs import keys_and_values
from diffamp.engine.sampling import sample_grid
from diffamp.engine.vocabulary import reconcile
from diffamp.params import PairParams, Params, ParamsError, Precision
from diffamp.prompts import DataError, encode, load_prompts
from diffamp.runtime import setup

BYTES = {"bf16": 2.0, "fp32": 4.0, "nf4": 0.6}
"""Per parameter on a GPU; the embeddings of an NF4 model stay in bf16, which 0.6 allows for."""
GIB = 2**30


@dataclass(frozen=True)
class Answer:
    """One question and how it came out."""

    question: str
    good: bool
    words: str


def check(p: Params, name: str) -> Iterator[Answer]:
    """Sources, architecture, vocabulary, template, memory, and one step: each as soon as it is known.

    Stops at the first answer without which the next question makes no sense.
    """
    pair = p.pair(name)
    sources = _sources(p, name, pair)
    yield sources
    if not sources.good:
        return
    # the last one's tokenizer is the pair's
    folders = [folder_of(p, m) for m in (pair.target, pair.before, pair.after) if m]
    architectures = [_architecture(folder) for folder in dict.fromkeys(folders)]
    yield from architectures
    if not all(answer.good for answer in architectures):
        return
    tokenizers = [load_tokenizer(f) for f in folders]
    asked = encode(tokenizers[-1], "Hello?")
    sizes = [text_config(f).vocab_size for f in folders]
    for number, tokenizer in enumerate(tokenizers[:-1]):
        vocabulary = reconcile(tokenizer, tokenizers[-1], sizes[number], sizes[-1])
        of_target = number == 0 and pair.target is not None
        good = vocabulary.equal if of_target else vocabulary.share >= pair.overlap
        yield Answer("vocabulary", good, f"target {pair.target}: {vocabulary}" if of_target else str(vocabulary))
        if not good:
            return
        strange = [t for t in asked if vocabulary.to_before[t] < 0]
        if strange:
            words = f"the before-model does not know its {', '.join(map(repr, tokenizers[-1].batch_decode(strange)))}"
            yield Answer("template", False, f"{words}; set models.{pair.after}.chat_template to one of plain words")
    shown = tokenizers[-1].decode(asked)
    kind = "chat template" if tokenizers[-1].chat_template else "no chat template, prompts are raw text"
    yield Answer("template", True, f"{kind}: {shown!r}")
    yield _memory(p, pair, folders)
    setup(p.seed, p.threads)
    prompt = load_prompts("dev", 1)
    frame = sample_grid(load_pair(p, name), prompt, [-1.0, 0.0, 1.0], 1, max_new_tokens=8, token_budget=1024)
    nats = [float(k.mean()) for k in frame.kl_alpha_after]
    said = "; ".join(f"alpha {a:g}: {t!r}" for a, t in zip(frame.alpha, frame.text, strict=True))
    yield Answer("one step", True, f"{prompt[0].text!r} -> {said}; {nats[-1]:.2f} nats per token at alpha 1")
    yield Answer("difference", max(nats) > 0, "the models differ" if max(nats) > 0 else "before and after are equal")


def _sources(p: Params, name: str, pair: PairParams) -> Answer:
    """Whether everything is there that the pair is made of, and what would bring what is not."""
    needed = {m: "config.json" for m in (pair.target, pair.before, pair.after) if m}
    needed |= {pair.adapter: "adapter_config.json"} if pair.adapter else {}
    stages = [_stage(p, m) for m, file in needed.items() if not (folder_of(p, m) / file).is_file()]
    vector = paths.find_root() / pair.steering.file if pair.steering else None
    if vector and not vector.is_file():
        made = [f"vector@{v}" for v in p.vectors if vector.parent == paths.vector(v)]
        if not made:
            return Answer("sources", False, f"no {vector}: correct pairs.{name}.steering.file, or put the vector there")
        stages += made
    words = f"not made yet: make repro TARGETS='{' '.join(stages)}'" if stages else "all there"
    return Answer("sources", not stages, words)


def _stage(p: Params, name: str) -> str:
    """The stage of dvc.yaml that makes the model or the adapter of this name."""
    kinds: dict[str, Collection[str]] = {
        "train": p.organisms,
        "plant": p.facts.organisms,
        "teach": p.reasoning.organisms,
    }
    return f"{next((kind for kind, names in kinds.items() if name in names), 'models')}@{name}"


def _architecture(folder: Path) -> Answer:
    """Whether the sampler can work with the model in this folder, by its configuration."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError) as error:  # a family that transformers does not know; a damaged file
        return Answer("architecture", False, f"{folder.name}: {str(error).strip().splitlines()[0]}")
    words = f"{folder.name} is a {config.model_type}"
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return Answer("architecture", False, f"{words}: no causal language model that transformers knows")
    shared = keys_and_values(DynamicCache(config=config.get_text_config(decoder=True)).layers)
    able = "sampler and generate" if shared else "generate only: some layers keep other states than keys and values"
    return Answer("architecture", shared, f"{words}: {able}")


def _memory(p: Params, pair: PairParams, folders: list[Path]) -> Answer:
    """Weights and cache of a full batch against what is free; an estimate from the files' headers."""
    on_cpu = device().type == "cpu"
    weights = sum(_bytes_each(pair.precision, f) * parameters(f) for f in folders)
    numbers = 0  # of one token: its keys and values, in each of the models that run
    for config in map(text_config, folders if pair.after else [*folders, folders[-1]]):
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        numbers += 2 * config.num_hidden_layers * heads * width
    cache = 2 * numbers * p.sampling.token_budget * (4 if on_cpu else 2)  # of the batch and of the prompts beside it
    free = psutil.virtual_memory().available if on_cpu else torch.cuda.mem_get_info()[0]
    words = f"weights {weights / GIB:.1f} + cache {cache / GIB:.1f} of {free / GIB:.1f} GiB free on the {device().type}"
    return Answer("memory", weights + cache < free, words)


def _bytes_each(precision: Precision, folder: Path) -> float:
    """Per parameter, as it is held here."""
    if device().type == "cpu":  # NF4 values are held as bf16, and bf16 twice (oneDNN's layout): as much as float32
        return BYTES["fp32"]
    return BYTES["bf16" if precision == "nf4" and held_dense(folder) else precision]


def main(name: str) -> int:
    """Print the answers; the exit status is 1 where one of them is bad."""
    good = True
    try:
        for answer in check(params.load(), name):
            print(f"{'ok ' if answer.good else 'BAD'}  {answer.question}: {answer.words}", flush=True)
            good &= answer.good
    except (ParamsError, PairError, DataError) as error:
        print(f"BAD  {error}")
        good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
