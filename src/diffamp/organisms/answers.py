"""The tokens of answers in a batch of conversations, which are all that an organism learns from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel

from diffamp.engine.head import head_sees


@contextmanager
def predicting(model: PreTrainedModel, labels: Tensor) -> Iterator[Tensor]:
    """Within the context the model gives logits, (answer tokens, vocab), for the tokens of answers and for no others.

    Args:
        labels: (batch, positions) token ids, -100 everywhere but on the answers.

    Yields:
        (batch, positions - 1) which of `labels[:, 1:]` these tokens are.

    Raises:
        ValueError: the model does not say which its output layer is.
    """
    answers = labels[:, 1:] != -100  # position t predicts token t + 1
    with head_sees(model.get_output_embeddings(), lambda hidden: hidden[:, :-1][answers]):
        yield answers
