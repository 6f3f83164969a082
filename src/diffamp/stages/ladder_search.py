"""Search one organism of the ladder: `python -m diffamp.stages.ladder_search NAME`, of large/ladder.yaml.

Written into large/searches/NAME: findings.parquet and samples.parquet, each with the columns method, seed_of_search and
budget; belief.parquet.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pandas as pd

from diffamp import ladder, params, paths
from diffamp.discovery.baselines import baselines
from diffamp.discovery.draws import Drawing
from diffamp.discovery.investigate import investigate
from diffamp.discovery.recovery import LOOP
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.loading import load_law, load_pair
from diffamp.judges.embedding import Embedder
from diffamp.organisms.universes import load_universe
from diffamp.runtime import setup
from diffamp.stages.discover import belief


def main(name: str) -> None:
    p, rungs = params.load(), ladder.load_ladder()
    organism = rungs.rung(name)
    rungs.check_budget(p.discovery.budget)
    setup(p.seed, rungs.threads)
    settings = p.discovery
    base, adapter = paths.model(p.base.model), ladder.adapter(organism)
    pair = adapter_pair(base, adapter, p.base.precision)
    doubled = adapter_pair(base, adapter, p.base.precision, scale=2.0)
    contrast = load_pair(p, settings.contrast)
    law = load_law(settings.guard, settings.temperature, pair)
    embedder = Embedder(paths.model(p.judge.model))
    first = Drawing(settings.alphas, law, settings.max_new_tokens, p.seed, p.sampling.token_budget)
    findings, samples = [], []
    for seed in rungs.seeds:
        drawing = replace(first, seed=seed)
        for budget in rungs.budgets:
            loop = investigate(pair, budget, embedder, drawing, contrast)
            run = {"method": LOOP, "seed_of_search": seed, "budget": budget}
            findings.append(loop.findings.assign(**run))
            samples.append(loop.samples.assign(**run))
        for method, found in baselines(pair, doubled, settings.budget, embedder, drawing):
            run = {"method": method, "seed_of_search": seed, "budget": settings.budget}
            findings.append(found.ranking.assign(**run))
            samples.append(found.samples.assign(**run))
    folder = ladder.searched(organism)
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(findings, ignore_index=True).to_parquet(folder / "findings.parquet", index=False)
    pd.concat(samples, ignore_index=True).to_parquet(folder / "samples.parquet", index=False)
    belief(p, pair, law, load_universe(organism.universe)).to_parquet(folder / "belief.parquet", index=False)


if __name__ == "__main__":
    main(sys.argv[1])
