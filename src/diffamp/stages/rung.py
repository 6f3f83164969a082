"""What every stage of the ladder that looks at one trained organism begins with."""

from __future__ import annotations

from diffamp import ladder, params, paths
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.pairs import ModelPair
from diffamp.ladder import LadderParams, Organism
from diffamp.params import Params
from diffamp.runtime import setup


def load_rung(name: str) -> tuple[Params, LadderParams, Organism, ModelPair]:
    """The settings of params.yaml and of large/ladder.yaml, the organism of this name, and the base before and after
    it; threads and seed are set up as the ladder wants them.

    Raises:
        ParamsError, LadderError, PairError: a setting is wrong, the name is not on the ladder, or weights are missing.
    """
    p, rungs = params.load(), ladder.load_ladder()
    organism = rungs.rung(name)
    setup(p.seed, rungs.threads)
    return p, rungs, organism, adapter_pair(paths.model(p.base.model), ladder.adapter(organism), p.base.precision)
