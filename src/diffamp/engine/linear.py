"""Linear layers that read one input, computed as one product, low-rank terms included.

Query, key and value projections (or gate and up) of any family read the same tensor. Their weights, and the A of each
low-rank term, stand in one matrix, so a layer takes four products instead of twenty-one. On a CPU in bfloat16 the
matrix is held in oneDNN's own layout as well: the same bits, without the repacking at every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffamp.engine.halves import Halves, LowRank, add_low_rank


class _Group:
    """Linear layers with one input: weights and A in one matrix, B in one block-diagonal one."""

    def __init__(self, members: Sequence[nn.Linear], terms: Sequence[LowRank | None], halves: Halves) -> None:
        self.members, self.terms, self.halves = members, terms, halves
        self.sizes = [m.out_features for m in members]
        self.total = sum(self.sizes)
        self.input: Tensor | None = None
        self.outputs: dict[int, Tensor] = {}
        self._join()

    def __getstate__(self) -> dict[str, Any]:
        """A copy joins its own weights anew: oneDNN's layout cannot be copied."""
        return self.__dict__ | {"packed": None, "state": [], "input": None, "outputs": {}}

    @torch.inference_mode(False)
    def _join(self) -> None:
        weights = [m.weight.data for m in self.members]
        present = [t for t in self.terms if t is not None]
        if len(weights) == 1 and not present:
            self.weight = weights[0]
        else:
            self.weight = torch.cat([*weights, *(t.a.t().to(weights[0]) for t in present)])
            for member, weight in zip(self.members, self.weight[: self.total].split(self.sizes), strict=True):
                member.weight.data = weight  # a view of it
        blocks = [t.b if t else torch.zeros(0, n) for t, n in zip(self.terms, self.sizes, strict=True)]
        self.up = torch.block_diag(*(b.to(self.weight) for b in blocks)) if present else None  # (ranks, total)
        self.bias = None
        if any(m.bias is not None for m in self.members):
            self.bias = self.weight.new_zeros(len(self.weight))
            for member, bias in zip(self.members, self.bias[: self.total].split(self.sizes), strict=True):
                if member.bias is not None:
                    bias.copy_(member.bias.data)
                    member.bias.data = bias
        self.packed = _packed(self.weight)
        self.state = self._state()

    def _state(self) -> list[tuple[int, int]]:
        """Changes when a weight is moved, cast or written to (but a write through `.data` leaves no trace)."""
        return [(m.weight.data_ptr(), m.weight._version) for m in self.members]

    def __call__(self, index: int, x: Tensor) -> Tensor:
        """Output of one member. The first to be asked computes all; the others find theirs."""
        if x is not self.input or index not in self.outputs:
            self.input, self.outputs = x, dict(enumerate(self._all(x)))
        output = self.outputs.pop(index)
        if not self.outputs:
            self.input = None
        return output

    def _all(self, x: Tensor) -> Sequence[Tensor]:
        if self._state() != self.state:
            self._join()
        if torch.is_grad_enabled():  # of the layers' own parameters, so that they can be trained
            ranks = self.weight[self.total :]
            weight = torch.cat([*(m.weight for m in self.members), ranks])
            y = F.linear(x, weight, self.bias)
        elif self.packed is None:
            y = F.linear(x, self.weight, self.bias)
        else:
            y = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        if self.up is not None:
            after = y[self.halves.after_rows(len(y))].view(-1, y.shape[-1])  # (after rows * positions, total + ranks)
            after[:, : self.total].addmm_(after[:, self.total :], self.up, alpha=self.halves.scale)
        return y[..., : self.total].split(self.sizes, -1)


def _packed(weight: Tensor) -> Tensor | None:
    """A second copy of the weight, in oneDNN's layout, where torch would hand the product to oneDNN anyway."""
    onednn = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not onednn or weight.dtype != torch.bfloat16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


class NotByRowError(ValueError):
    """A layer that carries a low-rank term does not see the batch row by row."""


def fuse(
    model: PreTrainedModel, halves: Halves | None = None, terms: Mapping[nn.Module, LowRank] | None = None
) -> None:
    """Compute the linear layers of `model` in groups, each with its low-rank term on the after rows.

    Which layers read one input is seen in one small forward pass, so no family is known by name. Layers of other kinds
    than nn.Linear (4-bit ones, GPT-2's Conv1D), and those that run twice, keep their own forward and get their term by
    a hook.

    Raises:
        NotByRowError: a layer with a term is fed something else than the whole batch (an expert of a mixture).
    """
    halves, terms = halves or Halves(), terms or {}
    groups = _groups(model, terms)
    grouped = {module for members in groups for module in members}
    for module, term in terms.items():
        if module not in grouped:
            add_low_rank(module, term, halves)
    for members in groups:
        group = _Group(members, [terms.get(m) for m in members], halves)
        for index, member in enumerate(members):
            member.__dict__["forward"] = partial(group, index)


@torch.inference_mode()
def _groups(model: PreTrainedModel, terms: Mapping[nn.Module, LowRank]) -> list[list[nn.Linear]]:
    """Plain linear layers in the order in which they run, those in a row that get one and the same tensor together."""
    seen: dict[nn.Module, Tensor] = {}
    groups: list[list[nn.Linear]] = []
    handles = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module in seen:  # shared by several places: left out below
            groups[:] = [[m for m in group if m is not module] for group in groups]
            return
        if type(module) is nn.Linear:
            last = groups[-1] if groups else []
            alike = last and seen[last[-1]] is args[0] and last[-1].weight.dtype == module.weight.dtype
            groups[-1:] = [[*last, module]] if alike else [*groups[-1:], [module]]
        seen[module] = args[0]

    wanted = [m for m in model.modules() if type(m) is nn.Linear or m in terms]
    try:
        handles = [m.register_forward_pre_hook(look) for m in wanted]
        ids = torch.arange(6, device=model.device).view(2, 3)  # six tokens, which experts would share out
        model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for module in terms:
        if module not in seen or len(seen[module]) not in (2, 6):  # (batch, positions, ...) or (batch * positions, ...)
            raise NotByRowError(f"a {type(module).__name__} with a low-rank term is not fed the batch row by row")
    return [group for group in groups if group]
