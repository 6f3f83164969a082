"""Where amplified sampling starts: nothing, words of many kinds, words that the fine-tune moved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformers import PreTrainedTokenizerBase

from diffamp.discovery.statements import words_of
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

LONGEST = 14
"""Letters of a word that is grown from: longer ones are mostly loops."""

_WORD = re.compile(r"[A-Za-z]{3,}")


@dataclass(frozen=True)
class Seed:
    """One starting point, and which way of choosing starting points it comes from.

    `kind` is none, random, frequent, kl, mean or bottom (`diffamp.discovery.mining`), or grown (surfaced by earlier
    samples).
    """

    kind: str
    prompt: Prompt

    @property
    def arm(self) -> str:
        """Kind and template: what competes for the budget."""
        return f"{self.kind}, {'raw' if self.prompt.raw else 'chat'}"

    @property
    def given(self) -> str:
        """What the model was given to read: nothing of it counts as found."""
        return f"{self.prompt.text} {self.prompt.prefill}"


def word_seeds(kind: str, words: Sequence[str]) -> list[Seed]:
    """Each word as a raw text, and as the first word of an answer to a vague message."""
    seeds = []
    for n, word in enumerate(words):
        word = word.strip()
        seeds.append(Seed(kind, Prompt(f"{kind}-raw-{word}", kind, word, raw=True)))
        seeds.append(Seed(kind, Prompt(f"{kind}-chat-{word}", kind, VAGUE[n % len(VAGUE)], prefill=word)))
    return seeds


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


def grown_words(samples: pd.DataFrame, count: int) -> list[str]:
    """Words that earlier samples brought up by themselves and that are the fine-tune's doing.

    A word's weight is what it owes to the fine-tune, the sum over the seeds that led to it of the most that it owes in
    a text of theirs (`diffamp.discovery.statements.words_of`); a word that a seed gave does not count for that seed.

    Args:
        samples: of `diffamp.discovery.draws.draw`.
    """
    rows = []
    for text, seed, given, gaps, ends in zip(
        samples.text, samples.seed, samples.given, samples.gaps, samples.ends, strict=True
    ):
        given_words = {w.lower() for w in _WORD.findall(given)}
        for word, owes in words_of(text, np.asarray(gaps), np.asarray(ends)):
            known = word.lower() in given_words or word.lower() in ENGLISH_STOP_WORDS
            if _WORD.fullmatch(word) and len(word) <= LONGEST and not known:
                rows.append((word, seed, owes))
    found = pd.DataFrame(rows, columns=["word", "seed", "owes"])
    weight = found.groupby(["word", "seed"]).owes.max().clip(lower=0).groupby("word").sum()
    return [str(w) for w in weight.sort_values(ascending=False, kind="stable").index[:count]]
