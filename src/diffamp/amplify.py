"""The method, as pure functions on logits: the equation, the guards, the divergences.

Every tensor here is float32 with the vocabulary last. "Logits" and "log-probs" are interchangeable before a mask,
since a constant added to a whole vector changes no distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def amplify(before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor:
    """`after + alpha * (after - before)`: -1 gives the before-model, 0 the after-model, 1 doubles the difference.

    Args:
        before, after: (..., vocab) logits of any float type. The difference is taken in float32.
        alpha: a number, or a tensor that broadcasts over the leading dimensions, e.g. one value per row.

    Returns:
        (..., vocab) float32 logits. Exactly `after` at alpha 0 and exactly `before` at alpha -1 (`lerp` pins both
        ends, where the written-out sum would round).
    """
    before, after = before.float(), after.float()
    if isinstance(alpha, Tensor):
        alpha = alpha.to(after).reshape(*alpha.shape, *[1] * (after.dim() - alpha.dim()))
        return torch.lerp(before, after, (1 + alpha).expand_as(after))
    return torch.lerp(before, after, 1 + alpha)


class Guard(Protocol):
    """From a pair's logits to amplified logits that keep the text sensible. Tokens ruled out get -inf."""

    def __call__(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Unguarded:
    """The plain equation over the whole vocabulary."""

    def __call__(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor:
        return amplify(before, after, alpha)


@dataclass(frozen=True)
class Plausibility:
    """Keep the tokens whose probability under the after-model is at least `c` times its most probable token's.

    Contrastive decoding's adaptive plausibility constraint (Li et al. 2023, arXiv 2210.15097, c = 0.1). The
    difference is taken before the mask, so no (-inf) - (-inf) arises, and the top token always survives.
    """

    c: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.c <= 1:
            raise ValueError(f"plausibility: c must lie in (0, 1], got {self.c}")

    def __call__(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor:
        after = after.float()
        threshold = after.amax(-1, keepdim=True) + math.log(self.c)
        return amplify(before, after, alpha).masked_fill_(after < threshold, -torch.inf)
