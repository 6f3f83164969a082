"""CUDA graphs: a step's thousand small kernels, recorded once and launched as one.

A small model on a GPU waits for the launches of its kernels, and amplification adds its own. What runs at every step
with the same shapes is captured instead. What cannot be (code that waits for a result of the device, such as a guard
that iterates until it has converged, or a mixture of experts that counts its tokens) runs as it is.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from diffamp.engine.batch import Batch, Group
from diffamp.engine.cache import DeviceClockLayer, PairCache
from diffamp.engine.pairs import ModelPair
from diffamp.engine.prefill import Prefill

WINDOWS = 16
"""Graphs of the forward pass, at the most: each reads so many more columns of the cache."""

COLUMNS = 64
"""A window is a multiple of so many columns."""

SHARE = 16
"""Rows of a law's graph, at the least, where there are several: it computes all of them, however few are given."""

REFUSED: WeakSet[ModelPair] = WeakSet()
"""Pairs whose forward pass cannot be captured: they take the ordinary batch, which shrinks."""

log = logging.getLogger(__name__)


class Replayed:
    """A function that reads and writes tensors in place, captured at its second call and replayed from then on.

    The first call runs as it is: what a library sets up when it is first used must not be captured. The function comes
    with each call, and is not kept: what it belongs to can be freed.
    """

    def __init__(self, pool: Any = None) -> None:
        """`pool`: torch's handle of memory for what the function makes in between, shared with others like it."""
        self.pool = pool
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def __call__(self, run: Callable[[], None]) -> None:
        self.calls += 1
        if self.calls == 2:
            self.graph = _capture(run, self.pool)
        if self.graph is None:
            run()
        else:
            self.graph.replay()


def _capture(run: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph | None:
    """The kernels that `run` launches, or None, with a warning, where it does what cannot be captured."""
    graph, collecting, stream = torch.cuda.CUDAGraph(), gc.isenabled(), torch.cuda.current_stream()
    gc.disable()  # to free another graph in the middle of it would spoil this one
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            run()
    except RuntimeError as error:
        said = _first_line(error)
        if "out of memory" in said:
            raise
        log.warning("no CUDA graph, so slower: %s", said)
        return None
    finally:
        torch.cuda.set_stream(stream)  # which a failed capture leaves behind
        if collecting:
            gc.enable()
    return graph


def _first_line(error: BaseException) -> str:
    """Of what went wrong first: the end of a capture fails after it."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).splitlines()[0]


def new_batch(prefill: Prefill, groups: Sequence[Group], together: int, max_new_tokens: int, columns: int) -> Batch:
    """The batch that suits the device and the pair; arguments as `Batch` has them."""
    captured = prefill.pair.device.type == "cuda" and prefill.pair not in REFUSED
    return (GraphBatch if captured else Batch)(prefill, groups, together, max_new_tokens, columns)


class Captured:
    """A pure function of tensors, row by row, with results row by row: one CUDA graph for up to `rows` rows.

    Args:
        inputs, pool: a graph's own tensors and memory, which those share that never run at the same time.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        rows: int,
        inputs: list[Tensor] | None = None,
        pool: Any = None,
    ) -> None:
        self.function, self.rows = function, rows
        self.replayed = Replayed(pool)
        self.waits: bool | None = None
        """Whether the function waits for the device, once that is known."""
        self.inputs: list[Tensor] = [] if inputs is None else inputs
        self.outputs: tuple[Tensor, ...] = ()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if tensors[0].device.type != "cuda":
            return self.function(*tensors)
        if self.waits is None:
            self.waits = self._waits(*tensors)
        if self.waits:
            return self.function(*tensors)
        parts = [self._replay(part) for part in zip(*(t.split(self.rows) for t in tensors), strict=True)]
        return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))

    def _replay(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if not self.inputs:
            self.inputs.extend(t.new_zeros(self.rows, *t.shape[1:]) for t in tensors)
        given = len(tensors[0])
        for own, tensor in zip(self.inputs, tensors, strict=True):
            own[:given].copy_(tensor)
        self.replayed(self._run)
        return [t[:given].clone() for t in self.outputs]  # the next replay writes there

    def _run(self) -> None:
        self.outputs = self.function(*self.inputs)

    def _waits(self, *tensors: Tensor) -> bool:
        """Seen in the second of two calls: what is made once may be waited for. A capture forbids it."""
        self.function(*tensors)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.function(*tensors)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return True
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return False


def captured(functions: Sequence[Callable[..., tuple[Tensor, ...]]], rows: int) -> list[Captured]:
    """Functions of the same inputs, between which `rows` rows are divided: a graph of a share of them for each."""
    share = rows if len(functions) == 1 else min(rows, max(SHARE, rows // len(functions)))
    inputs: list[Tensor] = []
    pool = torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None
    return [Captured(function, share, inputs, pool) for function in functions]


class GraphBatch(Batch):
    """The batch on a GPU: a step's forward pass is one CUDA graph, so the number of slots stays as it is.

    Tokens, positions and the mask's limits are read from tensors that keep their place. Free slots run along, which
    costs little where weights are what is read; so several rows enter at a time.
    """

    shrink_at = 0.0
    refill_at = 1 / 8

    def __init__(
        self, prefill: Prefill, groups: Sequence[Group], together: int, max_new_tokens: int, columns: int
    ) -> None:
        pair = prefill.pair
        self.column = torch.zeros((), dtype=torch.long, device=pair.device)
        super().__init__(prefill, groups, together, max_new_tokens, columns)
        # first column and position of each slot
        self.fed = torch.zeros(2, self.most, dtype=torch.long, device=pair.device)
        self.before, self.after = (p.new_empty(self.most, p.shape[-1]) for p in (prefill.before, prefill.after))
        self.pool = torch.cuda.graph_pool_handle() if pair.device.type == "cuda" else None
        self.width = COLUMNS * -(-self.capacity // (COLUMNS * WINDOWS))
        self.forwards: dict[int, Replayed] = {}

    def _layers(self) -> PairCache:
        return self.pair.layers(self.capacity, self.column)

    def _forward(self, used: Tensor) -> tuple[Tensor, Tensor]:
        window = min(self.capacity, self.width * -(-(self.clock + 1) // self.width))
        run = partial(self._run_window, window)
        start = torch.where(used, self.start, self.clock)  # a free slot sees only the column it writes
        self.fed.copy_(torch.stack([start, self._position(used)]))
        self.column.fill_(self.clock)
        if self.pool is None or self.pair in REFUSED:
            run()
        else:
            replayed = self.forwards.setdefault(window, Replayed(self.pool))
            replayed(run)
            if replayed.calls > 1 and replayed.graph is None:
                REFUSED.add(self.pair)
        return self.before, self.after

    def _run_window(self, window: int) -> None:
        for layer in self._clocked():
            layer.window = window
        start, position = self.fed
        column = torch.arange(window, device=self.pair.device)
        mask = (column >= start[:, None]) & (column <= self.column)
        before, after = self.pair.logits(self.token[:, None], mask.long(), position[:, None], self.cache)
        self.before.copy_(before[:, -1])
        self.after.copy_(after[:, -1])

    def _clocked(self) -> Iterator[DeviceClockLayer]:
        for layer in self.cache.layers:
            assert isinstance(layer, DeviceClockLayer)
            yield layer
