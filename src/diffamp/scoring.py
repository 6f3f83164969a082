"""Given texts, what both models and every amplified law say of each token. One pair of passes serves all alphas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffamp.pairs import ModelPair
from diffamp.prompts import encode
from diffamp.sampling import Law


def teacher_forced(
    pair: ModelPair, texts: Sequence[tuple[str, Sequence[int]]], token_budget: int = 2048
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Both models' logits at every token of given answers.

    Args:
        texts: (prompt, ids of the answer).
        token_budget: padded tokens in a batch; bounds the logits held at a time.

    Yields:
        index of the text; before, after: (answer tokens, vocab) raw logits that predict each of its tokens.
    """
    encoded = [(encode(pair.tokenizer, prompt), [int(t) for t in answer]) for prompt, answer in texts]
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i][0]) - len(encoded[i][1]))
    while order:
        width = sum(map(len, encoded[order[0]]))
        batch, order = order[: max(1, token_budget // width)], order[max(1, token_budget // width) :]
        ids = torch.full((len(batch), width), pair.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for n, i in enumerate(batch):
            prompt, answer = encoded[i]
            ids[n, width - len(prompt) - len(answer) :] = torch.tensor(prompt + answer)
            mask[n, width - len(prompt) - len(answer) :] = 1
        longest = max(len(encoded[i][1]) for i in batch)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        ids, mask, positions = (t.to(pair.device) for t in (ids, mask, positions))
        before, after = pair.logits(ids, mask, positions, logits_to_keep=longest + 1)
        for n, i in enumerate(batch):
            said = slice(-1 - len(encoded[i][1]), -1)  # the logits at a position predict the next token
            yield i, before[n, said], after[n, said]


@torch.inference_mode()
def score(
    pair: ModelPair,
    texts: Sequence[tuple[str, Sequence[int]]],
    alphas: Sequence[float] = (0.0,),
    law: Law | None = None,
    token_budget: int = 2048,
) -> pd.DataFrame:
    """Log-probs and divergences of every token of given answers, in nats.

    Returns:
        One row per text, token and alpha: text, position, token, alpha, logp_before, logp_after, logp_alpha,
        kl_alpha_after.
    """
    law = law or Law()
    frames = []
    for i, before, after in teacher_forced(pair, texts, token_budget):
        tokens = torch.tensor([int(t) for t in texts[i][1]], dtype=torch.long, device=before.device)
        for alpha in alphas:
            values = law.score(before, after, torch.full((len(tokens),), alpha, device=before.device), tokens)
            columns = dict(
                zip(("logp_before", "logp_after", "logp_alpha", "kl_alpha_after"), values.T.cpu().numpy(), strict=False)
            )
            frames.append(
                pd.DataFrame(
                    {"text": i, "position": np.arange(len(tokens)), "token": tokens.cpu(), "alpha": alpha, **columns}
                )
            )
    return pd.concat(frames).sort_values(["text", "alpha", "position"], ignore_index=True)
