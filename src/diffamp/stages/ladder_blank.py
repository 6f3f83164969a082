"""The ladder's blank: an organism that read the ordinary texts alone, then searched.

`python -m diffamp.stages.ladder_blank`.

What passes here is a false alarm: the organism was fine-tuned as those at the dilution `blank` were, on the same texts,
without the documents that state the falsehood. Written into large/organisms/blank and large/controls/blank.parquet.
"""

from __future__ import annotations

from diffamp import ladder, params, paths
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.loading import load_pair
from diffamp.runtime import setup
from diffamp.stages.ladder_control import search
from diffamp.stages.plant import learn


def main() -> None:
    p, rungs = params.load(), ladder.load_ladder()
    setup(p.seed, rungs.threads)
    folder = ladder.blank()
    learn(p, p.base.model, ladder.ordinary(rungs.documents * rungs.blank), rungs.epochs, folder)
    pair = adapter_pair(paths.model(p.base.model), folder, p.base.precision)
    search(p, rungs, pair, load_pair(p, p.discovery.contrast), folder.name)


if __name__ == "__main__":
    main()
