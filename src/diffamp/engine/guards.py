"""What keeps amplified text sensible: guards, each a pure function of both models' logits, composed in a chain.

A guard acts at one or more of three moments, all of them the identity unless overridden:

    difference   changes what is amplified (before-logits in, before-logits out)
    strength     changes how far (alpha in, alpha out, row by row)
    mask         rules tokens out of the amplified law (-inf), or rescales it

so any two compose, and the difference is always taken before anything is masked: (-inf) - (-inf) never arises. Logits
are float32, (..., vocab), raw: before temperature. Guards that look at the law which is sampled from are given its
`temperature`. No guard but a mask changes anything at alpha 0, and none leaves a row without a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffamp.engine.amplify import amplify

NUCLEUS = 1024
"""Tokens among which a nucleus is looked for first: a full sort of the vocabulary costs many times a topk."""


class Guard:
    """The plain equation; what the others override parts of."""

    def difference(self, before: Tensor, after: Tensor) -> Tensor:
        """Before-logits to amplify away from."""
        return before

    def strength(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> float | Tensor:
        """Alpha, or a tensor of its shape broadcast to the leading dimensions."""
        return alpha

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        """Amplified logits with -inf at what is ruled out. May write into `amplified`, never into `after`."""
        return amplified

    def __call__(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor:
        """(..., vocab) amplified, guarded float32 logits. `alpha` broadcasts over the leading dimensions."""
        before, after = before.float(), after.float()
        before = self.difference(before, after)
        return self.mask(after, amplify(before, after, self.strength(before, after, alpha)))


@dataclass(frozen=True)
class Chain(Guard):
    """Guards one after the other, moment by moment. An empty chain is the plain equation."""

    guards: Sequence[Guard] = ()

    def difference(self, before: Tensor, after: Tensor) -> Tensor:
        for guard in self.guards:
            before = guard.difference(before, after)
        return before

    def strength(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> float | Tensor:
        for guard in self.guards:
            alpha = guard.strength(before, after, alpha)
        return alpha

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        for guard in self.guards:
            amplified = guard.mask(after, amplified)
        return amplified


UNGUARDED = Chain()


@dataclass(frozen=True)
class Plausibility(Guard):
    """Keep the tokens whose probability under the after-model is at least `c` times its most probable token's.

    Contrastive decoding's adaptive plausibility constraint (Li et al. 2023, arXiv 2210.15097, c = 0.1).
    """

    c: float = 0.1

    def __post_init__(self) -> None:
        _check("plausibility", "c", self.c, 0 < self.c <= 1, "(0, 1]")

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        threshold = after.amax(-1, keepdim=True) + math.log(self.c)
        return _keep_above(threshold, after, amplified)


@dataclass(frozen=True)
class Floor(Guard):
    """Keep the tokens with at least this probability under the after-model, and always its most probable one."""

    probability: float = 1e-4

    def __post_init__(self) -> None:
        _check("floor", "probability", self.probability, 0 < self.probability < 1, "(0, 1)")

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        threshold = after.logsumexp(-1, keepdim=True) + math.log(self.probability)
        return _keep_above(threshold, after, amplified)


@dataclass(frozen=True)
class AfterTopP(Guard):
    """Keep the after-model's nucleus, taken before the logits are combined (DExperts: Liu et al. 2021, p = 0.9)."""

    p: float = 0.9

    def __post_init__(self) -> None:
        _check("after_top_p", "p", self.p, 0 < self.p <= 1, "(0, 1]")

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        return _keep_above(nucleus_threshold(after, self.p), after, amplified)


def _keep_above(threshold: Tensor, after: Tensor, amplified: Tensor) -> Tensor:
    """Rule out what lies below the threshold, but never the best of what a guard before this one has left."""
    best = after.masked_fill(amplified == -torch.inf, -torch.inf).amax(-1, keepdim=True)
    return amplified.masked_fill_(after < torch.minimum(threshold, best), -torch.inf)


@dataclass(frozen=True)
class TopP(Guard):
    """Keep the nucleus of the amplified law (Holtzman et al. 2020, arXiv 1904.09751): what published scripts do."""

    p: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check("top_p", "p", self.p, 0 < self.p <= 1, "(0, 1]")

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        threshold = self.temperature * nucleus_threshold(amplified / self.temperature, self.p)
        # a hair below: dividing and multiplying by the temperature rounds
        return amplified.masked_fill_(amplified < threshold - 1e-5 * threshold.abs(), -torch.inf)


