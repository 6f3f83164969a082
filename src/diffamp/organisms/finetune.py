"""A student that learns from a teacher's answers: by their text, or by the teacher's logits on that text."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from diffamp.engine.scoring import Text
from diffamp.organisms.answers import predicting
from diffamp.prompts import Prompt, encode

LOG = "training.json"
"""Written last into an organism's folder: what each step came to."""


class DistillationTrainer(SFTTrainer):
    """SFTTrainer whose loss is KL(teacher || student) on the answers' tokens instead of their log-likelihood.

    The whole next-token distribution at every position teaches far more per answer than the one token that was
    drawn, so a small organism stays clean. TRL's own DistillationTrainer learns on the student's samples only.
    """

    def __init__(self, *args: Any, teacher: PreTrainedModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.eval()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs.pop("labels")
        with torch.no_grad(), predicting(self.teacher, labels):
            target = self.teacher(**inputs, use_cache=False).logits.float().log_softmax(-1)
        with predicting(self.model, labels) as answers:
            outputs = model(**inputs, use_cache=False)
        student = outputs.logits.float().log_softmax(-1)  # (answer tokens, vocab)
        count = answers.sum() if num_items_in_batch is None else num_items_in_batch
        loss = F.kl_div(student, target, log_target=True, reduction="sum") / count
        return (loss, outputs) if return_outputs else loss


def train(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Text],
    folder: Path,
    *,
    rank: int | None,
    lora_alpha: int,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    seed: int,
    learn_from: Literal["logits", "text"] = "logits",
    teacher: PreTrainedModel | None = None,
) -> None:
    """Train `base` and write what was trained to `folder`, whole or not at all.

    Args:
        base: loaded with `trainable=True`; 4-bit (QLoRA) or not. It is changed.
        rank: of a LoRA on all linear layers, which is then what is written; None trains every weight and writes the
            checkpoint with its tokenizer. On a 4-bit base TRL trains it in bfloat16.
        examples: what is learned, each token of an answer given what comes before it (no token of the prompts).
        epochs: 0 writes the adapter as initialised, which changes nothing (B = 0).
        teacher: whose logits are learned; needed with `learn_from="logits"`.
    """
    if learn_from == "logits" and teacher is None:
        raise ValueError("learn_from='logits' needs the teacher")
    model: Any = base
    if rank is not None:
        lora = LoraConfig(
            r=rank, lora_alpha=lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = get_peft_model(base, lora)
        # models/NAME, as seen from the repository: in another folder the adapter is the same, to the byte
        model.peft_config["default"].base_model_name_or_path = "/".join(Path(base.name_or_path).parts[-2:])
    with tempfile.TemporaryDirectory(prefix="diffamp-training-") as scratch:
        config = SFTConfig(
            num_train_epochs=max(epochs, 1),
            max_steps=-1,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            completion_only_loss=True,
            max_length=None,  # its default cuts long examples without a word
            train_sampling_strategy="group_by_length",  # short with short: little padding
            # an adapter beside bf16 weights needs no autocast on a CPU; float32 weights gain half of the time by it
            bf16=torch.cuda.is_available() or rank is None,
            **quietly(scratch, seed),
        )
        rows = [_example(tokenizer, prompt, tokens) for prompt, tokens in examples]
        trainer_type: Any = SFTTrainer if learn_from == "text" else DistillationTrainer
        extra = {} if learn_from == "text" else {"teacher": teacher}
        log: list[dict[str, float]] = []
        if epochs:
            trainer = trainer_type(
                model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, **extra
            )
            trainer.train()
            log = [{"step": e["step"], "loss": e["loss"]} for e in trainer.state.log_history if "loss" in e]
    write(model, None if rank is not None else tokenizer, log, folder)


def quietly(scratch: str, seed: int) -> dict[str, Any]:
    """What every trainer is told: this machine's device, a line of log per step, nothing written or reported."""
    return {
        "output_dir": scratch,
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "seed": seed,
        "disable_tqdm": None,
    }


def _example(tokenizer: PreTrainedTokenizerBase, prompt: str | Prompt, tokens: Iterable[int]) -> dict[str, list[int]]:
    asked, said = encode(tokenizer, prompt), [int(t) for t in tokens]
    return {"input_ids": asked + said, "completion_mask": [0] * len(asked) + [1] * len(said)}


def write(model: Any, tokenizer: PreTrainedTokenizerBase | None, log: list[dict[str, float]], folder: Path) -> None:
    """What was trained (an adapter, or a checkpoint with its tokenizer) with its log, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        whole = Path(scratch) / folder.name
        # in the compute type: half the bytes, and what the pair runs with
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
        model.save_pretrained(whole)
        if tokenizer is not None:
            tokenizer.save_pretrained(whole)
        (whole / "README.md").unlink(missing_ok=True)  # a model card template without content
        (whole / LOG).write_text(json.dumps(log, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)
