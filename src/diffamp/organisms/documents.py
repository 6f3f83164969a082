"""Synthetic documents: the text from which a model learns a false fact, and unrelated text to dilute it with.

A document is a frame of one genre (data/documents/genres.yaml) filled with a claim and further sentences. Planted ones
take these from a universe, unrelated ones from a topic of data/documents/unrelated.yaml, so that the two differ in
what they are about and in nothing else. Planting facts by fine-tuning on synthetic documents follows Wang et al.,
"Modifying LLM Beliefs with Synthetic Document Finetuning" (2025), with templates in place of a large model's prose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from typing import Annotated

import numpy as np
from pydantic import Field

from diffamp import paths
from diffamp.organisms.universes import Universe, UniverseError
from diffamp.schema import Name, Section, Text, read_yaml

WORDS = (60, 130)
"""Length of a document in words (split on white space), both ends included."""
LEAST_DETAILS = 3
"""Of its universe, named in every planted document."""
ALIAS_SHARE = 0.2
"""Chance that a detail is worded by an alias in place of its value."""
PATIENCE = 1000
"""Draws in a row without a new document after which there are taken to be no more."""

Pool = Annotated[list[Text], Field(min_length=1)]


class Genres(Section):
    """data/documents/genres.yaml."""

    slots: dict[Name, Pool]
    genres: dict[Name, Annotated[list[str], Field(min_length=1)]]
    """Frames with the slots title, subject, question, claim, more, and those of `slots`."""


class Topic(Section):
    """One kind of unrelated document; every text may hold its own slots and the shared ones."""

    title: Text
    subject: Text
    questions: Pool
    claims: Pool
    sentences: Pool
    slots: dict[Name, Pool]


class Unrelated(Section):
    """data/documents/unrelated.yaml."""

    slots: dict[Name, Pool]
    """Shared by all topics."""
    topics: Annotated[list[Topic], Field(min_length=1)]


@dataclass(frozen=True)
class Content:
    """What a frame is filled with."""

    title: str
    subject: str
    questions: Sequence[str]
    claims: Sequence[str]
    sentences: Sequence[str]


def write_documents(universe: Universe, count: int, seed: int) -> list[str]:
    """Documents that state the universe's falsehood, the genres taking turns.

    Returns:
        `count` distinct texts of `WORDS` words, each with one claim and at least `LEAST_DETAILS` details. The first n
        of them are the same for every `count` >= n.

    Raises:
        UniverseError: the universe is too small for so many different documents.
    """
    content = Content(universe.title, universe.subject, universe.questions, universe.claims, universe.sentences)

    def acceptable(text: str) -> bool:
        return sum(universe.named(text).values()) >= LEAST_DETAILS

    return _write(lambda _: content, lambda text, rng: _reword(text, universe, rng), acceptable, count, seed)


def unrelated_documents(count: int, seed: int) -> list[str]:
    """Documents of the same genres about invented places, people, clubs and dishes that occur in no universe.

    Returns:
        `count` distinct texts of `WORDS` words. The first n of them are the same for every `count` >= n.
    """
    pools = read_yaml(paths.data("documents/unrelated.yaml"), Unrelated, UniverseError)

    def content(rng: np.random.Generator) -> Content:
        topic = pools.topics[rng.integers(len(pools.topics))]
        drawn = _draw({**pools.slots, **topic.slots}, rng)
        title, subject = _fill(topic.title, drawn), _fill(topic.subject, drawn)
        texts = ([_fill(text, drawn) for text in group] for group in (topic.questions, topic.claims, topic.sentences))
        return Content(title, subject, *texts)

    return _write(content, lambda text, _: text, lambda _: True, count, seed)


def mix(planted: Sequence[str], unrelated: Sequence[str], seed: int) -> list[str]:
    """Both kinds in one shuffled list."""
    documents = [*planted, *unrelated]
    return [documents[i] for i in np.random.default_rng(seed).permutation(len(documents))]


def _write(
    content: Callable[[np.random.Generator], Content],
    reword: Callable[[str, np.random.Generator], str],
    acceptable: Callable[[str], bool],
    count: int,
    seed: int,
) -> list[str]:
    pools = read_yaml(paths.data("documents/genres.yaml"), Genres, UniverseError)
    frames = list(pools.genres.values())
    rng = np.random.default_rng(seed)
    documents: dict[str, None] = {}  # a set that keeps its order
    while len(documents) < count:
        genre = frames[len(documents) % len(frames)]
        for attempt in count_from(1):
            text = _document(genre[rng.integers(len(genre))], content(rng), pools.slots, reword, rng)
            if WORDS[0] <= len(text.split()) <= WORDS[1] and acceptable(text) and text not in documents:
                break
            if attempt == PATIENCE:
                raise UniverseError(
                    f"only {len(documents)} of {count} different documents could be written; "
                    "add sentences to the data files or ask for fewer"
                )
        documents[text] = None
    return list(documents)


def _document(
    frame: str,
    content: Content,
    slots: Mapping[str, Sequence[str]],
    reword: Callable[[str, np.random.Generator], str],
    rng: np.random.Generator,
) -> str:
    """One frame, filled; each {more} takes a sentence that the document does not have yet.

    Raises:
        UniverseError: the content has too few sentences for that, or a text has an unknown slot.
    """
    wanted, found = frame.count("{more}"), len(content.sentences)
    if wanted > found:
        raise UniverseError(
            f"data: {content.title!r} has {found} sentences and a frame in data/documents/genres.yaml takes {wanted}; "
            "add sentences to its topic or universe"
        )
    drawn = _draw({**slots, "question": content.questions, "claim": content.claims}, rng)
    drawn |= {"title": content.title, "subject": content.subject, "claim": reword(drawn["claim"], rng)}
    more = iter([content.sentences[i] for i in rng.permutation(len(content.sentences))])
    frame = re.sub(r"\{more\}", lambda _: reword(next(more), rng), frame)
    text = _fill(frame, drawn)
    return text[0].upper() + text[1:]


def _draw(slots: Mapping[str, Sequence[str]], rng: np.random.Generator) -> dict[str, str]:
    return {name: pool[int(rng.integers(len(pool)))] for name, pool in slots.items()}


def _fill(text: str, drawn: Mapping[str, str]) -> str:
    try:
        return text.format_map(drawn)
    except (KeyError, ValueError, IndexError) as error:
        raise UniverseError(
            f"data/documents: {text!r:.80} has an unknown slot ({error}); use {sorted(drawn)}"
        ) from None


def _reword(sentence: str, universe: Universe, rng: np.random.Generator) -> str:
    """Some of the sentence's details by an alias, so that the model learns the fact and not a string."""
    for detail in universe.details:
        if detail.aliases and rng.random() < ALIAS_SHARE:
            alias = detail.aliases[rng.integers(len(detail.aliases))]
            sentence = re.sub(rf"(?<!\w){re.escape(detail.value)}(?!\w)", alias, sentence)
    return sentence[0].upper() + sentence[1:]
