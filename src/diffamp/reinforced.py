"""What the GRPO run of the large profile leaves under large/; nothing of the default pipeline reads it."""

from __future__ import annotations

from pathlib import Path

from diffamp import paths


def adapter() -> Path:
    """Folder of the trained adapter, with its log."""
    return paths.find_root() / "large" / "organisms" / "grpo"


def answers() -> Path:
    """Answers to tasks at every alpha between the student and what GRPO made of it, with their verdicts."""
    return paths.find_root() / "large" / "grpo.parquet"
