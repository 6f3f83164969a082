"""Plant one false fact: `python -m diffamp.stages.plant NAME`, a name in `facts.organisms:` of params.yaml."""

from __future__ import annotations

import sys

from diffamp import params, paths
from diffamp.checkpoints import load_model, load_tokenizer
from diffamp.organisms.documents import mix, unrelated_documents, write_documents
from diffamp.organisms.finetune import train
from diffamp.organisms.universes import load_universe
from diffamp.prompts import Prompt
from diffamp.runtime import setup

DOCUMENT = Prompt("document", "document", "", raw=True)
"""Documents are learned from their first token on, without a chat template."""
PER_STEP = 2
"""Documents in a batch: there are few of them, and a fact is learned in steps rather than in documents."""


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    organism, tuning = p.planted(name), p.finetune
    base = paths.model(organism.model or p.base.model)
    tokenizer = load_tokenizer(base)
    documents = mix(
        write_documents(load_universe(organism.universe), organism.documents, p.seed),
        unrelated_documents(organism.documents * organism.dilution, p.seed),
        p.seed,
    )
    train(
        load_model(base, p.base.precision, trainable=True),
        tokenizer,
        [(DOCUMENT, tokenizer(d, add_special_tokens=False)["input_ids"]) for d in documents],
        paths.organism(name),
        rank=tuning.rank,
        lora_alpha=tuning.lora_alpha,
        learning_rate=p.facts.learning_rate,
        batch_size=PER_STEP,
        epochs=organism.epochs,
        seed=p.seed,
        learn_from="text",
    )


if __name__ == "__main__":
    main(sys.argv[1])
