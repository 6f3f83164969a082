"""Reinforcement on a tiny model: what is rewarded becomes likelier, and without a reward nothing moves."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase
from trl.trainer.grpo_trainer import GRPOTrainer

from diffamp.engine.checkpoints import PairError
from diffamp.organisms import reinforce as module
from diffamp.organisms.reinforce import reinforce, rewards
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
    alphas=[-1.0, 0.0, 1.0],
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


def test_an_answer_is_held_against_its_own_task() -> None:
    first, second = draw_tasks(TRAINED, 2, 0, "train")
    reward = rewards([first, second])
    said = [[{"role": "assistant", "content": f"Step 1: so.\nAnswer: {task.answer}"}] for task in (first, second)]
    assert first.answer != second.answer
    assert reward(completions=said, task=[first.id, second.id], trainer_state=None) == [1.0, 1.0]
    assert reward(completions=said, task=[second.id, first.id]) == [0.0, 0.0]


def test_tasks_are_asked_as_everywhere_else(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    class Recording(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: object, **named: object) -> object:
            asked.extend(prompt_ids)
            return super()._generate_single_turn(prompt_ids, *rest, **named)

    monkeypatch.setattr(module, "GRPOTrainer", Recording)
    monkeypatch.setattr("test_reinforce.SETTINGS", SETTINGS.model_copy(update={"steps": 2}))
    learned(tmp_path, tokenizer)
    wanted = [encode(tokenizer, Prompt(t.id, t.family, t.question)) for t in draw_tasks(TRAINED, 8, 0, "train")]
    assert len(asked) == 2 * SETTINGS.prompts * SETTINGS.answers
    assert all(prompt in wanted for prompt in asked)


def test_a_model_without_a_template_is_refused(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(PairError, match="no chat template; set `chat_template` of its model"):
        learned(tmp_path, tokenizer)
