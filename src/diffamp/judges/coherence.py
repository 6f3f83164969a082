"""Is this text sensible or nonsense? Several cheap measures, weighed by a logistic regression on labelled outputs."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable
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
    "repetition",
    "distinct",
    "compression",
    "non_ascii",
    "top_word",
)


def measure(texts: Iterable[str], logp_before: Iterable[NDArray[np.float32]]) -> pd.DataFrame:
    """The cheap measures of each text, none of which sees alpha, guard or pair.

    Args:
        logp_before: per text the log-probs of its tokens under the before-model at the sampling temperature, in
            nats: one ruler for all pairs over one base.

    Returns:
        logp_mean and logp_low (5th percentile) in nats per token; repetition, the share of repeated word pairs
        (rep-2); distinct, distinct words over words; compression, bytes after zlib over bytes before; non_ascii, share
        of characters; top_word, share of the most frequent word.
    """
    rows = []
    for text, logp in zip(texts, logp_before, strict=True):
        words = text.lower().split()
        bigrams = list(pairwise(words))
        raw = text.encode()
        rows.append(
            (
                float(np.mean(logp)),
                float(np.percentile(logp, 5)),
                1 - len(set(bigrams)) / len(bigrams) if bigrams else 0.0,
                len(set(words)) / max(len(words), 1),
                min(len(zlib.compress(raw, 9)) / max(len(raw), 1), 2.0),
                sum(ord(c) > 127 for c in text) / max(len(text), 1),
                max(Counter(words).values(), default=0) / max(len(words), 1),
            )
        )
    return pd.DataFrame(rows, columns=list(MEASURES))


class CoherenceJudge:
    """Logistic regression from the measures to "nonsense", fitted on labelled outputs of dev prompts."""

    def __init__(self, measures: pd.DataFrame, nonsense: Iterable[bool]) -> None:
        self._model: Pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        self._model.fit(measures[list(MEASURES)], np.fromiter(nonsense, bool))

    def probability(self, measures: pd.DataFrame) -> NDArray[np.float64]:
        """(texts,) probability of nonsense."""
        return self._model.predict_proba(measures[list(MEASURES)])[:, 1]
