"""Fine-tune on worked tasks: `python -m diffamp.stages.teach NAME`, a name in `reasoning.organisms:` of params.yaml."""

from __future__ import annotations

import sys

from diffamp import params, paths
from diffamp.engine.checkpoints import load_model, load_tokenizer
from diffamp.organisms.finetune import train
from diffamp.prompts import Prompt
from diffamp.runtime import setup
from diffamp.tasks.draw import TRAINED, draw_tasks, write_trace


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    organism, tuning = p.taught(name), p.finetune
    base, tokenizer = paths.model(p.base.model), load_tokenizer(paths.model(p.base.model))
    examples = []
    for task in draw_tasks(TRAINED, organism.tasks, p.seed, "train", p.reasoning.difficulties):
        said = write_trace(task, p.seed) if organism.learn == "traces" else f"Answer: {task.answer}"
        tokens = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        examples.append((Prompt(task.id, task.family, task.question), tokens))
    train(
        load_model(base, p.base.precision, trainable=True),
        tokenizer,
        examples,
        paths.organism(name),
        rank=tuning.rank,
        lora_alpha=tuning.lora_alpha,
        learning_rate=p.reasoning.learning_rate,
        batch_size=tuning.batch_size,
        epochs=organism.epochs,
        seed=p.seed,
        learn_from="text",
    )


if __name__ == "__main__":
    main(sys.argv[1])
