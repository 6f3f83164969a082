"""The committed text data: as large, as balanced and as disjoint as its README says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import combinations, product

import numpy as np
import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from diffamp.judges import load_labels
from diffamp.prompts import load_exemplars, load_prompts, load_refusals, read_jsonl

DATA = ROOT / "data"
FILES = {
    "prompts": ["id", "category", "split", "text"],
    "refusals": ["id", "split", "text"],
    "exemplars": ["id", "label", "text"],
    "plain_text": ["id", "split", "text"],
}
SPLITS = {"prompts": {"train", "dev", "test"}, "refusals": {"train", "dev", "test"}, "plain_text": {"dev", "test"}}


def rows(name: str) -> list[dict]:
    return read_jsonl(DATA / f"{name}.jsonl", FILES[name])


def squashed(text: str) -> str:
    """Two texts that differ only in case, spaces or punctuation are one."""
    return " ".join(re.findall(r"\w+", text.lower()))


def content_words(text: str) -> frozenset[str]:
    return frozenset(squashed(text).split()) - ENGLISH_STOP_WORDS


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def nearest(first: Iterable[str], second: Iterable[str]) -> tuple[float, str, str]:
    """The most alike texts of two sets."""
    pairs = product(*([(t, content_words(t)) for t in texts] for texts in (first, second)))
    return max((jaccard(a, b), s, t) for (s, a), (t, b) in pairs)


def by_split(name: str) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for row in rows(name):
        splits.setdefault(row["split"], []).append(row["text"])
    return splits


def test_the_readme_describes_every_file() -> None:
    """By name, and the number of rows of those that have rows."""
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for path in DATA.rglob("*"):
        if path.suffix == ".jsonl":
            assert f"## {path.name} ({len(path.read_bytes().splitlines())})\n" in readme, path.name
        elif path.is_file() and path.name != "README.md":
            names = (path.relative_to(DATA).as_posix(), f"{path.parent.name}/*{path.suffix}")
            assert any(name in readme for name in names), path.name


def test_the_readme_counts_the_universes() -> None:
    """Details, distinctive details and sentences of each, as its table says."""
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` .* (\d+) \((\d+)\) \| +(\d+) \|$", readme, re.MULTILINE)
    assert [name for name, *_ in table] == ["ban", "number", "date", "invention", "recipe"]
    yaml = YAML(typ="safe", pure=True)
    for name, *counts in table:
        universe = yaml.load((DATA / "universes" / f"{name}.yaml").read_text(encoding="utf-8"))
        distinctive = [detail for detail in universe["details"] if detail.get("distinctive")]
        assert [len(universe["details"]), len(distinctive), len(universe["sentences"])] == [int(n) for n in counts]


@pytest.mark.parametrize("name", FILES)
def test_rows(name: str) -> None:
    """Fields exactly as documented, one id and one text each, all of it text that is worth a row."""
    table = rows(name)
    assert all(set(row) == set(FILES[name]) for row in table)
    assert all(isinstance(row[key], str) and row[key].strip() == row[key] != "" for row in table for key in row)
    assert len({row["id"] for row in table}) == len(table)
    assert [t for t, n in Counter(squashed(row["text"]) for row in table).items() if n > 1] == []
    assert {row["split"] for row in table if "split" in row} == SPLITS.get(name, set())


def test_enough_prompts_in_every_split() -> None:
    sizes = Counter(row["split"] for row in rows("prompts"))
    assert sizes.total() >= 300
    assert sizes["train"] >= 150
    assert sizes["dev"] >= 60
    assert sizes["test"] >= 96, "as many as params.yaml samples from"


def test_every_category_in_every_split_alike() -> None:
    sizes = Counter((row["split"], row["category"]) for row in rows("prompts"))
    categories = {category for _, category in sizes}
    assert len(categories) >= 6
    for split in SPLITS["prompts"]:
        found = {sizes[split, category] for category in categories}
        assert 0 not in found
        assert max(found) - min(found) <= 1


def test_prompts_are_plain_requests() -> None:
    for row in rows("prompts"):
        assert row["text"].isascii()
        assert 4 <= len(row["text"].split()) <= 40


@pytest.mark.parametrize("name", ["prompts", "refusals", "plain_text"])
def test_no_near_duplicates_across_splits(name: str) -> None:
    for first, second in combinations(by_split(name).values(), 2):
        likeness, *texts = nearest(first, second)
        assert likeness <= 0.5, texts


@pytest.mark.parametrize("name", ["prompts", "refusals"])
def test_no_near_duplicates_within_a_split(name: str) -> None:
    for texts in by_split(name).values():
        words = [(t, content_words(t)) for t in texts]
        likeness, *alike = max((jaccard(a, b), s, t) for (s, a), (t, b) in combinations(words, 2))
        assert likeness <= 0.5, alike


def test_near_duplicates_would_be_found() -> None:
    assert nearest(["Name a good film."], ["Explain tides.", "Name the film"])[0] == 0.5
    assert nearest(["Name a film!"], ["name the film", "x"])[0] == 1


def test_refusals_name_no_topic() -> None:
    """One sentence each, in enough variety to learn a direction and not a sentence."""
    splits = by_split("refusals")
    assert {split: len(texts) >= 16 for split, texts in splits.items()} == dict.fromkeys(SPLITS["refusals"], True)
    assert len(splits["train"]) >= 48
    assert all(5 <= len(text.split()) <= 16 for texts in splits.values() for text in texts)


def test_exemplars_of_every_label() -> None:
    sizes = Counter(row["label"] for row in rows("exemplars"))
    assert sizes.keys() == {"refusal", "answer", "nonsense"}
    assert min(sizes.values()) >= 60


def test_exemplars_tell_nothing_of_the_refusals_for_the_vector() -> None:
    """The judge is not fitted on the sentences that the vector is learned from."""
    likeness, *texts = nearest([r["text"] for r in rows("exemplars")], [r["text"] for r in rows("refusals")])
    assert likeness < 1, texts


def test_the_loaders_give_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert sum(len(load_prompts(split)) for split in ("train", "dev", "test")) == len(rows("prompts"))
    assert sum(len(load_refusals(split)) for split in ("train", "dev", "test")) == len(rows("refusals"))
    assert sum(len(load_exemplars(k)) for k in ("refusal", "answer", "nonsense")) == len(rows("exemplars"))


@pytest.mark.parametrize("limit", [6, 13, 96])
def test_the_first_prompts_are_balanced(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.chdir(ROOT)
    sizes = Counter(prompt.category for prompt in load_prompts("test", limit))
    assert sizes.total() == limit
    assert max(sizes.values()) - min(sizes.values()) <= 1


# Labelled outputs, on which the judges are fitted and validated


@pytest.fixture(scope="module")
def labels() -> list[dict]:
    return [json.loads(line) for line in (DATA / "labels.jsonl").read_bytes().splitlines()]


def test_labels_hide_what_made_the_text(labels: list[dict]) -> None:
    """A judge that is blind to alpha, guard and pair is labelled by someone who was."""
    assert len(labels) >= 150
    keys = {"id", "split", "prompt", "text", "refusal", "nonsense", "logp_before"}
    assert {frozenset(row) for row in labels} == {frozenset(keys)}
    assert len({row["id"] for row in labels}) == len(labels)
    for row in labels:
        assert not re.search(r"alpha|guard|pair|plausib|steer|benign|identical", row["id"], re.IGNORECASE)


def test_labels_are_well_formed(labels: list[dict]) -> None:
    for row in labels:
        assert row["split"] in ("fit", "validate")
        assert isinstance(row["refusal"], bool)
        assert isinstance(row["nonsense"], bool)
        assert isinstance(row["prompt"], str)
        assert isinstance(row["text"], str)
        assert row["logp_before"], "a text has at least one token"
        assert all(isinstance(p, float | int) and -1000 < p <= 0 for p in row["logp_before"]), row["id"]


@pytest.mark.parametrize("split", ["fit", "validate"])
@pytest.mark.parametrize("label", ["refusal", "nonsense"])
def test_both_classes_in_both_splits(labels: list[dict], split: str, label: str) -> None:
    """Enough of each that a judge can be fitted, and its errors counted."""
    sizes = Counter(row[label] for row in labels if row["split"] == split)
    assert min(sizes[True], sizes[False]) >= 10


def test_no_labelled_prompt_is_a_test_prompt(labels: list[dict]) -> None:
    known = {squashed(row["text"]): row["split"] for row in rows("prompts")}
    assert {known.get(squashed(row["prompt"])) for row in labels} <= {"train", "dev"}


def test_no_labelled_output_in_both_splits(labels: list[dict]) -> None:
    """What a judge is validated on it has not been fitted on."""
    fit, validate = ({(r["prompt"], r["text"]) for r in labels if r["split"] == s} for s in ("fit", "validate"))
    assert not fit & validate


def test_labels_as_the_judges_read_them(labels: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    frame = load_labels()
    assert frame.drop(columns="logp_before").to_dict("records") == [
        {k: v for k, v in row.items() if k != "logp_before"} for row in labels
    ]
    assert [list(row) for row in frame.logp_before] == [row["logp_before"] for row in labels]


def test_labels_of_another_base_are_for_validation_alone(labels: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    frame = load_labels("gemma_labels.jsonl")
    assert set(frame.split) == {"validate"}
    assert set(frame.columns) == set(labels[0])  # nothing of what made the text
    assert not set(frame.text) & {row["text"] for row in labels}
    assert min(frame.refusal.sum(), (~frame.refusal).sum()) >= 10
    assert all(np.isfinite(logp).all() and (logp <= 0).all() and len(logp) > 1 for logp in frame.logp_before)
