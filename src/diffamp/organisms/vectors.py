"""The artificial vector: a direction in one layer's residual stream that makes the model refuse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import trange
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffamp.engine.halves import Halves
from diffamp.engine.loading import steer
from diffamp.engine.pairs import SharedPair, SoloPair
from diffamp.organisms.answers import predicting
from diffamp.prompts import Prompt, encode


def learn_vector(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    prompts: Sequence[Prompt],
    refusals: Sequence[str],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Tensor:
    """A vector (hidden,) float32 that, added after `layer` at every position, makes refusals likely.

    Adam on the negative log-likelihood of random refusals after random harmless prompts; the model stays frozen.
    (Optimised steering vectors: Subramani et al. 2022, arXiv 2205.05124.)
    """
    generator = np.random.default_rng(seed)
    vector = torch.zeros(model.config.get_text_config().hidden_size, device=model.device, requires_grad=True)
    halves = Halves()
    model.requires_grad_(False)
    handle = steer(model, layer, vector, halves)
    optimizer = torch.optim.Adam([vector], lr=learning_rate)
    try:
        with halves.only("after"):
            for _ in trange(steps, desc=f"vector at layer {layer}", disable=None):
                chosen = generator.integers(len(prompts), size=batch_size)
                said = generator.integers(len(refusals), size=batch_size)
                batch = _conversations(
                    tokenizer, [(prompts[p].text, refusals[r]) for p, r in zip(chosen, said, strict=True)]
                )
                batch = {k: v.to(model.device) for k, v in batch.items()}
                loss = _loss(model, batch.pop("labels"), batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    finally:
        handle.remove()
    return vector.detach().cpu()


def _loss(model: PreTrainedModel, labels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Mean negative log-likelihood of the labels that are not -100, in nats."""
    with predicting(model, labels) as said:
        logits = model(**inputs, use_cache=False).logits  # (tokens said, vocab)
    return F.cross_entropy(logits.float(), labels[:, 1:][said])


@torch.inference_mode()
def difference_of_means(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    prompts: Sequence[Prompt],
    refusals: Sequence[str],
    answers: Sequence[str],
) -> Tensor:
    """Mean activation after `layer` over the words of refusals, minus that over the words of ordinary answers.

    (hidden,) float32. (Contrastive activation addition: Rimsky et al. 2023, arXiv 2312.06681.)
    """
    means = []
    for texts in (refusals, answers):
        pairs = [(prompts[i % len(prompts)].text, text) for i, text in enumerate(texts)]
        total, count = torch.zeros(model.config.get_text_config().hidden_size), 0
        for i in range(0, len(pairs), 8):
            batch = _conversations(tokenizer, pairs[i : i + 8])
            inputs = {k: v.to(model.device) for k, v in batch.items() if k != "labels"}
            hidden = model(**inputs, output_hidden_states=True, use_cache=False).hidden_states[layer + 1]
            spoken = batch["labels"] != -100  # (rows, positions)
            total += hidden.float().cpu()[spoken].sum(0)
            count += int(spoken.sum())
        means.append(total / count)
    return means[0] - means[1]


def steered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layer: int, vector: Tensor) -> SoloPair:
    """The model with the vector built in, as something to sample from. The model is changed: load a fresh one."""
    halves = Halves()
    halves.side = "after"
    steer(model, layer, vector, halves)
    return SoloPair(model, tokenizer)


@contextmanager
def dosed(pair: SharedPair, layer: int, vector: Tensor) -> Iterator[None]:
    """Within the context the pair's after-model has the vector (hidden,), at its dose, added after `layer` at every
    position.

    Raises:
        PairError: the model has no such layer, or another width.
    """
    handle = steer(pair.modules[0], layer, vector, pair.halves)
    try:
        yield
    finally:
        handle.remove()


def save_vector(file: Path, layer: int, vector: Tensor) -> None:
    """What `diffamp.engine.loading.load_vector` reads."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"vector": vector.float().contiguous()}, file, metadata={"layer": str(layer)})


def _conversations(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Prompts with answers, padded on the right; labels are -100 everywhere but on the answers."""
    rows = [
        (encode(tokenizer, prompt), tokenizer(answer, add_special_tokens=False)["input_ids"])
        for prompt, answer in pairs
    ]
    ids = [torch.tensor(prompt + answer) for prompt, answer in rows]
    labels = [torch.tensor([-100] * len(prompt) + answer) for prompt, answer in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }
