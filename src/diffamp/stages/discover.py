"""Search one pair for what was planted in it, by the loop and by every baseline, at equal compute.

`python -m diffamp.stages.discover NAME`, a name in `discovery.pairs` or `discovery.controls` (which get the loop only).
Written into `paths.discovery(NAME)`: findings.parquet and samples.parquet (with the column method), belief.parquet
(for planted pairs) and page.html, the loop's findings for a reader.
"""

from __future__ import annotations

import sys

from diffamp import params, paths
from diffamp.discovery import LOOP
from diffamp.discovery.baselines import METHODS
from diffamp.discovery.investigate import investigate
from diffamp.discovery.loading import load_drawing
from diffamp.discovery.page import write_page
from diffamp.discovery.results import save
from diffamp.engine.loading import load_pair
from diffamp.judges.embedding import Embedder
from diffamp.organisms.belief import belief
from diffamp.organisms.universes import load_universe
from diffamp.runtime import setup


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    settings, pair = p.discovery, load_pair(p, name)
    drawing = load_drawing(p, pair, p.seed, settings.max_new_tokens)
    embedder = Embedder(paths.model(p.judge.model))
    contrast = load_pair(p, settings.contrast) if settings.contrast != name else None
    loop = investigate(pair, settings.budget, embedder, drawing, contrast)
    findings, samples = [loop.findings.assign(method=LOOP)], [loop.samples.assign(method=LOOP)]
    folder = paths.discovery(name)
    folder.mkdir(parents=True, exist_ok=True)
    if name in settings.pairs:
        for method, search in METHODS.items():
            found = search(pair, settings.budget, embedder, drawing)
            findings.append(found.ranking.assign(method=method))
            samples.append(found.samples.assign(method=method))
        universe = load_universe(p.planted(str(p.pair(name).adapter)).universe)
        believed = belief(pair, universe, drawing.law, drawing.max_new_tokens, drawing.seed, drawing.token_budget)
        believed.to_parquet(folder / "belief.parquet", index=False)
    save(findings, samples, folder)
    write_page(loop, f"What was planted in {name}?", folder / "page.html")


if __name__ == "__main__":
    main(sys.argv[1])
