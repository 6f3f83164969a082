"""Sample one pair's grid under every guard: `python -m diffamp.stages.sample NAME`, a name in `pairs:`.

Killed and started again it goes on where it was; a changed configuration starts afresh.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffamp import params, paths
from diffamp.calibrate import alpha_for
from diffamp.engine.loading import fingerprint, load_law, load_pair
from diffamp.engine.pairs import ModelPair
from diffamp.engine.records import Records
from diffamp.engine.sampling import Grid, check_grid, configuration, sample_grids
from diffamp.params import GuardParams, Params
from diffamp.prompts import Prompt, load_prompts
from diffamp.runtime import setup

PILOT = 24
"""Dev prompts on which an alpha is calibrated."""

Arm = tuple[Sequence[GuardParams], Sequence[float]]
"""A chain of guards, and the alphas at which it is sampled."""


def sample_under(
    p: Params,
    name: str,
    pair: ModelPair,
    prompts: Sequence[Prompt],
    arms: Mapping[str, Arm],
    folder: Path,
    kl_budget: float | None = None,
) -> pd.DataFrame:
    """Samples of the pair `name` in every arm, kept in a folder, with the arm's name in the column guard.

    Args:
        pair: of this name, loaded.
        kl_budget: nats per token; adds the alpha that spends them in each arm.
    """
    grid = p.sampling
    for _, alphas in arms.values():  # before any older unit is discarded
        check_grid(pair, prompts, alphas, grid.samples, grid.max_new_tokens)
    common: dict[str, Any] = {"max_new_tokens": grid.max_new_tokens, "seed": p.seed, "token_budget": grid.token_budget}
    grids = {}
    for arm, (chain, alphas) in arms.items():
        law, strengths = load_law(chain, grid.temperature, pair), list(alphas)
        if kl_budget is not None:
            strengths = sorted({*alphas, alpha_for(pair, load_prompts("dev", PILOT), kl_budget, law, **common)})
        grids[arm] = Grid(law, strengths)
    weights = {"pair": p.pair(name).model_dump() | {"weights": fingerprint(p, name)}}
    config = configuration(prompts, grids, grid.samples, **common, **weights)
    records = Records(folder, config, discard_stale=True)
    return sample_grids(pair, prompts, grids, grid.samples, **common, records=records, desc=name)


def at_alphas(guards: Mapping[str, Sequence[GuardParams]], alphas: Sequence[float]) -> dict[str, Arm]:
    """Every chain of guards at the same alphas."""
    return {guard: (chain, alphas) for guard, chain in guards.items()}


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    prompts = load_prompts("test", p.sampling.prompts)
    grid, pair = p.sampling, load_pair(p, name)
    sample_under(p, name, pair, prompts, at_alphas(grid.guards, grid.alphas), paths.samples(name), grid.kl_budget)


if __name__ == "__main__":
    main(sys.argv[1])
