"""Several grids over the same prompts: each as if it were alone, and every prompt prefilled once for all."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import separate, tiny_tokenizer
from test_batch import passes
from test_sampling import ALPHAS, NEW, PROMPTS, assert_same
from torch import Tensor

from diffamp.engine import graphs
from diffamp.engine.batch import Batch
from diffamp.engine.graphs import GraphBatch
from diffamp.engine.guards import Plausibility
from diffamp.engine.law import Law
from diffamp.engine.sampling import Grid, sample_grid, sample_grids

GRIDS = {"none": Grid(Law(), ALPHAS), "plausible": Grid(Law(Plausibility(0.3), 0.7), ALPHAS[1:])}
SETTINGS = {"max_new_tokens": NEW, "seed": 5, "token_budget": 400}
"""Six slots."""


@pytest.mark.parametrize("shared", [True, False])
def test_each_grid_is_what_it_is_alone_and_prompts_are_prefilled_once(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = separate("llama", tiny_tokenizer())
    alone = [sample_grid(pair, PROMPTS, g.alphas, 2, law=g.law, **SETTINGS, shared=False) for g in GRIDS.values()]
    expected = pd.concat([f.assign(guard=name) for name, f in zip(GRIDS, alone, strict=True)], ignore_index=True)
    seen = passes(pair, monkeypatch)
    found = sample_grids(pair, PROMPTS, GRIDS, 2, **SETTINGS, shared=shared)
    assert found.guard.tolist() == expected.guard.tolist()
    assert_same(found, expected)
    assert sum(rows for rows, positions in seen if positions > 1) == len(PROMPTS)


@pytest.mark.parametrize("budget", [1, 120, 400, 100_000])
@pytest.mark.parametrize("batch", [Batch, GraphBatch])
def test_what_rows_have_in_common_is_decoded_once(
    batch: type[Batch], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = separate("llama", tiny_tokenizer())
    expected = sample_grids(pair, PROMPTS, GRIDS, 3, **SETTINGS, shared=False)
    used: list[int] = []
    forward = batch._forward

    def recorded(self: Batch, slots: Tensor) -> tuple[Tensor, Tensor]:
        used.append(int(slots.sum()))
        return forward(self, slots)

    monkeypatch.setattr(batch, "_forward", recorded)
    monkeypatch.setattr(graphs, "Batch", batch)
    found = sample_grids(pair, PROMPTS, GRIDS, 3, **SETTINGS | {"token_budget": budget})
    assert_same(found, expected)
    histories = {(row.prompt_id, *row.tokens[:n]) for row in found.itertuples() for n in range(1, len(row.tokens))}
    assert sum(used) == len(histories) < found.tokens.map(len).sum() - len(found)


def test_no_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one law"):
        sample_grids(separate("llama", tiny_tokenizer()), PROMPTS, {}, 2, **SETTINGS)
