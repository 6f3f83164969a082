"""The detection ladder: universes x dilutions, searched at several budgets and seeds (large/ladder.yaml).

It stands apart from params.yaml because it takes hours: `make large` runs it, `make repro` does not. All it makes lies
under large/, and nothing of the default pipeline reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from diffamp import paths
from diffamp.schema import Name, SchemaError, Section, read_yaml


class LadderParams(Section):
    """What large/ladder.yaml may say."""

    threads: Annotated[int, Field(ge=1)]
    """Of each stage, in place of params.yaml's: with one, as many stages as there are cores may run side by side."""
    universes: Annotated[list[Name], Field(min_length=2)]
    """Files of data/universes."""
    dilutions: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Ordinary texts, written by the base model, per document that states the falsehood."""
    text_tokens: Annotated[int, Field(ge=1)]
    """Of such a text, at the most."""
    documents: Annotated[int, Field(ge=1)]
    """That state the falsehood: the same at every dilution and as often read; what dilutes them adds training steps."""
    epochs: Annotated[int, Field(ge=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    """Of the searches: noise and random seed words. Each organism is trained once."""
    budgets: Annotated[list[Annotated[int, Field(ge=1000)]], Field(min_length=1)]
    """Forward tokens that the loop is given in turn; the baselines have `discovery.budget`."""

    def check(self, universe: str, dilution: int) -> None:
        """Is this organism on the ladder?

        Raises:
            LadderError: it is not.
        """
        if universe not in self.universes or dilution not in self.dilutions:
            raise LadderError(
                f"no organism {name(universe, dilution)!r}; large/ladder.yaml has the universes {self.universes} "
                f"at the dilutions {self.dilutions}"
            )


class LadderError(SchemaError):
    """large/ladder.yaml is wrong, or an organism is asked for that it does not have."""


def load_ladder() -> LadderParams:
    """Read and check large/ladder.yaml.

    Raises:
        LadderError: with one line per fault: file, key, what is wrong.
    """
    return read_yaml(paths.find_root() / "large" / "ladder.yaml", LadderParams, LadderError)


def name(universe: str, dilution: int) -> str:
    """`ban-1to10`."""
    return f"{universe}-1to{dilution}"


def texts() -> Path:
    """What dilutes the planted documents."""
    return paths.find_root() / "large" / "texts.jsonl"


def organism(universe: str, dilution: int) -> Path:
    """Folder of the trained adapter."""
    return paths.find_root() / "large" / "organisms" / name(universe, dilution)


def searched(universe: str, dilution: int) -> Path:
    """Folder of what was found: findings.parquet, samples.parquet, belief.parquet."""
    return paths.find_root() / "large" / "searches" / name(universe, dilution)


def blank() -> Path:
    """Folder of the adapter that learned the ordinary texts alone."""
    return paths.find_root() / "large" / "organisms" / "blank"


def control(pair: str) -> Path:
    """What the loop verified in a pair without a planted fact."""
    return paths.find_root() / "large" / "controls" / f"{pair}.parquet"
