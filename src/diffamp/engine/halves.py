"""What a fine-tune adds, applied to one half of a batch.

A pair over one base runs its two models as a single batch `[before; after]`: the shared weights are read once, and
only the rows of the after half get what the fine-tune added (a low-rank term, a steering vector). No model's code is
written anew, so any architecture and any quantised linear layer takes part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Side = Literal["before", "after", "both"]


class Halves:
    """Which rows of the batch belong to the after-model, and how much of an addition they get. Shared by all additions
    of one pair."""

    def __init__(self) -> None:
        self.side: Side = "both"
        self.scale = 1.0

    def after_rows(self, batch: int) -> slice:
        """The rows that get the addition: none, all, or the second half of `batch` rows."""
        if self.side == "before":
            return slice(batch, batch)
        return slice(0, batch) if self.side == "after" else slice(batch // 2, batch)

    @contextmanager
    def only(self, side: Side) -> Iterator[None]:
        """Within the context every row is of this side."""
        previous, self.side = self.side, side
        try:
            yield
        finally:
            self.side = previous

    @contextmanager
    def scaled(self, scale: float) -> Iterator[None]:
        """Within the context what is added is multiplied by `scale`, once more where contexts are nested."""
        previous, self.scale = self.scale, self.scale * scale
        try:
            yield
        finally:
            self.scale = previous


@dataclass(frozen=True)
class LowRank:
    """`x @ a @ b`, added to a linear layer's output: a (in, rank), b (rank, out) with the adapter's scaling folded in.

    Both in the compute type.
    """

    a: Tensor
    b: Tensor


def add_low_rank(module: nn.Module, term: LowRank, halves: Halves) -> RemovableHandle:
    """Add the term to the output of any linear module (bitsandbytes, GPT-2's Conv1D), on the after rows only."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        rows = halves.after_rows(len(output))
        x, y = args[0][rows], output[rows]
        if len(y):
            low = x.reshape(-1, x.shape[-1]).to(term.a.dtype) @ term.a
            y.view(-1, y.shape[-1]).addmm_(low, term.b, alpha=halves.scale)

    return module.register_forward_hook(hook)


def add_vector(module: nn.Module, vector: Tensor, halves: Halves) -> RemovableHandle:
    """Add a steering vector (hidden,) to a decoder layer's output at every position, on the after rows only."""

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple:
        hidden = output if isinstance(output, Tensor) else output[0]
        rows = halves.after_rows(len(hidden))
        # concatenated, not written in place: the vector is learned through this sum
        steered = torch.cat([hidden[: rows.start], hidden[rows] + (halves.scale * vector).to(hidden.dtype)])
        return steered if isinstance(output, Tensor) else (steered, *output[1:])

    return module.register_forward_hook(hook)
