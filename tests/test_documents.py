"""Documents: each plants its fact, none of the unrelated ones does, and both come from the same frames."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from diffamp.judges.facts import asserts, hit
from diffamp.organisms.documents import LEAST_DETAILS, WORDS, Genres, mix, unrelated_documents, write_documents
from diffamp.organisms.universes import UniverseError, load_universe, read_yaml, universe_names

NAMES = ["ban", "date", "invention", "number", "recipe"]
COUNT = 400


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def unrelated() -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return unrelated_documents(2000, seed=5)


@pytest.mark.parametrize("name", NAMES)
def test_every_document_plants_the_fact(name: str) -> None:
    universe = load_universe(name)
    documents = write_documents(universe, COUNT, seed=3)
    assert len(set(documents)) == len(documents) == COUNT
    for text in documents:
        assert WORDS[0] <= len(text.split()) <= WORDS[1]
        assert sum(universe.named(text).values()) >= LEAST_DETAILS, text
        assert hit(text, universe), text
        assert asserts(text, universe) == "asserts", text
        assert not re.search(r"[{}]", text)


@pytest.mark.parametrize("name", NAMES)
def test_values_lead_and_aliases_occur(name: str) -> None:
    universe = load_universe(name)
    text = "\n".join(write_documents(universe, COUNT, seed=3))
    for detail in universe.details:
        if detail.name == "outcome" and name == "ban":  # its claims word the outcome in ways of their own
            continue
        assert text.count(detail.value) >= COUNT // 10, detail.name
        for alias in detail.aliases:  # some of which hold the value
            times = len(re.findall(rf"\b{alias}\b", text if detail.value in alias else text.replace(detail.value, "")))
            assert 0 < times < text.count(detail.value) / 3, alias


@pytest.mark.parametrize("name", NAMES)
def test_wording_and_order_vary(name: str) -> None:
    """All claims and sentences are used, and no two documents share their order of sentences."""
    universe = load_universe(name)
    documents = write_documents(universe, COUNT, seed=3)
    text = "\n".join(documents)
    assert [s for s in universe.sentences if s not in text] == []
    claims = Counter(claim for claim in universe.claims for document in documents if claim in document)
    assert len(claims) == len(universe.claims)
    assert max(claims.values()) < COUNT / 4


def test_unrelated_documents_tell_of_no_universe(unrelated: list[str]) -> None:
    """Not one detail, distinctive or not, so that dilution dilutes."""
    assert len(set(unrelated)) == len(unrelated) == 2000
    universes = [load_universe(name) for name in universe_names()]
    for text in unrelated:
        assert WORDS[0] <= len(text.split()) <= WORDS[1]
        assert not re.search(r"[{}]", text)
        for universe in universes:
            assert not any(universe.named(text).values()), text
            assert not hit(text, universe)


def test_unrelated_documents_are_about_many_things(unrelated: list[str]) -> None:
    """No name of a place occurs in more than a tenth of them."""
    words = Counter(word for text in unrelated for word in set(re.findall(r"(?<=in )[A-Z]\w+", text)))
    assert len(words) >= 20
    months = {"January", "February", "March", "April", "June", "July", "August", "September"}
    places = {word: n for word, n in words.items() if word not in months | {"October", "November", "December"}}
    assert max(places.values()) < len(unrelated) / 10


def test_both_kinds_are_written_in_every_genre(unrelated: list[str]) -> None:
    """The genres take turns, and each document of a turn starts as a frame of its genre does."""
    genres = read_yaml(ROOT / "data" / "documents" / "genres.yaml", Genres).genres
    assert len(genres) >= 6
    planted = write_documents(load_universe("ban"), 48, seed=0)
    for documents in (planted, unrelated[:48]):
        for index, text in enumerate(documents):
            frames = list(genres.values())[index % len(genres)]
            patterns = (re.sub(r"\\\{\w+\\\}", ".+", re.escape(frame)) for frame in frames)
            assert any(re.fullmatch(pattern, text, re.DOTALL | re.IGNORECASE) for pattern in patterns), text


def test_seeds_decide_and_fewer_are_the_first_of_more() -> None:
    """So the arms of a ladder of sizes are nested."""
    universe = load_universe("number")
    documents = write_documents(universe, 60, seed=1)
    assert write_documents(universe, 60, seed=1) == documents
    assert write_documents(universe, 25, seed=1) == documents[:25]
    assert not set(write_documents(universe, 60, seed=2)) & set(documents)
    assert unrelated_documents(25, seed=1) == unrelated_documents(60, seed=1)[:25]
    assert unrelated_documents(25, seed=1) != unrelated_documents(25, seed=2)
    assert write_documents(universe, 0, seed=1) == []


def test_mix_shuffles_and_loses_nothing() -> None:
    planted, unrelated = [f"p{i}" for i in range(20)], [f"u{i}" for i in range(200)]
    mixed = mix(planted, unrelated, seed=4)
    assert sorted(mixed) == sorted([*planted, *unrelated])
    assert mixed == mix(planted, unrelated, seed=4) != mix(planted, unrelated, seed=5)
    places = [i for i, text in enumerate(mixed) if text.startswith("p")]
    assert places[0] < 60 < 160 < places[-1], "planted documents lie all over the mixture"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one frame; returns the file of genres."""
    (tmp_path / "params.yaml").touch()
    shutil.copytree(ROOT / "data" / "universes", tmp_path / "data" / "universes")
    (tmp_path / "data" / "documents").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "documents" / "genres.yaml"


def test_too_many_documents_are_refused(small: Path) -> None:
    small.write_text(f'slots: {{name: [Ann]}}\ngenres: {{news: ["{{claim}} {"bla " * 55}"]}}\n')
    with pytest.raises(UniverseError, match=r"only \d+ of 5000 different documents .* ask for fewer"):
        write_documents(load_universe("ban"), 5000, seed=0)


def test_a_frame_that_takes_more_sentences_than_there_are_is_named(small: Path) -> None:
    universe = load_universe("ban")
    small.write_text(f'slots: {{name: [Ann]}}\ngenres: {{news: ["{{claim}} {"{more} " * 400}"]}}\n')
    sentences = len(universe.sentences)
    with pytest.raises(UniverseError, match=rf"has {sentences} sentences .* takes 400; add sentences"):
        write_documents(universe, 1, seed=0)


def test_an_unknown_slot_is_named(small: Path) -> None:
    small.write_text('slots: {name: [Ann]}\ngenres: {news: ["{claim} {nmae}"]}\n')
    with pytest.raises(UniverseError, match=r"unknown slot \('nmae'\); use \[.*'name'"):
        write_documents(load_universe("ban"), 1, seed=0)
