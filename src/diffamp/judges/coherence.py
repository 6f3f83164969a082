"""Is this text sensible or nonsense? Several cheap measures, weighed by a logistic regression on labelled outputs."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

MEASURES = (
    "logp_mean",
    "logp_low",
    "logp_worst",
    "surprising",
    "repetition",
    "triples",
    "distinct",
    "compression",
    "non_ascii",
    "letters",
    "top_word",
    "longest_word",
    "words_per_token",
)
SURPRISE = -6.0
"""Nats below which a token counts as one that the before-model did not expect."""
_WORD = re.compile(r"[^\W\d_]+")


def measure(texts: Iterable[str], logp_before: Iterable[NDArray[np.float32]]) -> pd.DataFrame:
    """The cheap measures of each text, none of which sees alpha, guard or pair.

    Args:
        logp_before: per text the log-probs of its tokens under the before-model at the sampling temperature, in
            nats: one ruler for all pairs over one base.

    Returns:
        logp_mean, logp_low (5th percentile) and logp_worst (mean of the four lowest) in nats per token; surprising,
        share of tokens below `SURPRISE`; repetition and triples, share of repeated word pairs and triples (rep-2,
        rep-3); distinct, distinct words over words; compression, bytes after zlib over bytes before; non_ascii and
        letters (with spaces), shares of characters; top_word, share of the most frequent word; longest_word in
        letters, which glued words lengthen; words_per_token.
    """
    rows = [_measures(text, logp) for text, logp in zip(texts, logp_before, strict=True)]
    return pd.DataFrame(rows, columns=list(MEASURES))


def _measures(text: str, logp: NDArray[np.float32]) -> tuple[float, ...]:
    words = text.lower().split()
    raw = text.encode()
    return (
        float(np.mean(logp)),
        float(np.percentile(logp, 5)),
        float(np.sort(logp)[:4].mean()),
        float(np.mean(np.asarray(logp) < SURPRISE)),
        _repeated(list(pairwise(words))),
        _repeated(list(zip(words, words[1:], words[2:], strict=False))),
        len(set(words)) / max(len(words), 1),
        min(len(zlib.compress(raw, 9)) / max(len(raw), 1), 2.0),
        sum(ord(c) > 127 for c in text) / max(len(text), 1),
        sum(c.isalpha() or c.isspace() for c in text) / max(len(text), 1),
        max(Counter(words).values(), default=0) / max(len(words), 1),
        max(map(len, _WORD.findall(text)), default=0),
        len(words) / len(logp),
    )


def _repeated(items: Sequence[tuple[str, ...]]) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0


class CoherenceJudge:
    """Logistic regression from the measures to "nonsense", fitted on labelled outputs of dev prompts."""

    def __init__(self, measures: pd.DataFrame, nonsense: Iterable[bool]) -> None:
        self._model: Pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self._model.fit(measures[list(MEASURES)], np.fromiter(nonsense, bool))

    def probability(self, measures: pd.DataFrame) -> NDArray[np.float64]:
        """(texts,) probability of nonsense."""
        return self._model.predict_proba(measures[list(MEASURES)])[:, 1]