@dataclass(frozen=True)
class TopK(Guard):
    """Keep the `k` most probable tokens of the amplified law (Fan et al. 2018, arXiv 1805.04833)."""

    k: int = 50

    def __post_init__(self) -> None:
        _check("top_k", "k", self.k, self.k >= 1, "1 or more")

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        threshold = amplified.topk(min(self.k, amplified.shape[-1])).values[..., -1:]
        return amplified.masked_fill_(amplified < threshold, -torch.inf)


@dataclass(frozen=True)
class MinP(Guard):
    """Keep the tokens with at least the share `p` of the amplified law's top probability (arXiv 2407.01082)."""

    p: float = 0.1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check("min_p", "p", self.p, 0 < self.p <= 1, "(0, 1]")

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        threshold = amplified.amax(-1, keepdim=True) + self.temperature * math.log(self.p)
        return amplified.masked_fill_(amplified < threshold, -torch.inf)


@dataclass(frozen=True)
class Clip(Guard):
    """Bound the difference of log-probs of every token to +-`nats`, so that no rare token runs away.

    Log-probs, since a bound on raw logits would depend on the constant that a model's logits are only known up to.
    """

    nats: float = 2.0

    def __post_init__(self) -> None:
        _check("clip", "nats", self.nats, self.nats > 0, "above 0")

    def difference(self, before: Tensor, after: Tensor) -> Tensor:
        shift = after.logsumexp(-1, keepdim=True) - before.logsumexp(-1, keepdim=True)
        return after - (after - before - shift).clamp_(-self.nats, self.nats)


@dataclass(frozen=True)
class Unamplified(Guard):
    """Leave some tokens (end of text, template) with the after-model's log-prob: their difference is set to zero.

    Without it a fine-tune that changed the length of answers is amplified into texts that never end, or never begin.
    """

    tokens: Sequence[int]

    def difference(self, before: Tensor, after: Tensor) -> Tensor:
        index = _index(tuple(self.tokens), before.device)
        shift = after.logsumexp(-1, keepdim=True) - before.logsumexp(-1, keepdim=True)
        return before.index_copy(-1, index, (after - shift)[..., index])


@lru_cache(maxsize=64)
def _index(tokens: tuple[int, ...], device: torch.device) -> Tensor:
    """Made once: a copy to the device at every step would wait for it."""
    return torch.tensor(tokens, device=device)


