"""What every row of a prompt begins with: both models' states of it, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffamp.engine.cache import PairCache
from diffamp.engine.pairs import ModelPair


class Prefill:
    """Both models' states of some prompts, and the logits of each one's last token.

    They depend on no alpha and no guard: every grid over these prompts goes on from here (`diffamp.engine.batch`).

    Attributes:
        lengths: (prompts,) tokens.
        longest: the largest of them.
        before, after: (prompts, vocab) logits, raw.
        states: of each layer keys and values, (halves, prompts, heads, longest, head_dim), every prompt's last token in
            the last column; a stacked layer (`diffamp.engine.cache.PairCache`) holds two halves.
    """

    @torch.inference_mode()
    def __init__(self, pair: ModelPair, encoded: Sequence[list[int]], columns: int) -> None:
        """Run the prompts; what all begin with (a chat template does) runs once.

        They are padded on the right, where causal attention never looks, so no mask is needed; then they move to the
        right.

        Args:
            encoded: token ids of the distinct prompts.
            columns: of key/value cache that may be filled at a time.
        """
        self.pair = pair
        self.lengths = torch.tensor([len(e) for e in encoded])
        self.longest = int(self.lengths.max())
        rows = max(1, columns // self.longest)
        shared = 0
        if len(encoded) > 1:
            same = [len(set(ids)) == 1 for ids in zip(*encoded, strict=False)]  # as long as the shortest
            shared = [*same[:-1], False].index(False)  # the last token's logits are needed
        prefix = self.pair.layers(self.longest)
        if shared:
            self._run([encoded[0][:shared]], prefix, 0)
        caches, befores, afters = [], [], []
        for i in range(0, len(encoded), rows):
            chunk = encoded[i : i + rows]
            cache = self.pair.layers(self.longest)
            for layer, begun in zip(cache.layers, prefix.layers, strict=True) if shared else ():
                layer.begin_with(begun, len(chunk))
            before, after = self._run([prompt[shared:] for prompt in chunk], cache, shared)
            caches.append(cache)
            befores.append(before)
            afters.append(after)
        self.before, self.after = torch.cat(befores), torch.cat(afters)  # (prompts, vocab)
        halves = 2 if caches[0].stacked else 1
        source = torch.arange(self.longest) - (self.longest - self.lengths[:, None])  # (prompts, longest)
        source = source.clamp(min=0).to(self.pair.device)[None, :, None, :, None]
        self.states = [
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


def _moved(states: Tensor, source: Tensor) -> Tensor:
    """Columns of (halves, prompts, heads, columns, head_dim), each taken from the column that `source` names."""
    return states.gather(3, source.expand(*states.shape[:3], -1, states.shape[-1]))
