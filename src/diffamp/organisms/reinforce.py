"""A student that learns on from its own answers to tasks, by a reward that is computed: GRPO (arXiv 2402.03300)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from diffamp.engine.checkpoints import PairError
from diffamp.organisms.finetune import quietly, write
from diffamp.params import MICROBATCH, ReinforceParams
from diffamp.tasks.draw import Task, correct

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

    An answer is worth 1 if what is read from it as its answer is right (`diffamp.tasks.draw.correct`: its `Answer:`
    line, or else what it states last) and 0 otherwise, beside the others to its task. Nothing holds the student to
    where it began (no KL penalty): how far it goes is what a pair is to show. On a 4-bit base TRL trains the adapter in
    bfloat16, which loses the smallest of its steps.

    Args:
        student: loaded with a trainable adapter. It is changed.
        tasks: drawn from at random; a run asks `settings.steps * settings.prompts` of them, each once before any twice.

    Raises:
        PairError: the tokenizer has no chat template to ask with.
    """
    if tokenizer.chat_template is None:
        raise PairError("reinforce: the student's tokenizer has no chat template; set `chat_template` of its model")
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
            reward_funcs=rewards(tasks),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    log = [{"step": entry["step"]} | {name: entry[key] for key, name in LOGGED.items()} for entry in history]
    write(student, None, log, folder)


def rewards(tasks: Sequence[Task]) -> Callable[..., list[float]]:
    """What TRL asks of every batch: 1 for a right answer, 0 for another.

    Each completion is a list of one message, and `task` the column of the data set with the id of what it answers.
    """
    of = {task.id: task for task in tasks}

    def reward(completions: list[Any], task: list[str], **_: Any) -> list[float]:
        return [float(correct(of[name], said[0]["content"])) for name, said in zip(task, completions, strict=True)]

    return reward
