"""How often a text shows each behaviour of reasoning: steps, checks, backtracking and the like, found by expressions.

The lexicon is data/behaviours.yaml. It sees neither alpha nor pair, and knows other models' wordings as well as the
fine-tune's. `validate` gives its agreement with texts written and labelled for it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import AfterValidator, Field, RootModel
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support

from diffamp import paths
from diffamp.prompts import read_jsonl
from diffamp.schema import Name, Section, Text, read_yaml

TokenClass = Literal[
    "digit", "operator", "punctuation", "newline", "behaviour word", "function word", "other word", "end"
]
LABEL_KEYS = ["id", "voice", "split", "text"]
SAMPLED = "organism"
"""The voice of labelled texts that were sampled."""

_FLAGS = re.IGNORECASE | re.MULTILINE
_END = re.compile(r"<\|\w+\|>|</?s>|<eos>")


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern, _FLAGS)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}; correct it, or escape what is meant literally") from None
    return pattern


class Behaviour(Section):
    """One behaviour and how it is found."""

    description: Text
    patterns: Annotated[list[Annotated[str, AfterValidator(_compiles)]], Field(min_length=1)]
    """Regular expressions; the first that matches at a place takes what it spans."""
    words: list[Text]
    """Lower case; a token that is one of them counts as part of the behaviour."""

    def count(self, text: str) -> int:
        return sum(1 for _ in _joined(tuple(self.patterns)).finditer(text))


class Lexicon(RootModel[dict[Name, Behaviour]]):
    """data/behaviours.yaml."""


def load_behaviours() -> dict[str, Behaviour]:
    """The behaviours of data/behaviours.yaml, in its order.

    Raises:
        SchemaError: with one line per fault: file, key, what is wrong.
    """
    return _load(paths.data("behaviours.yaml"))


def count(text: str) -> dict[str, int]:
    """Occasions of each behaviour: matches that do not overlap, in the order of the file."""
    plain = text.replace("\u2019", "'")
    return {name: behaviour.count(plain) for name, behaviour in load_behaviours().items()}


def token_class(token_text: str) -> TokenClass:
    """What kind of token this is, from its decoded text alone.

    A word is a behaviour word if it is among the `words` of any behaviour; pieces of words are other words. An empty
    text and special tokens are the end.
    """
    text = token_text.strip().lower()
    if not token_text or _END.fullmatch(text):
        return "end"
    if not text:
        return "newline" if "\n" in token_text else "punctuation"
    if text.isdecimal():
        return "digit"
    if not any(character.isalnum() for character in text):
        return "operator" if set(text) <= set("+-*/=<>^%\u00d7\u00f7\u2212") else "punctuation"
    word = re.sub(r"^\W+|\W+$", "", text)
    if any(word in behaviour.words for behaviour in load_behaviours().values()):
        return "behaviour word"
    return "function word" if word in ENGLISH_STOP_WORDS else "other word"


def load_behaviour_labels() -> pd.DataFrame:
    """Labelled texts: id, voice, split ("fit" or "held_out"), text, and a column of counts for each behaviour."""
    rows = read_jsonl(paths.data("behaviour_labels.jsonl"), LABEL_KEYS)
    names = list(load_behaviours())
    return pd.DataFrame(
        [{key: row[key] for key in LABEL_KEYS} | {name: row["counts"].get(name, 0) for name in names} for row in rows]
    )


def validate(sampled: bool, split: Literal["fit", "held_out"] = "held_out") -> pd.DataFrame:
    """The lexicon against the labels of one split; it was improved on "fit" alone.

    Args:
        sampled: texts that the organism wrote, labelled by a reader who knew neither alpha nor lexicon; otherwise texts
            written for this purpose by the author of the lexicon.

    Returns:
        Index behaviour. Columns n (texts), having (of them with the behaviour, by the labels), precision, recall and
        kappa of its presence, exact (share of texts whose counts agree) and spearman (of counts).
    """
    labels = load_behaviour_labels()
    labels = labels[(labels.split == split) & ((labels.voice == SAMPLED) == sampled)]
    found = pd.DataFrame([count(text) for text in labels.text], index=labels.index)
    return pd.DataFrame([_agreement(name, labels[name], found[name]) for name in found]).set_index("behaviour")


def _agreement(name: str, truth: pd.Series, found: pd.Series) -> dict[str, object]:
    precision, recall, _, _ = precision_recall_fscore_support(truth > 0, found > 0, average="binary", zero_division=0)
    return {
        "behaviour": name,
        "n": len(truth),
        "having": int((truth > 0).sum()),
        "precision": precision,
        "recall": recall,
        "kappa": cohen_kappa_score(truth > 0, found > 0),
        "exact": (truth == found).mean(),
        "spearman": spearmanr(truth, found).statistic,
    }


@lru_cache(maxsize=4)
def _load(path: Path) -> dict[str, Behaviour]:
    return read_yaml(path, Lexicon).root


@lru_cache(maxsize=64)
def _joined(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), _FLAGS)
