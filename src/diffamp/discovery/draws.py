"""Samples from seeds, charged to a meter, with what the fine-tune had to do with each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import Seed
from diffamp.engine.cache import PairCache
from diffamp.engine.guards import Plausibility
from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair, SharedPair, SoloPair
from diffamp.engine.sampling import sample_grid
from diffamp.prompts import encode


class _After(SoloPair):
    """The after-half of a pair as a model of its own: the pair has prepared it for the sampler already."""

    def __init__(self, pair: SharedPair, model: PreTrainedModel) -> None:
        self.pair, self.tokenizer, self.modules, self.vocab_size = pair, pair.tokenizer, [model], pair.vocab_size

    def layers(self, capacity: int | None = None, column: Tensor | None = None) -> PairCache:
        return PairCache(self.pair.layers(capacity, column).layers, [])


@contextmanager
def after_alone(pair: ModelPair) -> Iterator[ModelPair]:
    """The after-model at the price of one, for methods that need no other.

    A pair that does not share its weights is given back as it is: it runs both, and its after-side says the same.
    """
    if isinstance(pair, SharedPair):
        with pair.only("after") as model:
            yield _After(pair, model)
    else:
        yield pair


@dataclass(frozen=True)
class Drawing:
    """How texts are drawn; as it stands, what notebook 07 was run with.

    Attributes:
        alphas: of the logits.
        scale: of what the fine-tune adds to the weights, beforehand (`diffamp.engine.pairs.ModelPair.scaled`). At
            these settings a text holds a planted fact more often under both than under either alone, in more broken
            prose, and at most dilutions for more forward tokens than under the weights alone, which leave no gaps to
            search by (`diffamp.discovery.amplifiers` holds them beside each other).
        max_new_tokens: of a text.
        seed: of the noise, and of random seed words.
        token_budget: tokens that a batch holds at the most (`diffamp.engine.sampling.sample_grid`).
    """

    alphas: Sequence[float] = (1.0,)
    scale: float = 2.0
    law: Law = field(default_factory=lambda: Law(Plausibility(0.02), 0.8))
    max_new_tokens: int = 32
    seed: int = 0
    token_budget: int = 12288


DEFAULTS = Drawing()
PER_TOKEN = ("tokens", "gaps", "terms", "ends")
"""Columns of `draw` with one number for each token (`diffamp.discovery.seeds.Begun`)."""


def draw(
    pair: ModelPair, seeds: Sequence[Seed], samples: int, drawing: Drawing, meter: Meter, models: int = 2
) -> pd.DataFrame:
    """`samples` texts per seed and alpha.

    Args:
        models: that a method has to run: 1 where it reads nothing but the after-model.

    Raises:
        ValueError: the pair cannot be scaled as the drawing says.

    Returns:
        One row per text, as it stands now with what was begun: seed (its id), arm, kind, given, alpha (of what was
        drawn now), text; of each token tokens, gaps (log p_after - log p_before in nats, where after is the model drawn
        from, scaled; 0 for one model), terms (p_after times that) and ends (letters of the text up to its end); gap
        (the mean of gaps); ended (with the end token); cost (forward tokens: of what was drawn now, and of the prompt
        where it is its seed's first text) and spent (forward tokens after this row).
    """
    with pair.scaled(drawing.scale), after_alone(pair) if models == 1 else nullcontext(pair) as run:
        frame = sample_grid(
            run,
            [s.read for s in seeds],
            drawing.alphas,
            samples,
            max_new_tokens=drawing.max_new_tokens,
            law=drawing.law,
            seed=drawing.seed,
            token_budget=drawing.token_budget,
            shared=False,  # every text is charged as if it were the only one
            desc="seeds",
        )
    by_id = {s.read.id: s for s in seeds}
    of = [by_id[i] for i in frame.prompt_id]
    given = frame.prompt_id.map({i: len(encode(pair.tokenizer, s.read)) for i, s in by_id.items()})
    cost = models * (frame["tokens"].map(len) + given * ~frame.prompt_id.duplicated())
    before = meter.spent
    meter.charge(int(cost.sum()))
    own = [np.asarray(a) - np.asarray(b) for a, b in zip(frame.logp_after, frame.logp_before, strict=True)]
    ends = [_ends(pair.tokenizer, tokens) + len(s.begun.text) for s, tokens in zip(of, frame["tokens"], strict=True)]
    terms = [np.exp(a) * gap for a, gap in zip(frame.logp_after, own, strict=True)]
    per_token = {"tokens": frame["tokens"], "gaps": own, "terms": terms, "ends": ends}
    whole = {
        name: [np.concatenate([getattr(s.begun, name), part]) for s, part in zip(of, parts, strict=True)]
        for name, parts in per_token.items()
    }
    return pd.DataFrame(
        {
            "seed": [s.prompt.id for s in of],
            "arm": [s.arm for s in of],
            "kind": [s.kind for s in of],
            "given": [s.given for s in of],
            "alpha": frame.alpha,
            "text": [s.begun.text + text for s, text in zip(of, frame.text, strict=True)],
            "gap": [float(np.mean(gaps)) for gaps in whole["gaps"]],
            **whole,
            "ended": frame.finish == "end",
            "cost": cost,
            "spent": before + cost.cumsum(),
        }
    )


def _ends(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> NDArray[np.int64]:
    """Letters of the text that these tokens have made, after each of them."""
    beginnings = [list(tokens[: n + 1]) for n in range(len(tokens))]
    texts = tokenizer.batch_decode(beginnings, skip_special_tokens=True)
    return np.array([len(text) for text in texts], dtype=np.int64)


def cost(pair: ModelPair, seed: Seed, drawing: Drawing, models: int = 2) -> int:
    """Forward tokens for one text per alpha, at full length."""
    return models * (len(encode(pair.tokenizer, seed.read)) + len(drawing.alphas) * drawing.max_new_tokens)


def affordable(pair: ModelPair, seeds: Sequence[Seed], tokens: float, drawing: Drawing, models: int = 2) -> int:
    """How many of these seeds can be drawn from once per alpha for so many forward tokens."""
    total = 0
    for n, seed in enumerate(seeds):
        total += cost(pair, seed, drawing, models)
        if total > tokens:
            return n
    return len(seeds)
