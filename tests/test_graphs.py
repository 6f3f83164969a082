"""The batch of a GPU, run on a CPU without capturing anything: its clock, windows and free slots change no text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES
from test_sampling import NEW, assert_same, family_pair, grid
from torch import Tensor

from diffamp.engine import graphs
from diffamp.engine.cache import DeviceClockLayer
from diffamp.engine.graphs import Captured, GraphBatch


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples with the GPU's batch, in windows of at least 8 columns; the windows that were read."""
    seen: list[int] = []
    run = GraphBatch._run_window

    def recorded(self: GraphBatch, window: int) -> None:
        seen.append(window)
        run(self, window)

    monkeypatch.setattr(graphs, "Batch", GraphBatch)
    monkeypatch.setattr(graphs, "COLUMNS", 8)
    monkeypatch.setattr(GraphBatch, "_run_window", recorded)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [120, 100_000])
def test_it_gives_what_the_batch_of_a_cpu_gives(family: str, budget: int, windows: list[int]) -> None:
    pair, expected = family_pair(family)
    assert_same(grid(pair, token_budget=budget), expected)
    longest = max(windows)
    assert len(set(windows)) > 1
    assert longest <= 26 + 2 * NEW


def test_rows_enter_several_at_a_time(windows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = family_pair("llama")[0]
    monkeypatch.setattr(type(pair), "end_tokens", list(range(100)))  # texts end soon and at different times
    free: list[int] = []
    admit = GraphBatch._admit

    def recorded(self: GraphBatch, *args: Any) -> None:
        if args[0]:
            free.append(int((~self._used()).sum()))
        admit(self, *args)

    monkeypatch.setattr(GraphBatch, "_admit", recorded)
    expected = grid(pair, samples=8)
    slots = 16
    found = grid(pair, samples=8, token_budget=slots * (26 + 2 * NEW))
    assert_same(found, expected)
    assert min(free[-5:]) > slots * GraphBatch.refill_at


def test_a_layer_writes_at_its_column_and_hands_out_its_window() -> None:
    column = torch.tensor(2)
    layer = DeviceClockLayer(6, exact=True, column=column)
    layer.keys, layer.values = torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2)
    layer.window = 4
    new = torch.ones(1, 1, 1, 2, dtype=torch.bfloat16)
    keys, values = layer.update(new, 2 * new)
    assert keys[0, 0, :, 0].tolist() == [0, 0, 1, 0]
    assert values[0, 0, :, 0].tolist() == [0, 0, 2, 0]
    assert layer.get_mask_sizes(1) == (4, 0)
    assert layer.get_seq_length() is column


def test_on_a_cpu_nothing_is_captured() -> None:
    def double(x: Tensor) -> tuple[Tensor]:
        return (2 * x,)

    captured = Captured(double, 4)
    assert captured(torch.ones(3))[0].tolist() == [2, 2, 2]
    assert captured.waits is None
    assert captured.replayed.calls == 0
