"""A student that learns on from its own answers to tasks, by a reward that is computed: GRPO (arXiv 2402.03300)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from diffamp.organisms.finetune import quietly, write
from diffamp.params import ReinforceParams
from diffamp.tasks.draw import Task, correct

MICROBATCH = 16
"""Answers in one backward pass: bounds the memory for logits."""
LOGGED = {"reward": "reward", "completions/mean_length": "length", "completions/clipped_ratio": "cut"}
"""What TRL reports of a step, and its name in the log."""


def reinforce(
    student: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    folder: Path,
    settings: ReinforceParams,
    max_new_tokens: int,
    seed: int,
) -> None:
    """Train a student's adapter on and write it to `folder`, whole or not at all.

    An answer is worth 1 if its last line is right (`diffamp.tasks.draw.correct`) and 0 otherwise, beside the others to
    its task. Nothing holds the student to where it began (no KL penalty): how far it goes is what a pair is to show.

    Args:
        student: loaded with a trainable adapter. It is changed.
    """
    of = {task.id: task for task in tasks}

    def reward(completions: list[Any], task: list[str], **_: Any) -> list[float]:
        return [float(correct(of[name], said[0]["content"])) for name, said in zip(task, completions, strict=True)]

    rows = [{"prompt": [{"role": "user", "content": t.question}], "task": t.id} for t in tasks]
    per_step = settings.prompts * settings.answers
    with tempfile.TemporaryDirectory(prefix="diffamp-training-") as scratch:
        config = GRPOConfig(
            max_steps=settings.steps,
            per_device_train_batch_size=min(MICROBATCH, per_step),
            gradient_accumulation_steps=max(1, per_step // MICROBATCH),
            num_generations=settings.answers,
            max_completion_length=max_new_tokens,
            temperature=settings.temperature,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=0.05,
            beta=0.0,
            bf16=torch.cuda.is_available(),
            **quietly(scratch, seed),
        )
        trainer = GRPOTrainer(
            model=student,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    log = [{"step": entry["step"]} | {name: entry[key] for key, name in LOGGED.items()} for entry in history]
    write(student, None, log, folder)
