"""Sample one pair's grid under every guard: `python -m diffamp.stages.sample NAME`, a name in `pairs:`.

Killed and started again it goes on where it was; a changed configuration starts afresh.
"""

from __future__ import annotations

import sys

from diffamp import params, paths
from diffamp.loading import fingerprint, load_law, load_pair
from diffamp.prompts import load_prompts
from diffamp.records import Records
from diffamp.runtime import setup
from diffamp.sampling import check_grid, configuration, sample_grid


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    grid = p.sampling
    pair = load_pair(p, name)
    prompts = load_prompts("test", grid.prompts)
    check_grid(pair, prompts, grid.alphas, grid.samples, grid.max_new_tokens)  # before any older unit is discarded
    for guard, settings in grid.guards.items():
        law = load_law(settings, grid.temperature, pair)
        config = configuration(
            prompts,
            grid.alphas,
            grid.samples,
            law,
            max_new_tokens=grid.max_new_tokens,
            token_budget=grid.token_budget,
            seed=p.seed,
            pair=p.pair(name).model_dump() | {"weights": fingerprint(p, name)},
        )
        sample_grid(
            pair,
            prompts,
            grid.alphas,
            grid.samples,
            max_new_tokens=grid.max_new_tokens,
            law=law,
            seed=p.seed,
            token_budget=grid.token_budget,
            records=Records(paths.samples(name) / guard, config, discard_stale=True),
            desc=f"{name}, guard {guard}",
        )


if __name__ == "__main__":
    main(sys.argv[1])
