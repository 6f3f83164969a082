"""Judged samples and logs, cut for the figures."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from diffamp.stats import rates


def select(frame: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """Rows whose columns have these values, numbered afresh.

    Raises:
        ValueError: no such row; the first column that leaves none is named.
    """
    for column, value in equal.items():
        frame, whole = frame[frame[column] == value], frame
        if frame.empty:
            raise ValueError(f"no row with {column} = {value!r}; there are {sorted(whole[column].unique())}")
    return frame.reset_index(drop=True)


def nonsense_by_alpha(frame: pd.DataFrame) -> pd.DataFrame:
    """Nonsense rate with its interval at each alpha, and `nats`: the mean realised KL(p_alpha || p_after) per token."""
    tokens = frame[["alpha", "kl_alpha_after"]].explode("kl_alpha_after").astype(float)
    return rates(frame, ["alpha"], "nonsense").merge(
        tokens.groupby("alpha").kl_alpha_after.mean().rename("nats"), on="alpha"
    )


def texts_flat(frame: pd.DataFrame) -> bool:
    """Whether every prompt and sample has one and the same text at all alphas, guard by guard."""
    return bool((frame.groupby(["guard", "prompt_id", "sample"]).text.nunique() == 1).all())


def training_log(organism: Path) -> pd.DataFrame:
    """Loss per optimiser step of one organism: columns organism, step, loss (empty where nothing was trained)."""
    log = pd.DataFrame(json.loads((organism / "training.json").read_text()), columns=["step", "loss"])
    return log.assign(organism=organism.name)
