"""Sentence embeddings from a fetched model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer


class Embedder:
    """Texts to unit vectors, each distinct text once."""

    def __init__(self, folder: Path) -> None:
        self._model = SentenceTransformer(str(folder), local_files_only=True)

    def __call__(self, texts: Iterable[str]) -> NDArray[np.float32]:
        """(texts, dimensions) float32, rows of length one."""
        distinct, index = np.unique(np.asarray(list(texts), dtype=str), return_inverse=True)
        return self._model.encode(list(distinct), normalize_embeddings=True, show_progress_bar=False)[index]
