"""The rows being decoded: one cache on a shared clock, slots that are filled again as rows end.

What a model computes depends on nothing but the tokens so far, so rows that have drawn the same tokens share a slot:
those of one prompt at other alphas, under other guards, and of other luck that drew the same. They part when they draw
different tokens: one branch keeps the slot, the others wait for a free one. A waiting branch takes no memory: what it
goes on from lies in the first columns of the slot that it parted from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffamp.engine.cache import ClockLayer, PairCache, blank
from diffamp.engine.prefill import Prefill

Draw = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows, before, after, line) -> the tokens drawn, on the CPU, and which rows go on.

rows[i] draws from line[i] of the logits before and after (lines, vocab); all but these are (rows,).
"""

Group = tuple[int, Sequence[int]]
"""A prompt, and rows of it that share a slot for as long as they draw the same tokens."""


@dataclass(frozen=True)
class Branch:
    """Rows that have drawn the same tokens, waiting for a slot."""

    rows: Tensor
    """(rows,)"""
    token: int
    """The last one drawn, which the models have not seen yet."""
    source: int
    """The prompt, or the slot, whose states it goes on from."""
    columns: int
    """How many of them: the tokens before the last."""


class Batch:
    """The slots being decoded: a cache on a shared clock, the rows in each slot, the token each slot is fed next.

    A slot whose rows have ended goes to a waiting branch; when none waits, the batch shrinks.
    """

    shrink_at = 0.75
    """When nothing waits and at most this share of the slots is in use, the batch is rebuilt without the free ones. It
    grows again when as many wait as would bring it back."""
    refill_at = 0.0
    """Branches enter when more than this share of the slots is free."""

    def __init__(
        self, prefill: Prefill, groups: Sequence[Group], together: int, max_new_tokens: int, columns: int
    ) -> None:
        """Make room for as many rows as fit.

        Args:
            prefill: what the rows go on from; it is only read.
            groups: every row in one of them.
            together: groups that enter side by side (the alphas of one prompt and sample, where each is a group of its
                own): whole sets of them fill the slots, so that equal rows meet equal arithmetic.
            columns: of key/value cache at a time, over all slots.
        """
        self.pair, self.prefill, self.longest = prefill.pair, prefill, prefill.longest
        self.groups = groups
        self.capacity = self.longest + 2 * max_new_tokens  # room to run before the live columns move to the front
        slots = min(sum(len(rows) for _, rows in groups), max(1, columns // self.capacity))
        self.most = slots - (slots % together if slots > together else 0)
        self.cache = self._layers()
        for layer, (keys, values) in zip(self.cache.layers, prefill.states, strict=True):
            layer.keys, layer.values = (blank(s, len(s) * self.most, self.capacity) for s in (keys, values))
            layer.is_initialized = True
        self.clock = self.longest
        self.rows = torch.zeros(0, dtype=torch.long)  # those being decoded, in the order of their slots
        self.slot = torch.zeros(0, dtype=torch.long)  # where each of them sits
        self.start = torch.full((self.most,), self.longest)  # first column of each slot
        self.token = torch.zeros(self.most, dtype=torch.long, device=self.pair.device)  # fed to each slot next
        self.waiting: deque[Branch] = deque()  # that go on from a prompt
        self.parked: dict[int, list[Branch]] = {}  # slot -> those that go on from it, the longest last

    def _layers(self) -> PairCache:
        return self.pair.layers(self.capacity)

    def run(self, draw: Draw) -> None:
        """Draw every token of every row."""
        prompts = torch.tensor([prompt for prompt, _ in self.groups])
        group = torch.arange(len(self.groups)).repeat_interleave(torch.tensor([len(rows) for _, rows in self.groups]))
        rows = torch.tensor([row for _, rows in self.groups for row in rows])
        tokens, going_on = draw(rows, self.prefill.before, self.prefill.after, prompts[group])
        rows = rows[going_on]
        group, token, branch = self._branches(group[going_on], tokens[going_on])
        for n, prompt in enumerate(prompts[group].tolist()):
            columns = int(self.prefill.lengths[prompt])
            self.waiting.append(Branch(rows[branch == n], int(token[n]), prompt, columns))
        while self._fill():
            self.step(draw)

    def _branches(self, place: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Place and token (branches,) of each branch, sorted, and the branch (rows,) of each row."""
        keys, branch = (place * self.pair.vocab_size + tokens).unique(return_inverse=True)
        return keys // self.pair.vocab_size, keys % self.pair.vocab_size, branch

    def _fill(self) -> bool:
        """Give free slots to waiting branches. False when all is done."""
        free = (~self._used()).nonzero()[:, 0].tolist()
        # what was parked in a free slot goes on there, the longest first, which leaves the others' columns as they are
        own = [(slot, self._unpark(slot, -1)) for slot in free if slot in self.parked]
        spare = sorted(set(free) - {slot for slot, _ in own})
        waiting = len(self.waiting) + sum(map(len, self.parked.values()))
        wanted = min(self.most, len(self.start) + waiting - len(spare))
        if len(self.start) < self.most and wanted * self.shrink_at >= len(self.start):
            spare += range(len(self.start), wanted)
            self._resize(torch.arange(len(self.start)), wanted)
        moved: list[tuple[int, Branch]] = []
        entering: list[tuple[int, Branch]] = []
        for slot in spare if len(spare) > self.refill_at * len(self.start) else ():
            if self.parked:  # the shortest first: it has most to come
                source = min(self.parked, key=lambda s: self.parked[s][0].columns)
                moved.append((slot, self._unpark(source, 0)))
            elif self.waiting:
                entering.append((slot, self.waiting.popleft()))
        self._move([*moved, *own])
        self._admit(entering)
        self._seat([*moved, *own, *entering])
        used = self._used().nonzero()[:, 0]
        if not self.waiting and not self.parked and 0 < len(used) <= self.shrink_at * len(self.start):
            self._resize(used, len(used))
        return len(used) > 0

    def _used(self) -> Tensor:
        """(slots,) bool."""
        used = torch.zeros(len(self.start), dtype=torch.bool)
        used[self.slot] = True
        return used

    def _unpark(self, slot: int, index: int) -> Branch:
        branch = self.parked[slot].pop(index)
        if not self.parked[slot]:
            del self.parked[slot]
        return branch

    def _move(self, moved: Sequence[tuple[int, Branch]]) -> None:
        """Copy what each branch goes on from into its slot, to end at the clock: all are read before any is written."""
        if not moved:
            return
        slot, source, columns = torch.tensor([(slot, b.source, b.columns) for slot, b in moved]).unbind(1)
        branch = torch.arange(len(moved)).repeat_interleave(columns)  # of each column that is copied
        column = torch.arange(len(branch)) - (columns.cumsum(0) - columns)[branch]  # its number in the branch
        read, write = self.start[source][branch] + column, (self.clock - columns)[branch] + column
        source, read, slot, write = (t.to(self.pair.device) for t in (source[branch], read, slot[branch], write))
        for layer, (keys, _) in zip(self.cache.layers, self.prefill.states, strict=True):
            for states in (layer.keys, layer.values):
                by_slot = states.unflatten(0, (len(keys), -1))  # (halves, slots, heads, columns, head_dim)
                by_slot[:, slot, :, write] = by_slot[:, source, :, read]

    def _admit(self, entering: Sequence[tuple[int, Branch]]) -> None:
        """Copy the states of each branch's prompt into its slot."""
        if not entering:
            return
        slots, prompts = (
            torch.tensor(x).to(self.pair.device) for x in zip(*((s, b.source) for s, b in entering), strict=True)
        )
        columns = slice(self.clock - self.longest, self.clock)
        for layer, (keys, values) in zip(self.cache.layers, self.prefill.states, strict=True):
            layer.keys.unflatten(0, (len(keys), -1))[:, slots, :, columns] = keys[:, prompts]
            layer.values.unflatten(0, (len(values), -1))[:, slots, :, columns] = values[:, prompts]

    def _seat(self, seated: Sequence[tuple[int, Branch]]) -> None:
        """From here on the rows of these branches are decoded in their slots."""
        if not seated:
            return
        slots = torch.tensor([slot for slot, _ in seated])
        self.start[slots] = self.clock - torch.tensor([branch.columns for _, branch in seated])
        self._feed(slots, torch.tensor([branch.token for _, branch in seated]))
        sizes = torch.tensor([len(branch.rows) for _, branch in seated])
        slot = torch.cat([self.slot, slots.repeat_interleave(sizes)])
        order = slot.argsort(stable=True)
        self.rows, self.slot = torch.cat([self.rows, *(b.rows for _, b in seated)])[order], slot[order]

    def _feed(self, slots: Tensor, tokens: Tensor) -> None:
        slots, tokens = (t.to(self.pair.device, non_blocking=True) for t in (slots, tokens))
        self.token[slots] = tokens

    def _resize(self, keep: Tensor, slots: int) -> None:
        """Rebuild the batch of the slots `keep` (kept,) and free ones behind them."""
        index = torch.cat([keep, keep.new_zeros(slots - len(keep))])
        for layer in self._clocked():
            layer.clock = self.clock
        self.cache.batch_select_indices(index.to(self.pair.device))
        self.slot = torch.searchsorted(keep, self.slot)
        self.start, self.token = self.start[index], self.token[index.to(self.pair.device)]

    def step(self, draw: Draw) -> None:
        """One token for every row, in one pass."""
        if self.clock == self.capacity:
            self._rewind()
        before, after = self._forward(self._used())
        self.clock += 1
        tokens, going_on = draw(self.rows, before, after, self.slot)
        rows, slot, tokens = self.rows[going_on], self.slot[going_on], tokens[going_on]
        place, token, branch = self._branches(slot, tokens)
        leads = place != place.roll(1)  # a slot's first branch keeps it
        leads[:1] = True
        for n in (~leads).nonzero()[:, 0].tolist():
            source = int(place[n])
            columns = self.clock - int(self.start[source])
            self.parked.setdefault(source, []).append(Branch(rows[branch == n], int(token[n]), source, columns))
        stays = leads[branch]
        self.rows, self.slot = rows[stays], slot[stays]
        self._feed(place[leads], token[leads])

    def _forward(self, used: Tensor) -> tuple[Tensor, Tensor]:
        """Both models' logits (slots, vocab) for the token that each slot is fed; `used` (slots,)."""
        first = int(self.start[used].min())
        for layer in self._clocked():
            layer.start, layer.clock = first, self.clock
        device = self.pair.device
        # a free slot sees only the column it writes: a mask without any column would be NaN
        start = torch.where(used, self.start, self.clock)
        mask = (torch.arange(first, self.clock + 1) >= start[:, None]).long().to(device)  # (slots, live columns)
        position = self._position(used).to(device)
        before, after = self.pair.logits(self.token[:, None], mask, position[:, None], self.cache)
        return before[:, -1], after[:, -1]

    def _position(self, used: Tensor) -> Tensor:
        """(slots,) of the token to be fed; of free slots one that every model knows."""
        return torch.where(used, self.clock - self.start, 0)

    def _rewind(self) -> None:
        # a prompt admitted next needs `longest` columns behind the clock
        first = min(int(self.start[self.slot].min()), self.clock - self.longest)
        for layer in self._clocked():
            layer.rewind(first, self.clock)
        self.clock -= first
        self.start -= first

    def _clocked(self) -> Iterator[ClockLayer]:
        for layer in self.cache.layers:
            assert isinstance(layer, ClockLayer)
            yield layer