@dataclass(frozen=True)
class KLCap(Guard):
    """At every step the largest alpha, up to the one asked for, whose law stays within `nats` of the after-model.

    The budget holds for the law before any mask of the same chain: a mask that follows renormalises it, and diverges
    from the after-model by itself. KL(p_alpha || p_after) grows with |alpha|: its derivative is alpha * Var[d], d the
    difference of the logits. The root is found to `tolerance` (relative, in nats) by Newton steps on sqrt(2 KL), which
    is nearly linear in alpha, inside a bracket.
    """

    nats: float = 0.5
    temperature: float = 1.0
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        _check("kl_cap", "nats", self.nats, self.nats > 0, "above 0")

    def strength(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor:
        rows = after.shape[:-1]
        asked = _per_row(alpha, after[..., 0]).expand(rows).flatten()
        after = after.flatten(0, -2) / self.temperature  # (rows, vocab)
        path = _Path(after, after - before.flatten(0, -2) / self.temperature)
        capped = asked.clone()
        over = (path.kl(asked)[0] > self.nats * (1 + self.tolerance)).nonzero()[:, 0]
        if len(over):
            capped[over] = self._root(_Path(path.after[over], path.difference[over]), asked[over])
        return capped.view(rows)

    def _root(self, path: _Path, asked: Tensor) -> Tensor:
        sign, low, high = asked.sign(), torch.zeros_like(asked), asked.abs()
        guess = high / 2
        for _ in range(50):
            kl, variance = path.kl(sign * guess)
            if ((kl - self.nats).abs() <= self.tolerance * self.nats).all():
                break
            low, high = torch.where(kl < self.nats, guess, low), torch.where(kl < self.nats, high, guess)
            root = (2 * kl).sqrt()
            step = guess - (root - math.sqrt(2 * self.nats)) * root / (guess * variance)
            inside = (step > low) & (step < high)  # false for NaN too
            guess = torch.where(inside, step, (low + high) / 2)
        return sign * guess


class _Path:
    """The laws p_alpha, proportional to p_after * exp(alpha * d), as alpha varies; everything (rows, vocab)."""

    def __init__(self, after: Tensor, difference: Tensor) -> None:
        p = after.softmax(-1)
        self.after = after
        self.log_normaliser = after.amax(-1) - p.amax(-1).log()
        # a constant in the difference changes no law; without it the variance below loses no digits
        self.difference = difference - torch.linalg.vecdot(p, difference)[:, None]
        self.square = self.difference.square()

    def kl(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """KL(p_alpha || p_after) and the variance of d under p_alpha: both (rows,)."""
        amplified = torch.addcmul(self.after, alpha[:, None], self.difference)
        p = amplified.softmax(-1)
        mean = torch.linalg.vecdot(p, self.difference)
        variance = torch.linalg.vecdot(p, self.square) - mean.square()
        log_normaliser = amplified.amax(-1) - p.amax(-1).log()
        return (alpha * mean - log_normaliser + self.log_normaliser).clamp(min=0), variance.clamp(min=0)


@dataclass(frozen=True)
class Gate(Guard):
    """Alpha times the Jensen-Shannon divergence of the two models, in bits (0 to 1): amplify where they disagree.

    AdaCAD (Wang et al. 2024, arXiv 2409.07394).
    """

    temperature: float = 1.0

    def strength(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor:
        p, q = ((logits / self.temperature).log_softmax(-1) for logits in (before, after))
        middle = torch.logaddexp(p, q) - math.log(2)
        divergence = sum(torch.linalg.vecdot(x.exp(), x - middle) for x in (p, q)) / 2
        bits = (divergence / math.log(2)).clamp(0, 1)
        return _per_row(alpha, bits) * bits


@dataclass(frozen=True)
class Peaks(Guard):
    """Amplify only where after and before diverge by at least so many nats, KL(p_after || p_before)."""

    nats: float
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _check("peaks", "nats", self.nats, self.nats > 0, "(0, inf)")

    def strength(self, before: Tensor, after: Tensor, alpha: float | Tensor) -> Tensor:
        p, q = ((logits / self.temperature).log_softmax(-1) for logits in (after, before))
        divergence = torch.linalg.vecdot(p.exp(), p - q)
        return _per_row(alpha, divergence) * (divergence >= self.nats)


@dataclass(frozen=True)
class Rescale(Guard):
    """Bring the spread of the amplified logits back to the after-model's, for the share `phi` of the way.

    From classifier-free guidance in diffusion (Lin et al. 2023, arXiv 2305.08891, phi = 0.7).
    """

    phi: float = 0.7

    def __post_init__(self) -> None:
        _check("rescale", "phi", self.phi, 0 <= self.phi <= 1, "[0, 1]")

    def mask(self, after: Tensor, amplified: Tensor) -> Tensor:
        kept = amplified > -torch.inf
        spread = _spread(amplified, kept)
        factor = torch.where(spread > 0, _spread(after, kept) / spread, 1)
        return (amplified * (self.phi * factor + (1 - self.phi))).where(kept, -torch.inf)


def _spread(logits: Tensor, kept: Tensor) -> Tensor:
    """(..., 1) standard deviation over the kept tokens."""
    logits = logits.where(kept, torch.nan)
    return (logits - logits.nanmean(-1, keepdim=True)).square_().nanmean(-1, keepdim=True).sqrt()


def _per_row(alpha: float | Tensor, rows: Tensor) -> Tensor:
    """Alpha in the type of `rows`, its dimensions standing for their leading ones."""
    alpha = torch.as_tensor(alpha, dtype=rows.dtype, device=rows.device)
    return alpha.reshape(*alpha.shape, *[1] * (rows.dim() - alpha.dim()))


def nucleus_threshold(logits: Tensor, p: float) -> Tensor:
    """(..., 1) the logit of the last token of the smallest set of top tokens whose probability reaches `p`."""
    log_normaliser = logits.logsumexp(-1, keepdim=True)
    k = min(NUCLEUS, logits.shape[-1])
    top = logits.topk(k).values
    mass = (top - log_normaliser).exp().cumsum(-1)
    if k < logits.shape[-1] and bool((mass[..., -1] < p).any()):
        top = logits.sort(-1, descending=True).values
        mass = (top - log_normaliser).exp().cumsum(-1)
    last = (mass < p).sum(-1, keepdim=True).clamp(max=top.shape[-1] - 1)
    return top.gather(-1, last)


def _check(guard: str, name: str, value: float, holds: bool, range_: str) -> None:
    if not holds:
        raise ValueError(f"{guard}: {name} must lie in {range_}, got {value}")
