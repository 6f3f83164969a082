"""Given texts, what both models and every amplified law say of each token. One pair of passes serves all alphas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from diffamp.engine.law import PER_TOKEN, Law
from diffamp.engine.pairs import ModelPair
from diffamp.prompts import Prompt, encode

Text = tuple[str | Prompt, Sequence[int]]
"""A prompt (a user's message where it is a string), and the token ids of an answer to it."""


def teacher_forced(
    pair: ModelPair, texts: Sequence[Text], token_budget: int = 2048
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Both models' logits at every token of given answers.

    Args:
        token_budget: padded tokens in a batch; bounds the logits held at a time.

    Yields:
        index of the text; before, after: (answer tokens, vocab) raw logits that predict each of its tokens. Long texts
        first.
    """
    encoded = [(encode(pair.tokenizer, prompt), [int(t) for t in answer]) for prompt, answer in texts]
    lengths = [len(prompt) + len(answer) for prompt, answer in encoded]
    order = sorted(range(len(encoded)), key=lambda i: -lengths[i])
    while order:
        width = lengths[order[0]]
        batch, order = order[: max(1, token_budget // width)], order[max(1, token_budget // width) :]
        ids = torch.full((len(batch), width), pair.tokenizer.pad_token_id or 0)
        # the logits at a position predict the next token, so each answer is read from its prompt's last token on
        keep = torch.zeros(len(batch), max(len(encoded[i][1]) for i in batch), dtype=torch.long)
        for n, i in enumerate(batch):
            prompt, answer = encoded[i]
            ids[n, : lengths[i]] = torch.tensor(prompt + answer)  # padded on the right, where no token looks
            keep[n, : len(answer)] = torch.arange(len(prompt) - 1, lengths[i] - 1)
        positions = torch.arange(width).expand(len(batch), -1)
        ids, mask, positions, keep = (t.to(pair.device) for t in (ids, torch.ones_like(ids), positions, keep))
        before, after = pair.logits(ids, mask, positions, keep=keep)
        for n, i in enumerate(batch):
            said = len(encoded[i][1])
            yield i, before[n, :said], after[n, :said]


@torch.inference_mode()
def score(
    pair: ModelPair,
    texts: Sequence[Text],
    alphas: Sequence[float] = (0.0,),
    law: Law | None = None,
    token_budget: int = 2048,
) -> pd.DataFrame:
    """Log-probs and divergences of every token of given answers, in nats.

    Returns:
        One row per text, alpha and token: text, alpha, position, token and the columns of `PER_TOKEN`.
    """
    law = law or Law()
    scored = {}
    for i, before, after in teacher_forced(pair, texts, token_budget):
        tokens = torch.tensor([int(t) for t in texts[i][1]], device=before.device)
        strength = law.alpha_at(torch.tensor(alphas)[None], torch.arange(len(tokens))[:, None]).to(before.device)
        values = law.score(before, after, strength, tokens)
        scored[i] = values.transpose(0, 1).flatten(0, 1).cpu().numpy()  # (tokens, alphas, 5) -> (alphas * tokens, 5)
    index = [
        (i, float(alpha), position, int(token))
        for i in range(len(texts))
        for alpha in alphas
        for position, token in enumerate(texts[i][1])
    ]
    frame = pd.DataFrame(index, columns=["text", "alpha", "position", "token"])
    frame[list(PER_TOKEN)] = np.concatenate([scored[i] for i in range(len(texts))])
    return frame


@torch.inference_mode()
def noise_floor(
    pair: ModelPair,
    reference: ModelPair,
    texts: Sequence[Text],
    alphas: Sequence[float],
    law: Law | None = None,
    token_budget: int = 2048,
) -> pd.DataFrame:
    """What rounding alone does to the amplified law: KL(reference || pair) at every token of given answers, in nats.

    Args:
        reference: the same weights with a float32 body (`load_pair(..., float32_body=True)`). Amplification multiplies
            the difference between the two along with the difference between before and after.

    Returns:
        One row per text, alpha and token: text, alpha, position, kl (infinite where rounding takes a token across a
        guard's threshold).
    """
    law = law or Law()
    rows = []
    passes = (teacher_forced(p, texts, token_budget) for p in (pair, reference))
    for (i, *rounded), (_, *exact) in zip(*passes, strict=True):
        for alpha in alphas:
            strength = law.alpha_at(torch.tensor(alpha), torch.arange(len(texts[i][1]))).to(exact[0].device)
            p, q = (law.log_probs(before, after, strength) for before, after in (exact, rounded))
            kl = torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum(-1)
            rows += [(i, float(alpha), position, float(value)) for position, value in enumerate(kl)]
    return pd.DataFrame(rows, columns=["text", "alpha", "position", "kl"])
