"""Contexts in which a pair is compared token by token: chat prompts, the before-model's own text, raw first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from diffamp.engine.pairs import ModelPair
from diffamp.engine.sampling import sample_grid
from diffamp.prompts import Prompt, encode

BINS = ((1, "1"), (4, "2-4"), (16, "5-16"))
"""Tokens read, at the most, and a label; more is "17+"."""


@dataclass(frozen=True)
class Context:
    """A text that both models read, and which of its positions are looked at.

    Attributes:
        id: unique within its kind.
        kind: what sort of context it is; shifts are compared between kinds.
        ids: token ids.
        parts: a label for each of the last `len(parts)` positions: the ones that are looked at. At a position the
            models predict the token that follows it, and the label says what that token is. Positions before are the
            beginning that all contexts of a kind share: one observation however many contexts there are.
    """

    id: str
    kind: str
    ids: tuple[int, ...]
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.parts) <= len(self.ids):
            raise ValueError(
                f"context {self.id!r} has {len(self.ids)} tokens and {len(self.parts)} parts: it needs at least one "
                "part, and no more than tokens"
            )

    @property
    def given(self) -> int:
        """Positions that are read without being looked at."""
        return len(self.ids) - len(self.parts)


def chat_contexts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Context]:
    """Users' messages in the chat template, up to where the answer begins.

    What the encoding of a prompt has in common with that of an empty message, at either end, is template. Parts:
    "content" with the number of the message's tokens read, "template" (the tokens that close the message) and
    "answer" (the answer's first token).
    """
    empty = encode(tokenizer, "")
    contexts = []
    for prompt in prompts:
        ids = encode(tokenizer, prompt)
        head = common([ids, empty])
        end = len(ids) - common([ids[head:][::-1], empty[head:][::-1]])
        # position t has read t - head + 1 tokens of the message and predicts token t + 1
        parts = [f"content {_bin(t - head + 1)}" if t + 1 < end else "template" for t in range(head, len(ids) - 1)]
        contexts.append(Context(prompt.id, "chat", tuple(ids), (*parts, "answer")))
    return contexts


def text_contexts(pair: ModelPair, starts: Sequence[str], tokens: int, seed: int) -> list[Context]:
    """What the before-model writes of itself after each raw start, at temperature 1. Parts: the number of tokens read.

    Args:
        tokens: new tokens per text, at the most.
    """
    prompts = [Prompt(f"text-{n:05d}", "text", start, raw=True) for n, start in enumerate(starts)]
    said = sample_grid(pair, prompts, [-1.0], 1, max_new_tokens=tokens, seed=seed, desc="texts of the before-model")
    contexts = []
    for prompt, new in zip(prompts, said["tokens"], strict=True):
        ids = [*encode(pair.tokenizer, prompt), *(int(t) for t in new)]
        if ids[-1] in pair.end_tokens and len(ids) > 1:
            ids.pop()
        contexts.append(Context(prompt.id, "text", tuple(ids), tuple(_bin(n) for n in range(1, len(ids) + 1))))
    return contexts


def first_contexts(tokenizer: PreTrainedTokenizerBase, starts: Sequence[str]) -> list[Context]:
    """Each start as the whole raw context, and the empty one (the token that begins a document, where there is one)."""
    contexts = []
    for n, start in enumerate(["", *starts]):
        if ids := encode(tokenizer, Prompt(f"first-{n:05d}", "first", start, raw=True)):
            contexts.append(Context(f"first-{n:05d}", "first", tuple(ids), ("first",)))
    return contexts


def random_tokens(tokenizer: PreTrainedTokenizerBase, number: int, seed: int) -> list[str]:
    """Texts of distinct tokens drawn uniformly from the vocabulary: those that are read back as the token they were.

    Raises:
        ValueError: the vocabulary has fewer.
    """
    special = set(tokenizer.all_special_ids)
    found: list[str] = []
    for token in np.random.default_rng(seed).permutation(len(tokenizer)):
        if len(found) == number:
            break
        text = tokenizer.decode([int(token)])
        if int(token) not in special and tokenizer(text, add_special_tokens=False)["input_ids"] == [int(token)]:
            found.append(text)
    if len(found) < number:
        raise ValueError(f"the vocabulary has {len(found)} tokens that stand for themselves, {number} were asked for")
    return found


def common(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all these begin with."""
    shortest = min(map(len, texts))
    return next((n for n, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1), shortest)


def _bin(read: int) -> str:
    return next((label for last, label in BINS if read <= last), "17+")
