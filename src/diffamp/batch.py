"""The rows being decoded: shared prefill, one cache on a shared clock, slots that are refilled as rows end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from diffamp.cache import ClockLayer, PairCache
from diffamp.pairs import ModelPair

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

    def __init__(
        self, pair: ModelPair, encoded: Sequence[list[int]], rows: int, together: int, max_new_tokens: int, columns: int
    ) -> None:
        """Prefill every prompt and make room for as many rows as fit.

        Args:
            encoded: token ids of the distinct prompts.
            rows: how many there will be in all.
            together: rows that enter side by side (the alphas of one prompt and sample): whole sets of them fill the
                slots, so that equal rows meet equal arithmetic.
            columns: of key/value cache at a time, over all rows.
        """
        self.pair = pair
        self.lengths = torch.tensor([len(e) for e in encoded])
        self.longest = int(self.lengths.max())
        self.capacity = self.longest + 2 * max_new_tokens  # room to run before the live columns move to the front
        slots = min(rows, max(1, columns // self.capacity))
        slots -= slots % together if slots > together else 0
        self._prefill(encoded, max(1, columns // self.longest))
        self.cache = self._layers()
        for layer, (keys, values) in zip(self.cache.layers, self.prompt_states, strict=True):
            layer.keys, layer.values = (_room(s, slots, self.capacity) for s in (keys, values))
            layer.is_initialized = True
        self.clock = self.longest
        self.row = torch.full((slots,), -1)  # which of the rows sits here; -1: free
        self.start = torch.full((slots,), self.longest)  # its first live column
        self.position = torch.zeros(slots, dtype=torch.long)  # position of the token to be fed
        self.token = torch.zeros(slots, dtype=torch.long, device=pair.device)

    def _layers(self) -> PairCache:
        return self.pair.layers(self.capacity)

    def _prefill(self, encoded: Sequence[list[int]], at_a_time: int) -> None:
        """Both models' states of every prompt, right-aligned at column `longest`, and its last logits.

        What all prompts begin with (a chat template does) runs once. Prompts are padded on the right, where causal
        attention never looks, so no mask is needed; then they move to the right.
        """
        shared = 0
        if len(encoded) > 1:
            same = [len(set(ids)) == 1 for ids in zip(*encoded, strict=False)]  # as long as the shortest
            shared = [*same[:-1], False].index(False)  # the last token's logits are needed
        prefix = self.pair.layers(self.longest)
        if shared:
            self._run([encoded[0][:shared]], prefix, 0)
        caches, befores, afters = [], [], []
        for i in range(0, len(encoded), at_a_time):
            chunk = encoded[i : i + at_a_time]
            cache = self.pair.layers(self.longest)
            for layer, begun in zip(cache.layers, prefix.layers, strict=True) if shared else ():
                layer.begin_with(begun, len(chunk))
            before, after = self._run([prompt[shared:] for prompt in chunk], cache, shared)
            caches.append(cache)
            befores.append(before)
            afters.append(after)
        self.prompt_before, self.prompt_after = torch.cat(befores), torch.cat(afters)  # (prompts, vocab)
        # per layer (halves, prompts, heads, longest, head_dim); a stacked layer holds two halves
        halves = 2 if caches[0].stacked else 1
        source = torch.arange(self.longest) - (self.longest - self.lengths[:, None])  # (prompts, longest)
        source = source.clamp(min=0).to(self.pair.device)[None, :, None, :, None]
        self.prompt_states = [
            tuple(_moved(torch.cat([s.unflatten(0, (halves, -1)) for s in states], 1), source) for states in both)
            for both in (
                ([layer.keys for layer in layers], [layer.values for layer in layers])
                for layers in zip(*(c.layers for c in caches), strict=True)
            )
        ]

    def _run(self, tokens: list[list[int]], cache: PairCache, cached: int) -> tuple[Tensor, Tensor]:
        """One pass over ragged rows that continue `cached` columns: last logits (rows, vocab), before and after."""
        lengths = torch.tensor([len(row) for row in tokens])
        width = int(lengths.max())
        ids = torch.full((len(tokens), width), self.pair.tokenizer.pad_token_id or 0)
        for n, row in enumerate(tokens):
            ids[n, : len(row)] = torch.tensor(row)
        positions = torch.arange(cached, cached + width).expand(len(tokens), -1)
        mask = torch.ones(len(tokens), cached + width, dtype=torch.long)
        ids, mask, positions, last = (t.to(self.pair.device) for t in (ids, mask, positions, lengths[:, None] - 1))
        before, after = self.pair.logits(ids, mask, positions, cache, keep=last)
        return before[:, 0], after[:, 0]

    def refill(self, queue: deque[int], prompt_of: list[int], draw: Draw) -> bool:
        """Admit waiting rows to free slots, their first token drawn from the prefill. False when all is done."""
        while queue and (free := int((self.row < 0).sum())) > self.refill_at * len(self.row):
            admitted = torch.tensor([queue.popleft() for _ in range(min(len(queue), free))])
            prompt = torch.tensor([prompt_of[r] for r in admitted])
            on_device = prompt.to(self.pair.device)
            token, going_on = draw(admitted, self.prompt_before[on_device], self.prompt_after[on_device])
            self._admit(admitted[going_on], prompt[going_on], token[going_on.to(token.device)])
        live = self.row >= 0
        if not queue and int(live.sum()) <= self.shrink_at * len(live):
            self._shrink(live.nonzero()[:, 0])
        return len(self.row) > 0

    def _admit(self, rows: Tensor, prompts: Tensor, tokens: Tensor) -> None:
        slots = (self.row < 0).nonzero()[: len(rows), 0]
        self.row[slots] = rows
        self.start[slots] = self.clock - self.lengths[prompts]
        self.position[slots] = self.lengths[prompts]
        slots, prompts = slots.to(self.pair.device), prompts.to(self.pair.device)
        self.token[slots] = tokens
        columns = slice(self.clock - self.longest, self.clock)
        for layer, (keys, values) in zip(self.cache.layers, self.prompt_states, strict=True):
            layer.keys.unflatten(0, (len(keys), -1))[:, slots, :, columns] = keys[:, prompts]
            layer.values.unflatten(0, (len(values), -1))[:, slots, :, columns] = values[:, prompts]

    def _shrink(self, keep: Tensor) -> None:
        on_device = keep.to(self.pair.device)
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


def _moved(states: Tensor, source: Tensor) -> Tensor:
    """Columns of (halves, prompts, heads, columns, head_dim), each taken from the column that `source` names."""
    return states.gather(3, source.expand(*states.shape[:3], -1, states.shape[-1]))


def _room(states: Tensor, slots: int, capacity: int) -> Tensor:
    """Blank states for `slots` rows, shaped like a prompt's: (halves * slots, heads, capacity, head_dim)."""
    halves, _, heads, _, dim = states.shape
    return states.new_zeros(halves * slots, heads, capacity, dim)
