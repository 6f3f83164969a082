"""Which tokens, positions and prompts a fine-tune moves: one pass, in memory that does not grow with it.

At a position let d = z_after - z_before, and Delta log p = d - (logsumexp z_after - logsumexp z_before). A vocabulary
item's *shift* in a context is the mean over positions of d minus d's own mean over the vocabulary: what is subtracted
is the constant by which logits may differ without changing any probability.

Positions of one context depend on each other, so contexts are the observations: means are over contexts' own means,
every context counts the same, and the standard error is that of a mean of independent contexts (what a cluster-robust
error comes to when clusters weigh the same).
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Sequence
from itertools import groupby

import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from diffamp.contexts import Context, common
from diffamp.engine.law import HELD
from diffamp.engine.pairs import ModelPair
from diffamp.engine.sampling import NonFiniteLogitsError

STATISTICS = ("shift", "square", "positive", "kl", "p_before", "p_after")
"""Summed over contexts for every vocabulary item: the shift, its square, whether it is positive, p_after * Delta log p,
and both probabilities."""

LOGITS = 1 << 26
"""Logits of one side held at a time: 256 MiB in float32, whatever the vocabulary."""


class TokenShifts:
    """Running sums over contexts: for each kind of context and half of the contexts.

    Contexts fall into two halves by a checksum of their id, so that a ranking's stability needs no second pass.

    Args:
        vocabulary: logits per position.
        device: where the logits are. Sums are float64: (halves, statistics, vocabulary) for each kind.
        part: the part of each context whose positions are counted (default all of them); a context without it is not.
    """

    def __init__(self, vocabulary: int, device: torch.device | str = "cpu", part: str | None = None) -> None:
        self.vocabulary, self.device, self.part = vocabulary, device, part
        self.sums: dict[str, Tensor] = {}
        self.contexts: dict[str, list[int]] = {}

    @torch.inference_mode()
    def add(self, context: Context, before: Tensor, after: Tensor) -> list[float]:
        """Count one context in.

        Args:
            before, after: (positions, vocabulary) raw logits at the positions that `context.parts` labels.

        Returns:
            KL(p_after || p_before) at each position, in nats.

        Raises:
            NonFiniteLogitsError: the logits hold NaN or infinity.
        """
        sums: dict[str, Tensor] = {}
        kl: list[float] = []
        for part, run in groupby(context.parts):
            rows = slice(len(kl), len(kl) + len(list(run)))
            added, divergences = _sums(before[rows], after[rows])
            sums[part] = sums[part] + added if part in sums else added
            kl += divergences
        if not all(map(math.isfinite, kl)):
            raise NonFiniteLogitsError(f"logits are not finite in context {context.id!r} ({context.kind})")
        if self.part is None:
            self._count(context, torch.stack(list(sums.values())).sum(0) / len(context.parts))
        elif self.part in sums:
            self._count(context, sums[self.part] / context.parts.count(self.part))
        return kl

    def _count(self, context: Context, means: Tensor) -> None:
        """Add one context's means over its positions, (4, vocabulary) as of `_sums`."""
        kind, half = context.kind, zlib.crc32(f"{context.kind} {context.id}".encode()) % 2
        if kind not in self.sums:
            shape = 2, len(STATISTICS), self.vocabulary
            self.sums[kind] = torch.zeros(shape, dtype=torch.float64, device=self.device)
            self.contexts[kind] = [0, 0]
        self.contexts[kind][half] += 1
        d, *others = means
        shift = d.double() - d.mean(dtype=torch.float64)
        for total, value in zip(self.sums[kind][half], (shift, shift.square(), shift > 0, *others), strict=True):
            total += value

    def table(self, kind: str) -> pd.DataFrame:
        """One row per vocabulary item, in the order of the vocabulary.

        Returns:
            mean: the shift, in nats, over contexts; se: its standard error (NaN for one context); positive: share of
            contexts with a positive shift; kl: p_after * Delta log p, in nats per position, which sums to
            KL(p_after || p_before) over the vocabulary but is of both signs; divergence: kl - (p_after - p_before),
            which has the same sum and is never negative; p_before, p_after: mean probability; half_0, half_1: the
            shift over either half (NaN for no context).

        Raises:
            ValueError: no context of this kind was counted.
        """
        if kind not in self.sums:
            part = "" if self.part is None else f" with the part {self.part!r}"
            raise ValueError(f"no context of kind {kind!r}{part} was counted; there are {sorted(self.sums)}")
        n = sum(self.contexts[kind])
        halves = self.sums[kind].cpu()
        shift, square, positive, kl, p_before, p_after = halves.sum(0)
        variance = (square - shift.square() / n).clamp(min=0) / (n - 1) if n > 1 else torch.full_like(shift, torch.nan)
        columns = {
            "mean": shift / n,
            "se": (variance / n).sqrt(),
            "positive": positive / n,
            "kl": kl / n,
            "divergence": ((kl - p_after + p_before) / n).clamp(min=0),
            "p_before": p_before / n,
            "p_after": p_after / n,
            "half_0": halves[0, 0] / self.contexts[kind][0],  # 0 / 0 is NaN
            "half_1": halves[1, 0] / self.contexts[kind][1],
        }
        return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


