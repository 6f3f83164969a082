"""Samples from several amplified laws of one pair, each weighed under all of them, and no longer than it takes.

Both models' logits are at hand at every token that is drawn, so the log-probs under every component cost no pass of a
model. Sampling stops at an answer's deciding prefix (`diffamp.truerate.events`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffamp.engine.graphs import new_batch
from diffamp.engine.law import Law, inverse_cdf
from diffamp.engine.noise import uniforms
from diffamp.engine.pairs import ModelPair
from diffamp.engine.prefill import Prefill
from diffamp.engine.sampling import NonFiniteLogitsError, check_grid
from diffamp.prompts import Prompt
from diffamp.truerate.estimators import balance_ratios
from diffamp.truerate.events import Event, log_complement

ROWS = 64
"""Rows whose laws are held at a time, all components of each."""


@dataclass(frozen=True)
class Mixture:
    """How many samples of every prompt are drawn at which alpha; alpha 0, the defensive component, comes first."""

    alphas: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.alphas) != len(self.counts) or not self.alphas or min(self.counts) < 1:
            raise ValueError(f"a mixture needs a count of at least 1 for each alpha: {self.alphas}, {self.counts}")
        if self.alphas[0] != 0 or len(set(self.alphas)) != len(self.alphas):
            raise ValueError(f"alphas must be distinct and begin with 0.0, which bounds the weights; got {self.alphas}")

    @classmethod
    def defensive(cls, alpha: float, share: float, samples: int) -> Mixture:
        """`samples` per prompt, about `share` of them at alpha 0 and the others at `alpha`, at least one of each."""
        if alpha == 0:
            return cls((0.0,), (samples,))
        if samples < 2:
            raise ValueError(f"two components need at least two samples per prompt, got {samples}")
        at_zero = min(max(1, round(share * samples)), samples - 1)
        return cls((0.0, alpha), (at_zero, samples - at_zero))

    @property
    def samples(self) -> int:
        return sum(self.counts)

    @property
    def shares(self) -> list[float]:
        return [n / self.samples for n in self.counts]

    @property
    def bound(self) -> float:
        """The most that a weight can be."""
        return self.samples / self.counts[0]

    @property
    def models(self) -> int:
        """Models that run at every token: the before-model only where something is amplified."""
        return 1 if len(self.alphas) == 1 else 2


@torch.inference_mode()
def sample_mixture(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    event: Event,
    mixture: Mixture,
    *,
    law: Law | None = None,
    seed: int = 0,
    token_budget: int = 8192,
) -> pd.DataFrame:
    """Answers from every component of a mixture, up to their deciding prefixes.

    Args:
        event: its `open_tokens` let the weight of a miss be that of leaving the event, whatever token did it.
        token_budget: as for `diffamp.engine.sampling.sample_grid`.

    Returns:
        One row per answer: prompt_id, alpha (the component), sample, hit, tokens, and log_probs (tokens, components):
        of each token under every component, in nats; where the last one decides against the event and `open_tokens` is
        known, of all tokens that do so. Every sample of a prompt has its own luck, over all components.

    Raises:
        ValueError: as for `sample_grid`. NonFiniteLogitsError: the models overflowed.
    """
    encoded = check_grid(pair, prompts, mixture.alphas, mixture.samples, event.longest)
    per_unit = max(1, token_budget // max(map(len, encoded)))
    rows = []
    for i in range(0, len(prompts), per_unit):
        unit = _Unit(prompts[i : i + per_unit], event, mixture, law or Law(), seed)
        prefill = Prefill(pair, encoded[i : i + per_unit], token_budget)
        new_batch(prefill, unit.groups, 1, event.longest, token_budget).run(unit.draw)
        rows += unit.records()
    return pd.DataFrame(rows)


def sample_ratios(samples: pd.DataFrame, mixture: Mixture, lengths: Sequence[int] | None = None) -> NDArray[np.float64]:
    """(samples, components) `balance_ratios` of what `sample_mixture` drew.

    Args:
        lengths: tokens of each answer that count; default all. Those beyond the deciding prefix only add noise.
    """
    counted = [None] * len(samples) if lengths is None else lengths
    sums = np.stack([x[:n].sum(0) for x, n in zip(samples.log_probs, counted, strict=True)])
    return balance_ratios(sums, mixture.shares)


class _Unit:
    """The rows of some prompts and what has been drawn for them."""

    def __init__(self, prompts: Sequence[Prompt], event: Event, mixture: Mixture, law: Law, seed: int) -> None:
        self.prompts, self.event, self.mixture, self.law = prompts, event, mixture, law
        components = np.repeat(np.arange(len(mixture.alphas)), mixture.counts)
        self.rows = [(p, int(c), s) for p in range(len(prompts)) for s, c in enumerate(components)]
        samples = mixture.samples
        self.groups = [(p, range(p * samples, (p + 1) * samples)) for p in range(len(prompts))]
        self.luck = np.stack([uniforms(seed, prompts[p].key, s, event.longest) for p, _, s in self.rows])
        self.tokens: list[list[int]] = [[] for _ in self.rows]
        self.log_probs: list[list[list[float]]] = [[] for _ in self.rows]
        self.verdict: list[bool | None] = [None] * len(self.rows)

    def draw(self, rows: Tensor, before: Tensor, after: Tensor, line: Tensor) -> tuple[Tensor, Tensor]:
        """One token for each row, and which of them go on: a `diffamp.engine.batch.Draw`."""
        parts = zip(rows.split(ROWS), line.to(before.device).split(ROWS), strict=True)
        drawn = torch.cat([self._draw(part.tolist(), before[at], after[at]) for part, at in parts])
        return drawn.cpu(), torch.tensor([self.verdict[r] is None for r in rows.tolist()])

    def _draw(self, rows: list[int], before: Tensor, after: Tensor) -> Tensor:
        device = before.device
        steps = torch.tensor([len(self.tokens[r]) for r in rows])
        strength = [self.law.alpha_at(torch.full((len(rows),), a), steps).to(device) for a in self.mixture.alphas]
        laws = torch.stack([self.law.log_probs(before, after, s) for s in strength], 1)  # (rows, components, vocab)
        own = laws[torch.arange(len(rows)), [self.rows[r][1] for r in rows]]
        if not own.amax(-1).isfinite().all():
            raise NonFiniteLogitsError(f"logits are not finite for a prompt among {[p.id for p in self.prompts]}")
        luck = torch.from_numpy(self.luck[rows, steps.numpy()]).to(device)
        tokens = inverse_cdf(own.exp(), luck)
        chosen = laws.gather(-1, tokens[:, None, None].expand(-1, laws.shape[1], 1))[..., 0].double().tolist()
        for row, token, log_prob, law in zip(rows, tokens.tolist(), chosen, laws, strict=True):
            inside = self.event.open_tokens(tuple(self.tokens[row]))
            self.tokens[row].append(token)
            self.verdict[row] = self.event.decide(self.tokens[row])[0]
            if self.verdict[row] is False and inside is not None:
                log_prob = [log_complement(x) for x in law[:, list(inside)].double().tolist()]
            self.log_probs[row].append(log_prob)
        return tokens

    def records(self) -> list[dict[str, object]]:
        return [
            {
                "prompt_id": self.prompts[prompt].id,
                "alpha": self.mixture.alphas[component],
                "sample": sample,
                "hit": bool(self.verdict[row]),
                "tokens": self.tokens[row],
                "log_probs": np.array(self.log_probs[row]),
            }
            for row, (prompt, component, sample) in enumerate(self.rows)
        ]
