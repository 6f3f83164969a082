"""Two vocabularies made one: which tokens of the after-model the before-model knows, and under which id."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reconciliation:
    """How the after-model's tokens read in the before-model's vocabulary.

    Attributes:
        to_before: (after vocab,) the before-model's id of each token of the after-model, -1 where it knows none.
        share: of the after-model's tokens that the before-model knows.
        moved: tokens that both know under different ids.
        unknown: up to ten tokens that the before-model does not know.
        stand_in: id that the before-model is shown for those.
    """

    to_before: Tensor
    share: float
    moved: int
    unknown: tuple[str, ...]
    stand_in: int

    @property
    def equal(self) -> bool:
        """Whether every token has one id in both."""
        return self.share == 1 and self.moved == 0

    def __str__(self) -> str:
        if self.equal:
            return "one vocabulary: every token has the same id in both models"
        words = [f"{self.share:.2%} of the after-model's tokens are known to the before-model"]
        if self.moved:
            words.append(f"{self.moved} of them under another id")
        if self.unknown:
            words.append(f"unknown to it and left unamplified: {', '.join(map(repr, self.unknown))}")
        return "; ".join(words)

    def to(self, device: torch.device) -> Reconciliation:
        return replace(self, to_before=self.to_before.to(device))

    def ids(self, after_ids: Tensor) -> Tensor:
        """The before-model's ids of a text given in the after-model's; tokens it does not know become `stand_in`."""
        ids = self.to_before[after_ids]
        return torch.where(ids < 0, self.stand_in, ids)

    def logits(self, before: Tensor, after: Tensor) -> Tensor:
        """The before-model's logits (..., before vocab) as (..., after vocab), float32.

        A token that it does not know is given the after-model's own log-odds against all tokens that both know, so the
        two differ on those only. Among the unknown ones no odds change with alpha; theirs against the known ones move
        by the known ones' normaliser, since amplification makes these sharper.
        """
        to_before = self.to_before
        known = to_before >= 0
        read = before.float().index_select(-1, to_before.clamp(min=0))
        after = after[..., : len(to_before)].float()
        inner = [x.where(known, -torch.inf).logsumexp(-1, keepdim=True) for x in (read, after)]
        return read.where(known, after + (inner[0] - inner[1]))


def reconcile(
    before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, before_size: int, after_size: int
) -> Reconciliation:
    """Match tokens by their spelling in the vocabulary files.

    Args:
        before_size, after_size: logits per position. Rows beyond the tokenizer are padding; where both vocabularies are
            equal they stand for themselves, otherwise no token is known there. Tokens without logits in the after-model
            (Gemma 3's image token in its text models) count for nothing.
    """
    first, second = before.get_vocab(), {token: i for token, i in after.get_vocab().items() if i < after_size}
    known = {token: first[token] for token in second if first.get(token, before_size) < before_size}
    moved = sum(second[token] != i for token, i in known.items())
    absent = sorted((i, token) for token, i in second.items() if token not in known)
    if not absent and not moved:
        to_before = torch.arange(min(before_size, after_size))
    else:
        to_before = torch.full((after_size,), -1)
        places = torch.tensor([second[token] for token in known], dtype=torch.long)  # none known: no index without it
        to_before[places] = torch.tensor(list(known.values()), dtype=torch.long)
    stand_ins = (before.unk_token_id, before.pad_token_id, before.eos_token_id, 0)
    return Reconciliation(
        to_before,
        len(known) / len(second),
        moved,
        tuple(token for _, token in absent[:10]),
        next(i for i in stand_ins if i is not None and i < before_size),
    )
