"""The rows being decoded: one cache on a shared clock, slots that are refilled as rows end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffamp.cache import ClockLayer, PairCache, blank
from diffamp.prefill import Prefill

Draw = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows, before, after) -> the tokens drawn, and which rows go on."""


class Batch:
    """The slots being decoded: a cache on a shared clock, the row in each slot, the token each is fed next.

    A slot whose row has ended is given to the next waiting row; when none waits, the batch shrinks.
    """

    shrink_at = 0.75
    """When no row waits and at most this share of the slots is live, the batch is rebuilt without the free ones."""
    refill_at = 0.0
    """Rows enter when more than this share of the slots is free."""

    def __init__(self, prefill: Prefill, rows: int, together: int, max_new_tokens: int, columns: int) -> None:
        """Make room for as many rows as fit.

        Args:
            prefill: what the rows go on from; it is only read.
            rows: how many there will be in all.
            together: rows that enter side by side (the alphas of one prompt and sample): whole sets of them fill the
                slots, so that equal rows meet equal arithmetic.
            columns: of key/value cache at a time, over all rows.
        """
        self.pair, self.prefill, self.longest = prefill.pair, prefill, prefill.longest
        self.capacity = self.longest + 2 * max_new_tokens  # room to run before the live columns move to the front
        slots = min(rows, max(1, columns // self.capacity))
        slots -= slots % together if slots > together else 0
        self.cache = self._layers()
        for layer, (keys, values) in zip(self.cache.layers, prefill.states, strict=True):
            layer.keys, layer.values = (blank(s, len(s) * slots, self.capacity) for s in (keys, values))
            layer.is_initialized = True
        self.clock = self.longest
        self.row = torch.full((slots,), -1)  # which of the rows sits here; -1: free
        self.start = torch.full((slots,), self.longest)  # its first live column
        self.position = torch.zeros(slots, dtype=torch.long)  # position of the token to be fed
        self.token = torch.zeros(slots, dtype=torch.long, device=self.pair.device)

    def _layers(self) -> PairCache:
        return self.pair.layers(self.capacity)

    def refill(self, queue: deque[int], prompt_of: list[int], draw: Draw) -> bool:
        """Admit waiting rows to free slots, their first token drawn from the prefill. False when all is done."""
        while queue and (free := int((self.row < 0).sum())) > self.refill_at * len(self.row):
            admitted = torch.tensor([queue.popleft() for _ in range(min(len(queue), free))])
            prompt = torch.tensor([prompt_of[r] for r in admitted])
            on_device = prompt.to(self.pair.device)
            token, going_on = draw(admitted, self.prefill.before[on_device], self.prefill.after[on_device])
            self._admit(admitted[going_on], prompt[going_on], token[going_on.to(token.device)])
        live = self.row >= 0
        if not queue and int(live.sum()) <= self.shrink_at * len(live):
            self._shrink(live.nonzero()[:, 0])
        return len(self.row) > 0

    def _admit(self, rows: Tensor, prompts: Tensor, tokens: Tensor) -> None:
        slots = (self.row < 0).nonzero()[: len(rows), 0]
        self.row[slots] = rows
        self.start[slots] = self.clock - self.prefill.lengths[prompts]
        self.position[slots] = self.prefill.lengths[prompts]
        slots, prompts = slots.to(self.pair.device), prompts.to(self.pair.device)
        self.token[slots] = tokens
        columns = slice(self.clock - self.longest, self.clock)
        for layer, (keys, values) in zip(self.cache.layers, self.prefill.states, strict=True):
            layer.keys.unflatten(0, (len(keys), -1))[:, slots, :, columns] = keys[:, prompts]
            layer.values.unflatten(0, (len(values), -1))[:, slots, :, columns] = values[:, prompts]

    def _shrink(self, keep: Tensor) -> None:
        on_device = keep.to(self.pair.device)
        for layer in self._clocked():
            layer.clock = self.clock
        self.cache.batch_select_indices(on_device)
        self.row, self.start, self.position = self.row[keep], self.start[keep], self.position[keep]
        self.token = self.token[on_device]

    def step(self, draw: Draw) -> None:
        """One token for every row, in one pass."""
        if self.clock == self.capacity:
            self._rewind()
        live = self.row >= 0
        slots = live.nonzero()[:, 0]
        on_device = slots.to(self.pair.device)  # before the pass, for which a copy to a GPU would wait
        before, after = self._forward(live)
        self.clock += 1
        self.position[live] += 1
        if len(slots) < len(live):
            before, after = before[on_device], after[on_device]
        self.token[on_device], going_on = draw(self.row[slots], before, after)
        self.row[slots[~going_on]] = -1

    def _forward(self, live: Tensor) -> tuple[Tensor, Tensor]:
        """Both models' logits (slots, vocab) for the token that each slot is fed."""
        first = int(self.start[live].min())
        for layer in self._clocked():
            layer.start, layer.clock = first, self.clock
        device = self.pair.device
        # a free slot sees only the column it writes: a mask without any column would be NaN
        start = torch.where(live, self.start, self.clock)
        mask = (torch.arange(first, self.clock + 1) >= start[:, None]).long().to(device)  # (slots, live columns)
        before, after = self.pair.logits(self.token[:, None], mask, self.position[:, None].to(device), self.cache)
        return before[:, -1], after[:, -1]

    def _rewind(self) -> None:
        # a prompt admitted next needs `longest` columns behind the clock
        first = min(int(self.start[self.row >= 0].min()), self.clock - self.longest)
        for layer in self._clocked():
            layer.rewind(first, self.clock)
        self.clock -= first
        self.start -= first

    def _clocked(self) -> Iterator[ClockLayer]:
        for layer in self.cache.layers:
            assert isinstance(layer, ClockLayer)
            yield layer
