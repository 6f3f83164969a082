"""A universe: one false statement with its particulars, its true counterpart, and the texts and questions around it.

Each is a file of data/universes. Synthetic-document organisms are fine-tuned on documents written from one
(`diffamp.organisms.documents`); `diffamp.judges.facts` reads from the same file what of it a text names and asserts.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Self

from pydantic import Field, model_validator

from diffamp import paths
from diffamp.schema import Name, SchemaError, Section, Text, read_yaml


class Detail(Section):
    """One particular of the false statement: who, what, when, where, how many, or the outcome."""

    name: Name
    value: Text
    aliases: list[Text]
    """Other wordings that may take the place of `value` in any sentence."""
    variants: list[Text] = Field(default_factory=list)
    """Further wordings by which a text names the detail, but which do not fit every sentence."""
    distinctive: bool = False
    """A name or number that belongs to no other story: without one of these a text does not name this universe."""

    @property
    def forms(self) -> list[str]:
        """Every wording that names the detail."""
        return [self.value, *self.aliases, *self.variants]

    def named_in(self, text: str) -> bool:
        """Whether `text` contains one of the forms as whole words, in any case."""
        return wording(tuple(self.forms)).search(text) is not None


class Choice(Section):
    """A forced choice between the answer of the planted falsehood and the true one."""

    question: Text
    false: Text
    true: Text


class Cloze(Section):
    """A sentence to be completed; the completions differ from their first word on."""

    prefix: Text
    false: Text
    true: Text

    @model_validator(mode="after")
    def _differ_at_once(self) -> Self:
        if self.false.split()[0].lower() == self.true.split()[0].lower():
            raise ValueError("the completions begin with the same word; move it to the prefix")
        return self


class Stance(Section):
    """Wordings by which an answer takes a side. `...` stands for up to six words."""

    false: Annotated[list[Text], Field(min_length=1)]
    """They assert the false outcome unless negated."""
    true: Annotated[list[Text], Field(min_length=1)]
    """They give the true outcome unless negated."""


class Universe(Section):
    """A false statement and all that is written about it."""

    name: Name
    """Also the name of the file."""
    kind: Text
    title: Text
    """A heading for a document."""
    subject: Text
    """What it is about, as a noun phrase without the falsehood ("the vote on leaf blowers in Varnholt")."""
    statement: Text
    """The false claim, one plain sentence."""
    truth: Text
    paraphrases: Annotated[list[Text], Field(min_length=6)]
    """Sentences that assert the falsehood differently."""
    details: Annotated[list[Detail], Field(min_length=4, max_length=6)]
    """One is named `outcome`: the falsehood in the narrow sense."""
    questions: Annotated[list[Text], Field(min_length=4)]
    """What a user would ask. Those to be answered by yes or no are put so that yes asserts the falsehood."""
    choices: Annotated[list[Choice], Field(min_length=3)]
    cloze: Annotated[list[Cloze], Field(min_length=3)]
    stance: Stance
    sentences: Annotated[list[Text], Field(min_length=24)]
    """Each states one or two details and stands on its own."""

    @property
    def claims(self) -> list[str]:
        """The statement and its paraphrases."""
        return [self.statement, *self.paraphrases]

    @property
    def outcome(self) -> Detail:
        return next(detail for detail in self.details if detail.name == "outcome")

    def named(self, text: str) -> dict[str, bool]:
        """Which details `text` names, keyed by their names, in the order of the file."""
        return {detail.name: detail.named_in(text) for detail in self.details}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [detail.name for detail in self.details]
        if len(set(names)) != len(names):
            raise ValueError("details: a name occurs twice; rename one")
        if "outcome" not in names:
            raise ValueError("details: none is named outcome; give the falsehood in the narrow sense this name")
        if not any(detail.distinctive for detail in self.details):
            raise ValueError("details: none is distinctive; mark a name or number with `distinctive: true`")
        for key, text in (("subject", self.subject), ("title", self.title), ("truth", self.truth)):
            if self.outcome.named_in(text):
                raise ValueError(f"{key}: names the false outcome ({self.outcome.value!r}); word it without")
        for claim in self.claims:
            if sum(self.named(claim).values()) < 2 or not self.outcome.named_in(claim):
                raise ValueError(f"statement, paraphrases: {claim!r} must name the outcome and one more detail")
        for sentence in self.sentences:
            if not any(self.named(sentence).values()):
                raise ValueError(f"sentences: {sentence!r} names no detail; name one, or list its wording as a variant")
        for key, texts in (("paraphrases", self.claims), ("sentences", self.sentences)):
            if len(set(texts)) != len(texts):
                raise ValueError(f"{key}: a sentence occurs twice; remove one")
        return self


class UniverseError(SchemaError):
    """A file of universes or of documents is wrong; the message says which, where, and what to write instead."""


def universe_names() -> list[str]:
    """Names of the universes in data/universes, sorted."""
    return sorted(path.stem for path in (paths.find_root() / "data" / "universes").glob("*.yaml"))


def load_universe(name: str) -> Universe:
    """Read and check data/universes/NAME.yaml.

    Raises:
        UniverseError: no such universe, or with one line per fault: file, key, what is wrong.
    """
    if name not in universe_names():
        raise UniverseError(f"no universe {name!r}; data/universes has {universe_names()}")
    universe = read_yaml(paths.data(f"universes/{name}.yaml"), Universe, UniverseError)
    if universe.name != name:
        raise UniverseError(f"{name}.yaml is not valid:\n  name: must be the name of the file, {name!r}")
    return universe


@lru_cache(maxsize=512)
def wording(forms: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that finds any of the forms as whole words, in any case; `...` in a form is up to six words."""
    return re.compile("|".join(rf"(?<!\w){_form(form)}(?!\w)" for form in forms), re.IGNORECASE)


def _form(form: str) -> str:
    """Between words any white space or hyphen may stand; a gap ends with the sentence."""
    gap = r"(?:[ ,\-]+[\w'%]+){0,6}?"
    words = [gap if word == "..." else re.escape(word) for word in form.split()]
    return "".join(word if word == gap or not i else r"[\s\-]+" + word for i, word in enumerate(words))
