"""What searches leave on disk, for those who read it (`diffamp.discovery.recovery`, notebooks)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffamp.discovery.draws import PER_TOKEN

TRANSIENT = (*PER_TOKEN, "gap", "arm", "ended", "cost")
"""Columns of samples that a search, or its page, needs while it runs, and nobody afterwards."""


def save(findings: Sequence[pd.DataFrame], samples: Sequence[pd.DataFrame], folder: Path) -> None:
    """Write findings.parquet and samples.parquet, one search under the other, the samples without `TRANSIENT`."""
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(findings, ignore_index=True).to_parquet(folder / "findings.parquet", index=False)
    texts = pd.concat(samples, ignore_index=True).drop(columns=[*TRANSIENT])
    texts.to_parquet(folder / "samples.parquet", index=False)
