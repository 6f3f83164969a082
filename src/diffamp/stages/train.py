"""Train one organism: `python -m diffamp.stages.train NAME`, a name in `organisms:` of params.yaml."""

from __future__ import annotations

import json
import sys

from diffamp import params, paths
from diffamp.checkpoints import load_model, load_tokenizer
from diffamp.law import Law
from diffamp.loading import load_vector
from diffamp.organisms.finetune import train_adapter
from diffamp.organisms.vectors import steered
from diffamp.pairs import SoloPair
from diffamp.prompts import load_prompts
from diffamp.runtime import setup
from diffamp.sampling import sample_grid


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    organism, tuning = p.organism(name), p.finetune
    base, tokenizer = paths.model(p.base.model), load_tokenizer(paths.model(p.base.model))
    teacher = SoloPair(load_model(base, p.base.precision), tokenizer)
    if organism.teacher == "steered":
        layer, vector = load_vector(paths.vector() / "vector.safetensors")
        dose = json.loads((paths.vector() / "choice.json").read_text())["dose"]
        teacher = steered(teacher.modules[0], tokenizer, layer, vector * dose)
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
    train_adapter(
        load_model(base, p.base.precision, trainable=True),
        tokenizer,
        list(zip(answers.prompt, answers.tokens, strict=True)),
        paths.organism(name),
        rank=tuning.rank,
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
