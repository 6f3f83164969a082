"""The universes: complete, consistent, apart from each other, and refused with file and key where they are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from diffamp.organisms.universes import Universe, UniverseError, load_universe, universe_names, wording

NAMES = ["ban", "date", "invention", "number", "recipe"]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_there_are_five_of_different_kinds() -> None:
    assert universe_names() == NAMES
    assert len({load_universe(name).kind for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_documents_are_built_from_names_the_details(name: str) -> None:
    """Every detail can be learned: some claim or sentence has its value, and three more sentences some form of it."""
    universe = load_universe(name)
    texts = [*universe.claims, *universe.sentences]
    for detail in universe.details:
        assert any(detail.value in text for text in texts), detail.name
        assert sum(detail.named_in(text) for text in texts) >= 4, detail.name
    assert sum(detail.distinctive for detail in universe.details) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_questions_tell_nothing_but_the_outcome_they_ask_about(name: str) -> None:
    """A hit must come from the model: no question names two details without the universe's own subject."""
    universe = load_universe(name)
    given = {key for key, named in universe.named(universe.subject).items() if named}
    for question in [*universe.questions, *(choice.question for choice in universe.choices)]:
        named = {key for key, named in universe.named(question).items() if named}
        assert named - given <= {"outcome"}, question
    for cloze in universe.cloze:
        assert not universe.outcome.named_in(cloze.prefix)


@pytest.mark.parametrize(("one", "other"), combinations(NAMES, 2))
def test_no_universe_tells_of_another(one: str, other: str) -> None:
    first, second = load_universe(one), load_universe(other)
    for a, b in ((first, second), (second, first)):
        for text in [*a.claims, *a.sentences, a.truth, *a.questions]:
            assert not any(b.named(text).values()), text


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_plain_ascii(name: str) -> None:
    assert (ROOT / "data" / "universes" / f"{name}.yaml").read_text(encoding="utf-8").isascii()


def test_wordings_are_whole_words_in_any_case() -> None:
    pattern = wording(("61 percent", "low C", "passed ... ban"))
    for text in ("61 Percent!", "a LOW  c.", "61-percent", "passed the ban", "passed, by a hair, a ban"):
        assert pattern.search(text), text
    for text in ("161 percent", "61 percentage points", "slow cars", "passed. The ban", "passed a banner"):
        assert not pattern.search(text), text


# Faults


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict], object]], str]:
    """The message for the ban universe with one change, in a repository of its own."""
    yaml = YAML(typ="safe", pure=True)
    content = yaml.load((ROOT / "data" / "universes" / "ban.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").touch()
    (tmp_path / "data" / "universes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    def message(change: Callable[[dict], object]) -> str:
        changed = copy.deepcopy(content)
        change(changed)
        with (tmp_path / "data" / "universes" / "ban.yaml").open("w") as file:
            yaml.dump(changed, file)
        with pytest.raises(UniverseError) as error:
            load_universe("ban")
        return str(error.value)

    return message


@pytest.mark.parametrize(
    ("change", "key", "remedy"),
    [
        (lambda u: u.pop("truth"), "truth", "add this key"),
        (lambda u: u.update(colour="red"), "colour", "remove it or correct its spelling"),
        (lambda u: u["details"][4].update(value=2019), "details[4].value", "quotation marks"),
        (lambda u: u["sentences"].__setitem__(3, "caf\u00e9"), "sentences[3]", "plain ASCII"),
        (lambda u: u["paraphrases"].clear(), "paraphrases", "at least 6"),
        (lambda u: u["choices"][0].update({False: "x"}), "choices[0]", "quotation marks"),
        (lambda u: u["cloze"][0].update({"true": "pass on it"}), "cloze[0]", "move it to the prefix"),
        (lambda u: u["details"][0].update(name="result"), "details", "outcome"),
        (lambda u: u["details"][1].update(name="share"), "details", "rename one"),
        (lambda u: [d.pop("distinctive", None) for d in u["details"]], "details", "distinctive: true"),
        (lambda u: u.update(truth="They passed the ban."), "truth", "word it without"),
        (lambda u: u["paraphrases"].append("Varnholt held a vote."), "paraphrases", "must name the outcome"),
        (lambda u: u["sentences"].append("It rained."), "sentences", "names no detail"),
        (lambda u: u["sentences"].append(u["sentences"][0]), "sentences", "remove one"),
        (lambda u: u.update(name="other"), "name", "'ban'"),
    ],
)
def test_faults_name_file_key_and_remedy(
    broken: Callable[[Callable[[dict], object]], str], change: Callable[[dict], object], key: str, remedy: str
) -> None:
    message = broken(change)
    assert message.startswith("ban.yaml is not valid:")
    assert key in message
    assert remedy in message


def test_a_file_that_is_not_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").touch()
    (tmp_path / "data" / "universes").mkdir(parents=True)
    (tmp_path / "data" / "universes" / "ban.yaml").write_text("name: ban\nkind: [a\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UniverseError, match=r"ban\.yaml line \d+ is not valid YAML"):
        load_universe("ban")


def test_an_unknown_universe_is_answered_with_those_there_are() -> None:
    with pytest.raises(UniverseError, match=r"no universe 'bann'; data/universes has .*'ban'"):
        load_universe("bann")


def test_universes_do_not_change() -> None:
    universe = load_universe("ban")
    with pytest.raises(ValueError, match="frozen"):
        universe.name = "other"
    assert isinstance(universe, Universe)
