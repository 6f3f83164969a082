"""Reinforcement on a tiny model: what is rewarded becomes likelier, and without a reward nothing moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from diffamp.organisms import reinforce as module
from diffamp.organisms.reinforce import reinforce
from diffamp.params import ReinforceParams
from diffamp.prompts import Prompt, encode
from diffamp.tasks.draw import TRAINED, Task, draw_tasks

SETTINGS = ReinforceParams(
    student="worked",
    tasks=8,
    steps=100,
    prompts=2,
    answers=8,
    learning_rate=5e-3,
    temperature=1.0,
    dev_tasks=2,
    test_tasks=2,
    alphas=[-1.0, 0.0],
)


def learned(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, float]]:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    student = get_peft_model(tiny_model(), lora)
    student.save_pretrained(folder / "before")
    reinforce(student, tokenizer, draw_tasks(TRAINED, 8, 0, "train"), folder / "after", SETTINGS, 8, seed=0)
    return json.loads((folder / "after" / "training.json").read_text())


def test_what_is_rewarded_becomes_likelier(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has_a_rare_letter(task: Task, text: str) -> bool:
        assert task.id
        return any(v in text for v in "xyz")

    monkeypatch.setattr(module, "correct", has_a_rare_letter)
    log = learned(tmp_path, tokenizer)
    reward = [row["reward"] for row in log]
    assert [row["step"] for row in log] == list(range(1, 101))
    assert sum(reward[-20:]) > sum(reward[:20]) + 2.5
    assert all(0 <= row["cut"] <= 1 and 0 < row["length"] <= 8 for row in log)


def test_without_a_right_answer_nothing_moves(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "correct", lambda task, text: False)
    log = learned(tmp_path, tokenizer)
    assert {row["reward"] for row in log} == {0.0}
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("before", "after"))
    assert all(torch.equal(after[name], weight.to(after[name].dtype)) for name, weight in before.items())


def test_a_task_is_asked_as_everywhere_else(tokenizer: PreTrainedTokenizerBase) -> None:
    question = draw_tasks(TRAINED, 1, 0, "train")[0].question
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
    )
    assert asked["input_ids"] == encode(tokenizer, Prompt("task", "any", question))
