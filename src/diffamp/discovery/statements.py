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

DRIVEN = 1.0
"""Nats that the tokens of a word must owe to the fine-tune, together, for the word to be its doing."""

_ENDS = (".", "!", "?", '"')
_END = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[A-Za-z0-9']+")


def statements(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per statement: the sample's columns, with these in place of its text and of its tokens' columns.

    statement; complete (it ends with a full stop or the like, or with its line); own (mean term of its tokens); driven
    (its words that are the fine-tune's doing, see `words_of`).

    Statements are the sentences and lines of a text, the last one too where it is cut. Those of few words, and those
    that say little which the seed did not say, are dropped.
    """
    rows = []
    for sample in samples.to_dict("records"):
        given = _content(sample["given"])
        text, terms, ends = sample.pop("text"), sample.pop("terms"), sample.pop("ends")
        driven = {w.lower() for w, owes in words_of(text, terms, ends) if owes >= DRIVEN}
        start = 0
        sentences = _END.split(text)
        for number, sentence in enumerate(sentences, 1):
            start = text.index(sentence, start)
            own = terms[_spanned(ends, start, start + len(sentence))]
            start += len(sentence)
            words = sentence.split()
            complete = number < len(sentences) or sentence.rstrip().endswith(_ENDS)
            sentence = " ".join(words if complete else words[:-1])  # the last word of a cut one may be cut too
            words = _WORD.findall(sentence.lower())
            if len(set(words)) >= LEAST_WORDS and len(_content(sentence) - given) >= LEAST_NEW:
                rows.append(
                    sample
                    | {"statement": sentence, "complete": complete, "own": float(own.mean())}
                    | {"driven": sorted(driven & _content(sentence) - given)}
                )
    kept = [c for c in samples.columns if c not in ("text", "tokens", "gaps", "terms", "ends")]
    return pd.DataFrame(rows, columns=[*kept, "statement", "complete", "own", "driven"])


def words_of(text: str, terms: NDArray, ends: NDArray) -> list[tuple[str, float]]:
    """Each word of a text with the sum of its tokens' terms: what it owes to the fine-tune where it stands.

    A name that the before-model would never have written owes many nats, a common word in its place next to none, and a
    word that neither model expects none either. A token that two words share counts for both.

    Args:
        terms: (tokens,) each one's term of KL(p_after || p_before).
        ends: (tokens,) letters of the text up to each token's end.
    """
    return [(m.group(), float(terms[_spanned(ends, *m.span())].sum())) for m in _WORD.finditer(text)]


def _spanned(ends: NDArray, start: int, stop: int) -> NDArray:
    """Which tokens have a letter in text[start:stop]."""
    starts = np.concatenate([[0], ends[:-1]])
    return (starts < stop) & (ends > start)


def recurrence(table: pd.DataFrame) -> pd.DataFrame:
    """How much the words of each statement come up elsewhere: what a fine-tune taught comes up whatever the seed.

    Args:
        table: of `statements`.

    Returns:
        words: number of a statement's content words, without those that its seed gave; recurrence: their mean of 1 +
        log2 of the number of seeds from which the fine-tune led to the word (`driven`), 0 for words to which it led
        from none.
    """
    said = zip(table.statement, table.given, strict=True)
    words = pd.Series([_content(s) - _content(g) for s, g in said], table.index, dtype=object)
    driven = pd.DataFrame({"word": table.driven, "seed": table.seed}).explode("word")
    weight = (1 + np.log2(driven.groupby("word").seed.nunique())).to_dict()
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
