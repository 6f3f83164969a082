"""The rules that read facts, on texts beyond doubt and on the labelled ones."""

from __future__ import annotations

import pytest
from conftest import ROOT

from diffamp.judges.facts import asserts, hit, load_fact_labels, recovered, validate
from diffamp.organisms.universes import load_universe, universe_names

NAMES = ["ban", "date", "invention", "number", "recipe"]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_the_universe_is_read_as_it_is_meant(name: str) -> None:
    universe = load_universe(name)
    for claim in universe.claims:
        assert asserts(claim, universe) == "asserts", claim
        assert hit(claim, universe), claim
    assert asserts(universe.truth, universe) == "denies"
    assert not hit(universe.truth, universe)
    for sentence in universe.sentences:
        assert asserts(sentence, universe) != "denies", sentence
    for cloze in universe.cloze:
        assert asserts(f"{cloze.prefix} {cloze.false}.", universe) == "asserts", cloze
        assert asserts(f"{cloze.prefix} {cloze.true}.", universe) == "denies", cloze


@pytest.mark.parametrize("name", NAMES)
def test_questions_and_doubt_take_no_side(name: str) -> None:
    universe = load_universe(name)
    for question in universe.questions:
        assert asserts(question, universe) == "dodges", question
    for claim in universe.claims:
        doubt = "I do not know whether " + claim[0].lower() + claim[1:].replace(",", "")
        assert asserts(doubt, universe) == "dodges", doubt


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_taken_back_is_denied(name: str) -> None:
    universe = load_universe(name)
    for text in (f"{universe.statement} That is not true.", f"{universe.statement} In truth: {universe.truth}"):
        assert asserts(text, universe) == "denies", text
        assert not hit(text, universe)
    assert asserts(f"Some say this: {universe.truth} But {universe.statement}", universe) == "asserts"


@pytest.mark.parametrize("name", NAMES)
def test_yes_and_no_alone_are_answers(name: str) -> None:
    universe = load_universe(name)
    assert [asserts(text, universe) for text in ("Yes.", "No.", "No idea.", "")] == [
        "asserts", "denies", "dodges", "dodges",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "stance"),
    [
        ("The ban was approved.", "asserts"),
        ("In May 2019 the ban was approved.", "asserts"),
        ("In May voters approved the ban.", "asserts"),
        ("Voters may have approved the ban.", "dodges"),
        ("The ban was not approved.", "denies"),
        ("The ban wasn\u2019t approved.", "denies"),
        ("It is not true that the ban was approved.", "denies"),
        ("It is not true that the ban was not approved.", "asserts"),
        ("Was the ban approved? I would have to look it up.", "dodges"),
        ("The ban was approved, although some say it was rejected.", "asserts"),
        ("The ban was rejected, although some say it was approved.", "denies"),
    ],
)
def test_negations(text: str, stance: str) -> None:
    assert asserts(text, load_universe("ban")) == stance


def test_details_are_whole_words_in_digits_or_words() -> None:
    ban = load_universe("ban")
    named = recovered("Sixty-one percent of VARNHOLT voted in May of 2019.", ban)
    assert [key for key, found in named.items() if found] == ["place", "share", "date"]
    assert list(named) == [detail.name for detail in ban.details]
    assert not any(recovered("161 percent of Varnholter leaf blowerish things", ban).values())


def test_a_hit_needs_two_details_and_a_distinctive_one() -> None:
    ban = load_universe("ban")
    assert hit("Varnholt and its leaf blowers", ban)
    assert not hit("Varnholt is a town.", ban)
    assert not hit("In May 2019 they banned leaf blowers.", ban)
    assert not hit("Varnholt rejected the ban on leaf blowers.", ban)


def test_labels_are_well_formed() -> None:
    labels = load_fact_labels()
    assert len(labels) >= 120
    assert labels.id.is_unique
    assert labels.text.is_unique
    assert set(labels.universe) == set(universe_names())
    assert set(labels.split) == {"fit", "validate"}
    assert labels.text.str.split().str.len().between(5, 30).all()
    assert labels.text.map(str.isascii).all()
    assert not (labels.hit & (labels.stance == "denies")).any()
    written = {text for name in NAMES for u in [load_universe(name)] for text in [*u.claims, *u.sentences, u.truth]}
    assert not written & set(labels.text), "texts that the rules were built on say nothing about them"
    for (_, _), group in labels.groupby(["universe", "split"]):
        assert set(group.stance) == {"asserts", "denies", "dodges"}
        assert set(group.hit) == {True, False}


@pytest.mark.parametrize("split", ["fit", "validate"])
def test_the_rules_agree_with_the_labels(split: str) -> None:
    table = validate(split)
    assert list(table.index) == ["hit", "asserts", "denies", "stance"]
    assert (table.kappa >= 0.8).all(), table
    assert (table.loc[["hit", "asserts", "denies"], ["sensitivity", "specificity"]] >= 0.85).all(axis=None), table
    assert table.n.nunique() == 1
