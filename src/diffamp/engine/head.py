"""The output layer, shown only the positions whose logits are wanted.

At 262,144 tokens it is two thirds of a small model, and its logits are most of a training's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def head_sees(head: nn.Module | None, select: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context the output layer is given `select` of its hidden states, (batch, positions, width).

    transformers' own `logits_to_keep` knows one set of positions for all rows, and hands the layer a strided view, for
    which torch copies the whole output matrix once per row.

    Raises:
        ValueError: the model does not say which layer that is.
    """
    if head is None:
        raise ValueError("this model's get_output_embeddings() names no output layer")
    handle = head.register_forward_pre_hook(lambda _, args: (select(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()