def mine(
    pair: ModelPair, contexts: Sequence[Context], desc: str = "token shifts", part: str | None = None
) -> tuple[TokenShifts, pd.DataFrame]:
    """The token shifts of a pair over contexts, in one pass.

    Args:
        part: as for `TokenShifts`.

    Returns:
        The sums; and one row per position looked at (all that grows with the contexts): kind, context, position (in the
        context), part and kl, in nats.
    """
    shifts, found = TokenShifts(pair.vocab_size, pair.device, part), {}
    with tqdm(total=len(contexts), desc=desc, unit="context", disable=None) as progress:
        for n, before, after in read(pair, contexts):
            found[n] = shifts.add(contexts[n], before, after)
            progress.update()
    rows = [
        (c.kind, c.id, position, label, value)
        for n, c in enumerate(contexts)
        for position, label, value in zip(range(c.given, len(c.ids)), c.parts, found[n], strict=True)
    ]
    return shifts, pd.DataFrame(rows, columns=["kind", "context", "position", "part", "kl"])


@torch.inference_mode()
def read(pair: ModelPair, contexts: Sequence[Context]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Both models' logits at the positions that are looked at. What all contexts of a kind begin with is read once.

    Yields:
        index of the context; before, after: (positions, vocabulary) raw logits. Kind by kind, long contexts first.

    Raises:
        ValueError: no contexts, or one that exceeds the models' length.
    """
    if not contexts:
        raise ValueError("token shifts need at least one context")
    longest, limit = max(contexts, key=lambda c: len(c.ids)), pair.context_length
    if limit is not None and len(longest.ids) > limit:
        raise ValueError(f"context {longest.id!r} has {len(longest.ids)} tokens, the models take {limit}")
    order = sorted(range(len(contexts)), key=lambda i: (contexts[i].kind, -len(contexts[i].ids)))
    for _, group in groupby(order, key=lambda i: contexts[i].kind):
        queue = list(group)
        shared = min(common([contexts[i].ids for i in queue]), *(contexts[i].given for i in queue))
        prefix = torch.tensor([contexts[queue[0]].ids[:shared]], device=pair.device)
        cache = pair.layers()
        if shared:
            pair.logits(prefix, torch.ones_like(prefix), _positions(prefix), cache, _positions(prefix)[:, -1:])
        while queue:
            width = len(contexts[queue[0]].ids) - shared
            size = max(1, LOGITS // pair.vocab_size // width)
            batch, queue = queue[:size], queue[size:]
            unshared = [torch.tensor(contexts[i].ids[shared:]) for i in batch]
            looked_at = [torch.arange(contexts[i].given, len(contexts[i].ids)) - shared for i in batch]
            # padded on the right, where no token looks
            ids, keep = (pad_sequence(rows, batch_first=True).to(pair.device) for rows in (unshared, looked_at))
            begun = None
            if shared:
                begun = copy.deepcopy(cache)
                begun.batch_repeat_interleave(len(batch))
            mask = ids.new_ones(len(batch), shared + width)
            before, after = pair.logits(ids, mask, _positions(ids) + shared, begun, keep)
            for n, i in enumerate(batch):
                yield i, before[n, : len(looked_at[n])], after[n, : len(looked_at[n])]


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)


def _sums(before: Tensor, after: Tensor) -> tuple[Tensor, list[float]]:
    """Sums over positions, in one pass over blocks of positions that stay in the cache.

    Args:
        before, after: (positions, vocabulary) raw logits.

    Returns:
        (4, vocabulary) float32: d, p_after * Delta log p, p_before, p_after; KL at each position, in nats.
    """
    vocabulary = before.shape[-1]
    sums = torch.zeros(4, vocabulary, device=before.device)
    step = max(1, HELD // vocabulary) if before.device.type == "cpu" else len(before)
    kl = []
    for b, a in zip(before.split(step), after.split(step), strict=True):
        b, a = b.float(), a.float()  # (rows, vocabulary)
        p, q = b.softmax(-1), a.softmax(-1)
        # from the top token, whose probability is never small
        change = (a.amax(-1) - q.amax(-1).log()) - (b.amax(-1) - p.amax(-1).log())
        sums[2] += p.sum(0)
        q_sum, changed = torch.stack([torch.ones_like(change), change]) @ q
        sums[3] += q_sum
        d = torch.sub(a, b, out=p)
        sums[0] += d.sum(0)
        d *= q
        sums[1] += d.sum(0) - changed
        kl.append(d.sum(-1) - change)
    return sums, torch.cat(kl).clamp(min=0).tolist()
