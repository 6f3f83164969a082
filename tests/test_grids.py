"""Several grids over the same prompts: each as if it were alone, and every prompt prefilled once for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import separate, tiny_tokenizer
from pandas.testing import assert_frame_equal
from test_batch import passes
from test_sampling import ALPHAS, NEW, PROMPTS

from diffamp import sampling
from diffamp.guards import Plausibility
from diffamp.law import Law
from diffamp.records import Records, read_units
from diffamp.sampling import Grid, sample_grid, sample_grids

GRIDS = [Grid(Law(), ALPHAS), Grid(Law(Plausibility(0.3), 0.7), ALPHAS[1:])]
SETTINGS = {"max_new_tokens": NEW, "seed": 5, "token_budget": 400}


def test_each_grid_is_what_it_is_alone_and_prompts_are_prefilled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = separate("llama", tiny_tokenizer())
    alone = [sample_grid(pair, PROMPTS, g.alphas, 2, law=g.law, **SETTINGS) for g in GRIDS]
    seen = passes(pair, monkeypatch)
    together = sample_grids(pair, PROMPTS, GRIDS, 2, **SETTINGS)
    for found, expected in zip(together, alone, strict=True):
        assert_frame_equal(found, expected)
    assert sum(rows for rows, positions in seen if positions > 1) == len(PROMPTS)


def test_a_unit_cut_elsewhere_is_sampled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = separate("llama", tiny_tokenizer())

    def recorded(name: str) -> Grid:
        return Grid(Law(), ALPHAS, Records(tmp_path / name, {"seed": 5}))

    monkeypatch.setattr(sampling, "ROWS_PER_UNIT", 2 * len(ALPHAS))
    (expected,) = sample_grids(pair, PROMPTS, [recorded("grid")], 2, **SETTINGS)  # one prompt in a unit
    wider = Grid(Law(Plausibility()), [float(a) for a in range(2 * len(ALPHAS))])
    monkeypatch.setattr(sampling, "ROWS_PER_UNIT", 8 * len(ALPHAS))
    found, _ = sample_grids(pair, PROMPTS, [recorded("grid"), wider], 2, **SETTINGS)  # two
    key = ["prompt_id", "alpha", "sample", "text"]
    assert_frame_equal(found[key], expected[key])
    assert_frame_equal(read_units(tmp_path / "grid")[key], expected[key])  # no unit of the finer cut is left


def test_no_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one law"):
        sample_grids(separate("llama", tiny_tokenizer()), PROMPTS, [], 2, **SETTINGS)
