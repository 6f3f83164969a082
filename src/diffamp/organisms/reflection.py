"""Do the student's logits reflect the vector? Its logit shift, position by position, beside the vector's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from diffamp.pairs import ModelPair
from diffamp.scoring import teacher_forced


def logit_shifts(pair: ModelPair, texts: Sequence[tuple[str, Sequence[int]]]) -> dict[int, Tensor]:
    """after - before at every answer token, centred over the vocabulary: text -> (tokens, vocab) float32.

    Centring removes the constant by which logits may differ without changing any probability.
    """
    shifts = {}
    for text, before, after in teacher_forced(pair, texts):
        shift = after.float() - before.float()
        shifts[text] = (shift - shift.mean(-1, keepdim=True)).cpu()
    return shifts


def reflection(
    true: Mapping[int, Tensor], students: Mapping[str, ModelPair], texts: Sequence[tuple[str, Sequence[int]]]
) -> pd.DataFrame:
    """Alignment of each student's logit shift with the vector's.

    Returns:
        One row per organism, text and position: cosine over the vocabulary; r2, the share of the vector's squared
        shift that the student's own, unscaled, explains (1 is a perfect copy, 0 no better than no shift at all);
        size, the student's root mean square shift in nats. A student that does not move has cosine 0 by definition.
    """
    rows = []
    for name, pair in students.items():
        for text, shift in logit_shifts(pair, texts).items():
            target = true[text]
            cosine = torch.cosine_similarity(shift, target, dim=-1)
            r2 = 1 - (target - shift).square().sum(-1) / target.square().sum(-1)
            for position, values in enumerate(
                zip(cosine.tolist(), r2.tolist(), shift.square().mean(-1).sqrt().tolist(), strict=True)
            ):
                rows.append((name, text, position, *values))
    return pd.DataFrame(rows, columns=["organism", "text", "position", "cosine", "r2", "size"])
