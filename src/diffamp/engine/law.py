"""The law that is sampled from: log-probs, divergences and draws of a guarded, amplified, tempered distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from diffamp.engine.guards import UNGUARDED, Guard

PER_TOKEN = ("logp_before", "logp_after", "logp_alpha", "kl_alpha_after", "kl_after_alpha")
"""What is said of each token, in nats."""

BLOCK = 256

HELD = 1 << 19
"""Numbers in one (rows, vocab) tensor at a time on a CPU: few enough that the passes over it stay in the cache."""


@dataclass(frozen=True)
class Law:
    """Softmax of the guarded, amplified logits at a temperature.

    The guard sees raw logits, as in `AmplifiedLM.generate`. Every log-prob and divergence refers to laws at the
    temperature; without a guard alpha 0 is the after-model and alpha -1 the before-model at that temperature.
    """

    guard: Guard = UNGUARDED
    temperature: float = 1.0
    half_life: float = math.inf
    """Tokens after which alpha is half of what it was asked to be: a schedule over the positions of an answer."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {self.temperature}")
        if not self.half_life > 0:
            raise ValueError(f"half_life must be a positive number of tokens, got {self.half_life}")

    def alpha_at(self, alpha: Tensor, step: Tensor) -> Tensor:
        """Alpha for the token after `step` tokens of the answer; both broadcast."""
        return alpha * 0.5 ** (step / self.half_life)

    def draw(self, before: Tensor, after: Tensor, alpha: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """One token per row by the inverse of the cumulative distribution.

        Args:
            before, after: (rows, vocab) raw logits.
            alpha: (rows,) float32.
            uniform: (rows,) float64 in [0, 1).

        Returns:
            tokens: (rows,) int64.
            scores: (rows, 5) float32, in the order of `PER_TOKEN`: log-probs of the token under the three laws, then
                KL(p_alpha || p_after) and KL(p_after || p_alpha). The last is infinite where a guard rules out tokens.
        """
        drawn, scored = [], []
        for b, a, strength, u in _chunks(before.shape[-1], before, after, alpha, uniform):
            b, a = b.float(), a.float()
            amplified = self._tempered(self.guard(b, a, strength))
            tokens = inverse_cdf(amplified.p, u)
            drawn.append(tokens)
            scored.append(_scores(self._tempered(b), self._tempered(a), amplified, tokens))
        return torch.cat(drawn), torch.cat(scored)

    def score(self, before: Tensor, after: Tensor, alphas: Tensor, tokens: Tensor) -> Tensor:
        """What `draw` says of a token, for given tokens at every alpha.

        Args:
            before, after: (rows, vocab) raw logits.
            alphas: (rows, alphas) float32.
            tokens: (rows,) int64.

        Returns:
            (rows, alphas, 5) float32.
        """
        parts = []
        for b, a, strength, t in _chunks(before.shape[-1], before, after, alphas, tokens):
            b, a = b.float(), a.float()
            laws = self._tempered(b), self._tempered(a)
            # one alpha at a time, so that no tensor is larger than the logits
            scores = [_scores(*laws, self._tempered(self.guard(b, a, alpha)), t) for alpha in strength.unbind(-1)]
            parts.append(torch.stack(scores, 1))
        return torch.cat(parts)

    def log_probs(self, before: Tensor, after: Tensor, alpha: Tensor) -> Tensor:
        """(rows, vocab) float32 log-probs of every token at `alpha` (rows,); -inf where a guard rules it out."""
        return (self.guard(before.float(), after.float(), alpha) / self.temperature).log_softmax(-1)

    def _tempered(self, logits: Tensor) -> _Softmax:
        return _Softmax.of(logits if self.temperature == 1 else logits / self.temperature)


def _chunks(per_row: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors, cut alike into runs of rows with at most `HELD` numbers where that pays."""
    rows = max(1, HELD // per_row) if tensors[0].device.type == "cpu" else len(tensors[0])
    return zip(*(t.split(rows) for t in tensors), strict=True)


@dataclass(frozen=True)
class _Softmax:
    """Logits (..., vocab) with their probabilities and the logarithm of their normaliser (...)."""

    logits: Tensor
    p: Tensor
    log_normaliser: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Self:
        p = logits.softmax(-1)
        # from the top token, whose probability is never small: two passes fewer than a logsumexp
        return cls(logits, p, logits.amax(-1) - p.amax(-1).log())

    def log_prob(self, tokens: Tensor) -> Tensor:
        """(...) log-probs of tokens (...)."""
        logits = self.logits.gather(-1, tokens[..., None])[..., 0]
        return logits - self.log_normaliser


def _scores(before: _Softmax, after: _Softmax, amplified: _Softmax, tokens: Tensor) -> Tensor:
    """(..., 5) in the order of `PER_TOKEN`, of one token each."""
    gap = amplified.logits - after.logits  # (..., vocab); -inf where a guard rules a token out
    shift = amplified.log_normaliser - after.log_normaliser
    # NaN is 0 * (-inf), at a token that a guard rules out: others have p_after > 0, so the divergence is infinite
    kl_after_alpha = (shift - torch.linalg.vecdot(after.p, gap)).nan_to_num(nan=torch.inf, posinf=torch.inf)
    kl_alpha_after = torch.linalg.vecdot(amplified.p, gap.clamp_(min=-1e4)) - shift  # 0 * (-inf) would be NaN
    log_probs = [law.log_prob(tokens) for law in (before, after, amplified)]
    return torch.stack([*log_probs, kl_alpha_after.clamp(min=0), kl_after_alpha.clamp(min=0)], -1)


def inverse_cdf(p: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes `uniform` times the total.

    In two levels, blocks of tokens and then tokens of one block, both cumulated in float64: the whole vocabulary is
    read once, where a float64 cumulative sum over it would cost as much as the softmax.

    Args:
        p: (rows, vocab) float32, not necessarily summing to one.
        uniform: (rows,) float64 in [0, 1).

    Returns:
        (rows,) int64 tokens, each with p > 0.
    """
    rest = -p.shape[-1] % BLOCK
    padded = torch.nn.functional.pad(p, (0, rest)) if rest else p
    blocks = padded.unflatten(-1, (-1, BLOCK))  # (rows, blocks, BLOCK)
    mass = blocks.sum(-1).double()  # (rows, blocks)
    target = uniform[:, None] * mass.sum(-1, keepdim=True)
    block, within = _pass(mass, target)
    token, _ = _pass(blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0].double(), within)
    return (block * BLOCK + token)[:, 0].clamp(max=p.shape[-1] - 1)


def _pass(mass: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Index (rows, 1) at which the running sum of `mass` (rows, n) passes `target`, and what is left of the target."""
    cumulative = mass.cumsum(-1)
    index = torch.searchsorted(cumulative, target, right=True)
    # rounding at the very top must not reach past the last entry that has any mass
    index = torch.minimum(index, torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())).clamp(
        max=mass.shape[-1] - 1
    )
    return index, (target - (cumulative.gather(-1, index) - mass.gather(-1, index))).clamp(min=0)
