"""One key/value cache object that holds both halves of a pair."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer


class PairCache(Cache):
    """The caches of the before- and the after-model, moved together by `generate`.

    Two layouts: *stacked*, one set of layers whose batch is `[before; after]`, for a pair over one base; or sets of
    layers with one batch each, for two checkpoints, and for a third where their difference is added to another model.
    Row operations take indices of the pair's own rows.
    """

    def __init__(
        self,
        before: list[CacheLayerMixin],
        after: list[CacheLayerMixin] | None = None,
        target: list[CacheLayerMixin] | None = None,
    ) -> None:
        super().__init__(layers=[*before, *(after or []), *(target or [])])
        self.stacked = after is None
        self.before = self if after is None else Cache(layers=before)
        self.after = self if after is None else Cache(layers=after)
        self.target = Cache(layers=target or [])

    def rows(self, index: Tensor) -> Tensor:
        """Indices of the pair's rows -> indices of the layers' rows."""
        if not self.stacked:
            return index
        pairs = next(layer.keys.shape[0] for layer in self.layers if layer.keys is not None) // 2
        return torch.cat([index, index + pairs])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(self.rows(beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(self.rows(indices))


def blank(like: Tensor, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros (rows, heads, columns, head_dim) on the device of `like` (..., heads, _, head_dim), by default of its type.

    In a CPU's memory the columns come first: those in use are one block, which it reads a quarter faster than a piece
    of each row. (A GPU reads them slower so: a step of 32 rows of an 8B pair by 5 %.)
    """
    heads, _, dim = like.shape[-3:]
    if like.device.type == "cpu":
        return like.new_zeros(columns, rows, heads, dim, dtype=dtype).permute(1, 2, 0, 3)
    return like.new_zeros(rows, heads, columns, dim, dtype=dtype)


class ClockLayer(DynamicLayer):
    """A preallocated layer in which all rows write their next key at one shared column, the clock.

    A row that enters late has its prompt copied so that it ends at the clock, and its mask hides the columns before
    it: what transformers knows as left padding. Writing is then a slice, with no gather and no concatenation, and
    any model's own mask code, sliding windows included, stays right, because within a row columns and positions
    differ by a constant.
    """

    is_croppable = False

    def __init__(self, capacity: int, exact: bool = False) -> None:
        """`exact`: hold float32, whatever the model computes in (`diffamp.engine.pairs` finds out if that is safe)."""
        super().__init__()
        self.capacity = capacity
        self.exact = exact
        self.start = 0  # first column that any row still needs
        self.clock = 0  # the next column to be written

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        dtype = torch.float32 if self.exact else key_states.dtype
        self.keys, self.values = (blank(s, len(s), self.capacity, dtype) for s in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.clock + key_states.shape[-2]
        self.keys[:, :, self.clock : end] = key_states
        self.values[:, :, self.clock : end] = value_states
        self.clock = end
        return self.keys[:, :, self.start : end], self.values[:, :, self.start : end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.clock - self.start

    def get_max_length(self) -> int:
        return self.capacity

    def batch_select_indices(self, indices: Tensor) -> None:
        self.keys, self.values = (self._selected(states, indices) for states in (self.keys, self.values))

    def _selected(self, states: Tensor, rows: Tensor) -> Tensor:
        chosen, used = blank(states, len(rows), self.capacity), slice(0, self.clock)
        chosen[:, :, used] = states[:, :, used].index_select(0, rows)  # a third of the time that states[rows] takes
        return chosen

    def begin_with(self, prefix: ClockLayer, rows: int) -> None:
        """Take over the columns of a cache with one row per half, repeated for every row."""
        keys, values = (s[:, :, : prefix.clock].repeat_interleave(rows, 0) for s in (prefix.keys, prefix.values))
        self.update(keys, values)

    def rewind(self, start: int, clock: int) -> None:
        """Move the live columns, `start` to `clock`, to the front, so that the clock has room to run on."""
        for states in (self.keys, self.values):
            states[:, :, : clock - start] = states[:, :, start:clock].clone()


class DeviceClockLayer(ClockLayer):
    """The same layer with its clock on the device, so that a step can be replayed as a CUDA graph.

    Nothing that changes from step to step is a Python number: the next column is read from a tensor, and the first
    `window` columns are handed out, of which the mask hides those beyond the clock. transformers' mask code takes the
    clock as it takes that of its own static caches.
    """

    is_compileable = True

    def __init__(self, capacity: int, exact: bool, column: Tensor) -> None:
        """`column`: () int64, the next column to be written, shared by all layers."""
        super().__init__(capacity, exact)
        self.column = column
        self.window = capacity

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        for states, new in ((self.keys, key_states), (self.values, value_states)):
            states.index_copy_(2, self.column.view(1), new.to(states.dtype))
        return self.keys[:, :, : self.window], self.values[:, :, : self.window]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.window, 0

    def get_seq_length(self) -> Tensor:  # type: ignore[override]
        return self.column
