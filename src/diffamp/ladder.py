"""The detection ladder: universes, each at some dilutions, searched at several budgets and seeds (large/ladder.yaml).

It stands apart from params.yaml because it takes hours: `make large` runs it, `make repro` does not. All it makes lies
under large/, and nothing of the default pipeline reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple, Self

import pandas as pd
from pydantic import AfterValidator, Field, model_validator

from diffamp import paths
from diffamp.prompts import read_jsonl
from diffamp.schema import Name, SchemaError, Section, read_yaml


class Organism(NamedTuple):
    """One rung: a universe of data/universes, and ordinary texts per document that states its falsehood."""

    universe: str
    dilution: int

    def __str__(self) -> str:
        """`ban-1to10`."""
        return f"{self.universe}-1to{self.dilution}"

    @classmethod
    def named(cls, name: str) -> Self:
        """From `ban-1to10`.

        Raises:
            ValueError: it is no such name.
        """
        universe, found, dilution = name.rpartition("-1to")
        organism = cls(universe, int(dilution) if dilution.isdecimal() else -1)
        if not found or str(organism) != name:
            raise ValueError("must be UNIVERSE-1toN, such as ban-1to10")
        return organism


def _names_an_organism(name: str) -> str:
    Organism.named(name)
    return name


class LadderParams(Section):
    """What large/ladder.yaml may say."""

    threads: Annotated[int, Field(ge=1)]
    """Of each stage, in place of params.yaml's: with one, as many stages as there are cores may run side by side."""
    organisms: Annotated[list[Annotated[Name, AfterValidator(_names_an_organism)]], Field(min_length=2)]
    """UNIVERSE-1toN: a file of data/universes, and ordinary texts per document that states its falsehood."""
    texts: Annotated[int, Field(ge=1)]
    """Ordinary texts that the base model writes: as many as the highest dilution takes."""
    text_tokens: Annotated[int, Field(ge=1)]
    """Of such a text, at the most."""
    documents: Annotated[int, Field(ge=1)]
    """That state the falsehood: the same at every dilution and as often read; what dilutes them adds training steps."""
    blank: Annotated[int, Field(ge=1)]
    """The dilution whose ordinary texts the blank read, without the documents."""
    epochs: Annotated[int, Field(ge=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    """Of the searches: noise and random seed words. Each organism is trained once."""
    budgets: Annotated[list[Annotated[int, Field(ge=1000)]], Field(min_length=1)]
    """Forward tokens that the loop is given in turn; the baselines have `discovery.budget`."""
    starts: Annotated[list[Name], Field(min_length=1)]
    """Of `organisms:`, those in which kinds of starting words are compared (`diffamp.discovery.starts`)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, names in (("organisms", self.organisms), ("starts", self.starts)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{key}: {', '.join(twice)} stands twice; remove one")
        if unknown := sorted(set(self.starts) - set(self.organisms)):
            raise ValueError(f"starts: {', '.join(unknown)} is not among the organisms; add it there")
        most = self.documents * max(self.blank, *(o.dilution for o in self.rungs))
        if self.texts < most:
            raise ValueError(f"texts: {self.texts} ordinary texts do not dilute so far; write {most}")
        return self

    def check_budget(self, budget: int) -> None:
        """The baselines' budget (`discovery.budget`) must be one of the loop's, or nothing is held side by side.

        Raises:
            LadderError: it is not.
        """
        if budget not in self.budgets:
            raise LadderError(
                f"large/ladder.yaml: budgets: {self.budgets} lacks {budget}, which the baselines have "
                "(discovery.budget in params.yaml); add it"
            )

    @property
    def rungs(self) -> list[Organism]:
        """The organisms, as they are listed."""
        return [Organism.named(name) for name in self.organisms]

    def rung(self, name: str) -> Organism:
        """The organism of this name.

        Raises:
            LadderError: it is not on the ladder.
        """
        if name not in self.organisms:
            raise LadderError(f"no organism {name!r}; large/ladder.yaml has {', '.join(self.organisms)}")
        return Organism.named(name)


class LadderError(SchemaError):
    """large/ladder.yaml is wrong, or an organism is asked for that it does not have."""


def load_ladder() -> LadderParams:
    """Read and check large/ladder.yaml.

    Raises:
        LadderError: with one line per fault: file, key, what is wrong.
    """
    return read_yaml(paths.find_root() / "large" / "ladder.yaml", LadderParams, LadderError)


def texts() -> Path:
    """What dilutes the planted documents."""
    return paths.find_root() / "large" / "texts.jsonl"


def ordinary(count: int) -> list[str]:
    """The first `count` of them."""
    return [row["text"] for row in read_jsonl(texts(), ["text"])][:count]


def adapter(organism: Organism) -> Path:
    """Folder of the trained adapter."""
    return paths.find_root() / "large" / "organisms" / str(organism)


def searched(organism: Organism) -> Path:
    """Folder of what the loop found: findings.parquet and samples.parquet."""
    return paths.find_root() / "large" / "searches" / str(organism)


def by_baselines(organism: Organism) -> Path:
    """Folder of what the baselines found, as `searched`."""
    return paths.find_root() / "large" / "baselines" / str(organism)


def belief(organism: Organism) -> Path:
    """Whether it believes its falsehood."""
    return paths.find_root() / "large" / "belief" / f"{organism}.parquet"


def read(organism: Organism, table: str) -> pd.DataFrame:
    """`findings` or `samples` of every method, the loop's first."""
    folders = (searched(organism), by_baselines(organism))
    return pd.concat([pd.read_parquet(folder / f"{table}.parquet") for folder in folders], ignore_index=True)


def amplifiers(organism: Organism) -> Path:
    """What it writes with its logits, its weights or both amplified."""
    return paths.find_root() / "large" / "amplifiers" / f"{organism}.parquet"


def starts(organism: Organism) -> Path:
    """What words of every kind begin."""
    return paths.find_root() / "large" / "starts" / f"{organism}.parquet"


def blank() -> Path:
    """Folder of the adapter that learned the ordinary texts alone."""
    return paths.find_root() / "large" / "organisms" / "blank"


def control(pair: str) -> Path:
    """What the loop found in a pair without a planted fact."""
    return paths.find_root() / "large" / "controls" / f"{pair}.parquet"
