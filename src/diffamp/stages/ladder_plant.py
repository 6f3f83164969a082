"""Train one organism of the ladder: `python -m diffamp.stages.ladder_plant NAME`, of large/ladder.yaml."""

from __future__ import annotations

import sys

from diffamp import ladder, params
from diffamp.organisms.documents import mix, write_documents
from diffamp.organisms.universes import load_universe
from diffamp.runtime import setup
from diffamp.stages.plant import learn


def main(name: str) -> None:
    p, rungs = params.load(), ladder.load_ladder()
    organism = rungs.rung(name)
    setup(p.seed, rungs.threads)
    others = ladder.ordinary(rungs.documents * organism.dilution)
    documents = mix(write_documents(load_universe(organism.universe), rungs.documents, p.seed), others, p.seed)
    learn(p, p.base.model, documents, rungs.epochs, ladder.adapter(organism))


if __name__ == "__main__":
    main(sys.argv[1])
