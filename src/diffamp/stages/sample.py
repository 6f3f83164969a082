"""Sample one pair's grid under every guard: `python -m diffamp.stages.sample NAME`, a name in `pairs:`.

Killed and started again it goes on where it was; a changed configuration starts afresh.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from diffamp import params, paths
from diffamp.calibrate import alpha_for
from diffamp.loading import fingerprint, load_law, load_pair
from diffamp.pairs import ModelPair
from diffamp.params import GuardParams, Params
from diffamp.prompts import Prompt, load_prompts
from diffamp.records import Records
from diffamp.runtime import setup
from diffamp.sampling import Grid, check_grid, configuration, sample_grids

PILOT = 24
"""Dev prompts on which an alpha is calibrated."""


def sample_under(
    p: Params,
    name: str,
    pair: ModelPair,
    prompts: Sequence[Prompt],
    alphas: Sequence[float],
    guards: Mapping[str, Sequence[GuardParams]],
    folder: Path,
    kl_budget: float | None = None,
) -> pd.DataFrame:
    """Samples of the pair `name` under each chain of guards, kept in a folder each, with the column guard.

    Args:
        pair: of this name, loaded.
        kl_budget: nats per token; adds the alpha that spends them under each guard.
    """
    grid = p.sampling
    check_grid(pair, prompts, alphas, grid.samples, grid.max_new_tokens)  # before any older unit is discarded
    weights = fingerprint(p, name)
    common = {"max_new_tokens": grid.max_new_tokens, "seed": p.seed, "token_budget": grid.token_budget}
    grids = {}
    for guard, chain in guards.items():
        law, strengths = load_law(chain, grid.temperature, pair), list(alphas)
        if kl_budget is not None:
            strengths = sorted({*alphas, alpha_for(pair, load_prompts("dev", PILOT), kl_budget, law, **common)})
        config = configuration(
            prompts,
            strengths,
            grid.samples,
            law,
            **common,
            pair=p.pair(name).model_dump() | {"weights": weights},
        )
        grids[guard] = Grid(law, strengths, Records(folder / guard, config, discard_stale=True))
    frames = sample_grids(pair, prompts, list(grids.values()), grid.samples, **common, desc=name)
    return pd.concat([frame.assign(guard=guard) for guard, frame in zip(grids, frames, strict=True)], ignore_index=True)


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    prompts = load_prompts("test", p.sampling.prompts)
    grid, pair = p.sampling, load_pair(p, name)
    sample_under(p, name, pair, prompts, grid.alphas, grid.guards, paths.samples(name), grid.kl_budget)


if __name__ == "__main__":
    main(sys.argv[1])
