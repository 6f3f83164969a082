"""The cheap checks of a pair, on tiny ones in a checkout of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import ROOT, tiny_model
from ruamel.yaml import YAML
from transformers import PreTrainedTokenizerBase

from diffamp.check import main


@pytest.fixture
def checkout(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tiny models, pairs of them in params.yaml, a data folder."""
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    models = content["models"]
    for name, seed in (("first", 0), ("second", 1)):
        tiny_model(seed=seed).save_pretrained(tmp_path / "models" / name)
        tokenizer.save_pretrained(tmp_path / "models" / name)
        models[name] = {"source": "path", "path": "/nowhere", "licence": "none"}
    models["absent"] = {"source": "path", "path": "/nowhere", "licence": "none"}
    content["pairs"] |= {
        "tuned": {"before": "first", "after": "second", "precision": "fp32"},
        "equal": {"before": "first", "after": "first", "precision": "fp32"},
        "strict": {"before": "first", "after": "second", "precision": "fp32", "overlap": 1.0},
        "missing": {"before": "first", "after": "absent", "precision": "fp32"},
        "trained": {"before": "absent", "adapter": "steered", "precision": "fp32"},
        "planted": {"before": "first", "adapter": "ban-1to1", "precision": "fp32"},
        "taught": {"before": "first", "adapter": "reasoning", "precision": "fp32"},
        "whole": {"before": "first", "after": "steered-full", "target": "absent", "precision": "fp32"},
        "pushed": {
            "before": "first",
            "steering": {"file": "artifacts/vectors/smollm2/vector.safetensors", "dose": 1.0},
            "precision": "fp32",
        },
        "own": {"before": "first", "steering": {"file": "own.safetensors", "dose": 1.0}, "precision": "fp32"},
    }
    yaml.dump(content, tmp_path / "params.yaml")
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_good_pair_passes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("tuned") == 0
    said = capsys.readouterr().out
    assert "BAD" not in said
    for question in ("sources", "architecture", "vocabulary", "template", "memory", "one step", "difference"):
        assert f"ok   {question}:" in said
    assert "nats per token at alpha 1" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("equal", "before and after are equal"),
        ("missing", "not made yet: make repro TARGETS='models@absent'"),
        ("trained", "not made yet: make repro TARGETS='models@absent train@steered'"),
        ("planted", "not made yet: make repro TARGETS='plant@ban-1to1'"),
        ("taught", "not made yet: make repro TARGETS='teach@reasoning'"),
        ("whole", "not made yet: make repro TARGETS='models@absent train@steered-full'"),
        ("pushed", "not made yet: make repro TARGETS='vector@smollm2'"),
        ("own", "own.safetensors: correct pairs.own.steering.file, or put the vector there"),
        ("nobody", "no pair 'nobody' in params.yaml"),
    ],
)
def test_what_is_wrong_is_said(checkout: Path, capsys: pytest.CaptureFixture[str], name: str, words: str) -> None:
    assert main(name) == 1
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("BAD") and words in line]


@pytest.mark.parametrize("which", ["first", "second"])
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"model_type": "unheard-of"}', "Transformers does not recognize this architecture"),
        ('{"model_type": "t5"}', "is a t5: no causal language model that transformers knows"),
        ('{"model_type": "mamba"}', "is a mamba: generate only: some layers keep other states than keys and values"),
        ('{"model_', "is not a valid JSON file"),
    ],
)
def test_it_stops_at_an_architecture_that_cannot_be_used(
    checkout: Path, capsys: pytest.CaptureFixture[str], which: str, config: str, words: str
) -> None:
    """Of either model, whose other files are all in order."""
    (checkout / "models" / which / "config.json").write_text(config)
    assert main("tuned") == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said if line.startswith("BAD")] == ["BAD  architecture"]
    assert [line for line in said if f"BAD  architecture: {which}" in line and words in line]
    assert not [line for line in said if "vocabulary" in line]


def test_another_vocabulary_is_seen_before_anything_is_loaded(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkout / "models/second/tokenizer.json"
    file.write_text(file.read_text().replace('"</s>"', '"<end>"'))
    assert main("strict") == 1
    said = capsys.readouterr().out
    assert "BAD  vocabulary" in said
    assert "one step" not in said
