"""The method, as a pure function on logits. What keeps its text sensible is in `diffamp.engine.guards`.

"Logits" and "log-probs" are interchangeable before a mask, since a constant added to a whole vector changes no
distribution.
"""

from __future__ import annotations

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
