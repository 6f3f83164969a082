"""Do the student's logits reflect the vector? Its logit shift, position by position, beside the vector's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from diffamp.engine.pairs import ModelPair
from diffamp.engine.scoring import Text, teacher_forced


def logit_shifts(pair: ModelPair, texts: Sequence[Text]) -> dict[int, Tensor]:
    """after - before at every answer token, centred over the vocabulary: text -> (tokens, vocab) float32.

    Centring removes the constant by which logits may differ without changing any probability.
    """
    shifts = {}
    for text, before, after in teacher_forced(pair, texts):
        shift = after.float() - before.float()
        shifts[text] = (shift - shift.mean(-1, keepdim=True)).cpu()
    return shifts


def reflection(true: Mapping[int, Tensor], students: Mapping[str, ModelPair], texts: Sequence[Text]) -> pd.DataFrame:
    """Alignment of each student's logit shift with the vector's.

    Returns:
        One row per organism, text and position: cosine over the vocabulary (0 for a student that does not move);
        error, the squared distance of the student's shift, unscaled, from the vector's; target, the squared length of
        the vector's. R2 is 1 - sum of error / sum of target: 1 for a perfect copy, 0 for no shift at all.
    """
    rows = []
    for name, pair in students.items():
        for text, shift in logit_shifts(pair, texts).items():
            target = true[text]
            cosine = torch.cosine_similarity(shift, target, dim=-1)
            error, length = (target - shift).square().sum(-1), target.square().sum(-1)
            values = zip(cosine.tolist(), error.tolist(), length.tolist(), strict=True)
            rows += [(name, text, position, *value) for position, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["organism", "text", "position", "cosine", "error", "target"])
