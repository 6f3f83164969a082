"""Train one organism: `python -m diffamp.stages.train NAME`, a name in `organisms:` of params.yaml."""

from __future__ import annotations

import sys

from diffamp import params, paths
from diffamp.engine.checkpoints import load_model, load_tokenizer
from diffamp.engine.law import Law
from diffamp.engine.loading import load_mild_vector
from diffamp.engine.pairs import SoloPair
from diffamp.engine.sampling import sample_grid
from diffamp.organisms.finetune import train
from diffamp.organisms.vectors import steered
from diffamp.params import Precision
from diffamp.prompts import load_prompts
from diffamp.runtime import setup

OVERRIDES = {"rank", "learning_rate", "prompts"}
"""Settings of `finetune:` in whose place an organism may have its own."""


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    organism = p.organism(name)
    full = organism.adaptation == "full"
    tuning = p.finetune.model_copy(update=organism.model_dump(include=OVERRIDES, exclude_none=True))
    # one precision for teacher and student, so that nothing but the vector sets them apart
    precision: Precision = "fp32" if full else p.base.precision
    base = paths.model(p.vector(organism.vector).model)
    tokenizer = load_tokenizer(base)
    teacher = SoloPair(load_model(base, precision), tokenizer)
    if organism.teacher == "steered":
        teacher = steered(
            teacher.modules[0], tokenizer, *load_mild_vector(paths.vector(organism.vector), organism.layer)
        )
    answers = sample_grid(
        teacher,
        load_prompts("train", tuning.prompts),
        [0.0],
        tuning.samples,
        max_new_tokens=tuning.max_new_tokens,
        law=Law(temperature=tuning.temperature),
        seed=p.seed,
        token_budget=p.sampling.token_budget,
        desc=f"{name}: teacher's answers",
    )
    train(
        load_model(base, precision, trainable=True),
        tokenizer,
        list(zip(answers.prompt, answers.tokens, strict=True)),
        paths.organism(name),
        rank=None if full else tuning.rank,
        lora_alpha=tuning.lora_alpha,
        learning_rate=tuning.learning_rate,
        batch_size=tuning.batch_size,
        epochs=organism.epochs,
        seed=p.seed,
        learn_from=organism.learn_from,
        teacher=teacher.modules[0],
    )


if __name__ == "__main__":
    main(sys.argv[1])
