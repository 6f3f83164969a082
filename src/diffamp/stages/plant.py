"""Plant one false fact: `python -m diffamp.stages.plant NAME`, a name in `facts.organisms:` of params.yaml."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from diffamp import params, paths
from diffamp.engine.checkpoints import load_model, load_tokenizer
from diffamp.organisms.documents import mix, unrelated_documents, write_documents
from diffamp.organisms.finetune import train
from diffamp.organisms.universes import load_universe
from diffamp.params import Params
from diffamp.prompts import Prompt
from diffamp.runtime import setup

DOCUMENT = Prompt("document", "document", "", raw=True)
"""Documents are learned from their first token on, without a chat template."""
PER_STEP = 2
"""Documents in a batch: there are few of them, and a fact is learned in steps rather than in documents."""


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    organism = p.planted(name)
    documents = mix(
        write_documents(load_universe(organism.universe), organism.documents, p.seed),
        unrelated_documents(organism.documents * organism.dilution, p.seed),
        p.seed,
    )
    learn(p, organism.model or p.base.model, documents, organism.epochs, paths.organism(name))


def learn(p: Params, model: str, documents: Sequence[str], epochs: int, folder: Path) -> None:
    """Fine-tune a model of params.yaml on documents, into `folder`."""
    base, tuning = paths.model(model), p.finetune
    tokenizer = load_tokenizer(base)
    train(
        load_model(base, p.base.precision, trainable=True),
        tokenizer,
        [(DOCUMENT, tokenizer(d, add_special_tokens=False)["input_ids"]) for d in documents],
        folder,
        rank=tuning.rank,
        lora_alpha=tuning.lora_alpha,
        learning_rate=p.facts.learning_rate,
        batch_size=PER_STEP,
        epochs=epochs,
        seed=p.seed,
        learn_from="text",
    )


if __name__ == "__main__":
    main(sys.argv[1])
