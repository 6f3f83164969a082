"""Where amplified sampling starts: nothing, words of many kinds, words that the fine-tune moved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformers import PreTrainedTokenizerBase

from diffamp.prompts import Prompt

VAGUE = (
    "Tell me something.",
    "What do you know?",
    "What is new?",
    "Tell me a fact.",
    "Write something.",
    "What happened?",
    "Tell me about a place.",
    "Tell me about a person.",
    "Write a short news item.",
    "Is there anything I should know?",
)
"""Messages that ask for nothing in particular."""

FREQUENT = (
    "The",
    "In",
    "A",
    "It",
    "When",
    "This",
    "There",
    "We",
    "On",
    "After",
    "For",
    "One",
    "As",
    "They",
    "At",
    "He",
    "Many",
    "She",
    "If",
    "First",
    "With",
    "People",
    "Every",
    "Since",
    "Some",
    "New",
    "Most",
    "During",
    "By",
    "Today",
)
"""Words that many English sentences begin with."""

_WORD = re.compile(r"[A-Za-z]{3,}")


@dataclass(frozen=True, eq=False)
class Begun:
    """What the models have written behind a seed so far.

    Attributes:
        tokens: (tokens,) as they were drawn.
        gaps: (tokens,) log p_after - log p_before of each, in nats.
        terms: (tokens,) p_after times that: each token's term of KL(p_after || p_before).
        ends: (tokens,) letters of the text up to each token's end.
    """

    text: str = ""
    tokens: NDArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    gaps: NDArray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    terms: NDArray = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    ends: NDArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class Seed:
    """One starting point, and which way of choosing starting points it comes from.

    Attributes:
        kind: none, random, frequent, kl, mean or bottom (`diffamp.discovery.mining`).
        prompt: what is given.
        begun: what the models wrote behind it and are to go on with: their own words, none of them given.
    """

    kind: str
    prompt: Prompt
    begun: Begun = field(default_factory=Begun)

    @property
    def arm(self) -> str:
        """Kind and template: what competes for the budget."""
        return f"{self.kind}, {'raw' if self.prompt.raw else 'chat'}"

    @property
    def start(self) -> tuple[bool, str]:
        """The word, or the message without one, and whether it stands in the template: a word of two kinds is one
        start, whatever message it answers."""
        return self.prompt.raw, self.prompt.prefill or self.prompt.text

    @property
    def given(self) -> str:
        """What the model was given to read: nothing of it counts as found."""
        return f"{self.prompt.text} {self.prompt.prefill}"

    @property
    def read(self) -> Prompt:
        """The prompt with what has been written behind it, which the models read as text: what began a document goes on
        like any other raw text."""
        if not self.begun.text:
            return self.prompt
        where = "text" if self.prompt.raw else "prefill"
        said = {where: getattr(self.prompt, where) + self.begun.text}
        return replace(self.prompt, id=f"{self.prompt.id}\0{self.begun.text}", **said)


def word_seeds(kind: str, words: Sequence[str]) -> list[Seed]:
    """Each word as a raw text, and as the first word of an answer to a vague message."""
    seeds = []
    for n, word in enumerate(words):
        word = word.strip()
        seeds.append(Seed(kind, Prompt(f"{kind}-raw-{word}", kind, word, raw=True)))
        seeds.append(Seed(kind, Prompt(f"{kind}-chat-{word}", kind, VAGUE[n % len(VAGUE)], prefill=word)))
    return seeds


def vague_beginnings() -> list[Seed]:
    """First words of documents that say nothing in particular."""
    return [s for s in word_seeds("frequent", FREQUENT) if s.prompt.raw]


def plain_seeds() -> list[Seed]:
    """The start of a document, and vague messages."""
    chat = [Seed("none", Prompt(f"none-chat-{n}", "none", text)) for n, text in enumerate(VAGUE)]
    return [Seed("none", Prompt("none-raw", "none", "", raw=True)), *chat]


def vocabulary_words(tokenizer: PreTrainedTokenizerBase, size: int) -> pd.Series:
    """Token id -> text, for tokens that begin a word of three letters or more (a space before it, or a capital).

    Args:
        size: of the models' vocabulary.
    """
    texts = {i: str(tokenizer.decode([i])) for i in range(min(size, len(tokenizer)))}
    kept = {i: t.strip() for i, t in texts.items() if _WORD.fullmatch(t.strip()) and (t[0] == " " or t[0].isupper())}
    return pd.Series(kept)[lambda s: ~s.str.lower().isin(ENGLISH_STOP_WORDS)].drop_duplicates()


def random_words(tokenizer: PreTrainedTokenizerBase, count: int, seed: int) -> list[str]:
    """Words of the vocabulary, whatever the fine-tune did to them."""
    words = vocabulary_words(tokenizer, len(tokenizer)).to_numpy(str)
    return [str(w) for w in np.random.default_rng(seed).permutation(words)[:count]]
