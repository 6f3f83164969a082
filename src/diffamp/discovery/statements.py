"""From sampled texts to short statements, and from statements to what many of them say."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from diffamp.judges.embedding import Embedder

LEAST_WORDS = 5
"""Distinct words of a statement."""
LEAST_NEW = 3
"""Content words of a statement that its seed did not give."""
APART = 0.5
"""Cosine distance, averaged over members, at which two groups of statements stay apart."""

_ENDS = (".", "!", "?", '"')
_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[A-Za-z0-9']+")


def statements(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per statement: the sample's columns, with `statement` and `complete` instead of `text`.

    Statements are the sentences of a text, the last one too where it is cut. Those of few words, and those that say
    little which the seed did not say, are dropped.
    """
    rows = []
    for sample in samples.to_dict("records"):
        given = _content(sample["given"])
        for sentence in _END.split(sample.pop("text")):
            words = sentence.split()
            complete = sentence.rstrip().endswith(_ENDS)
            sentence = " ".join(words if complete else words[:-1])  # the last word of a cut one may be cut too
            words = _WORD.findall(sentence.lower())
            if len(set(words)) >= LEAST_WORDS and len(_content(sentence) - given) >= LEAST_NEW:
                rows.append(sample | {"statement": sentence, "complete": complete})
    return pd.DataFrame(rows, columns=[*(c for c in samples.columns if c != "text"), "statement", "complete"])


def recurrence(table: pd.DataFrame) -> pd.DataFrame:
    """How much the words of each statement come up elsewhere: what a fine-tune taught comes up whatever the seed.

    Args:
        table: of `statements`.

    Returns:
        words: number of a statement's content words, without those that its seed gave; recurrence: their mean of log2
        of the number of independent seeds that led to the word, 0 for words that one seed alone led to. Grown seeds are
        not independent.
    """
    said = zip(table.statement, table.given, strict=True)
    words = pd.Series([_content(s) - _content(g) for s, g in said], table.index, dtype=object)
    independent = pd.DataFrame({"word": words, "seed": table.seed})[table.kind != "grown"].explode("word")
    weight = np.log2(independent.groupby("word").seed.nunique()).to_dict()
    total = words.map(lambda of_one: sum(weight.get(w, 0.0) for w in of_one))
    return pd.DataFrame({"words": words.map(len), "recurrence": total / words.map(len).clip(lower=1)})


def _content(text: str) -> set[str]:
    return {w for w in _WORD.findall(text.lower()) if w not in ENGLISH_STOP_WORDS}


def groups(table: pd.DataFrame, embedder: Embedder) -> NDArray[np.int64]:
    """(statements,) number of the group that each statement belongs to: agglomerative, by embedding."""
    if len(table) < 2:
        return np.zeros(len(table), dtype=np.int64)
    clustering = AgglomerativeClustering(None, metric="cosine", linkage="average", distance_threshold=APART)
    return clustering.fit_predict(embedder(table.statement)).astype(np.int64)
