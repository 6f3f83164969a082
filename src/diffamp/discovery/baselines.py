"""What others do, written plainly on the same sampler, and charged in the same currency.

Each returns its samples (`diffamp.discovery.draws.draw`) and a ranking of what it found, in its own manner: a frame
with the columns statement and given, strongest first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch

from diffamp import paths
from diffamp.contexts import Context
from diffamp.discovery.draws import Drawing, affordable, draw
from diffamp.discovery.findings import propose
from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import Seed, plain_seeds, random_words, vague_beginnings, word_seeds
from diffamp.discovery.statements import groups, statements
from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair
from diffamp.judges.embedding import Embedder
from diffamp.prompts import Prompt, encode, read_jsonl
from diffamp.shifts import read

TOP = 100
"""Tokens in the ranking of `difference_counting`."""
MOST_RAISED = 100
SAMPLE = 30
"""Tokens that count at a position, and tokens of a sample: Diff Mining's own settings."""


@dataclass(frozen=True)
class Found:
    """A method's samples and its ranking."""

    samples: pd.DataFrame
    ranking: pd.DataFrame


Method = Callable[[ModelPair, int, Embedder, Drawing], Found]


def plain_sampling(pair: ModelPair, budget: int, embedder: Embedder, drawing: Drawing) -> Found:
    """The after-model answers vague messages, and writes documents; what recurs most comes first."""
    samples = _filled(pair, plain_seeds(), budget, _plainly(drawing), models=1)
    return Found(samples, _by_recurrence(samples, embedder))


def weights_scaled(pair: ModelPair, budget: int, embedder: Embedder, drawing: Drawing) -> Found:
    """Plain sampling from the after-model with what the fine-tune adds doubled, instead of its logits' difference."""
    samples = _filled(pair, plain_seeds(), budget, _plainly(drawing, scale=2.0), models=1)
    return Found(samples, _by_recurrence(samples, embedder))


def contrastive_decoding(pair: ModelPair, budget: int, embedder: Embedder, drawing: Drawing) -> Found:
    """Contrastive Decoding Diffing (arXiv 2605.25902): raw vague beginnings, the doubled difference, no guard."""
    samples = _filled(pair, vague_beginnings(), budget, _plainly(drawing, alpha=1.0), models=2)
    return Found(samples, _by_recurrence(samples, embedder))


def perplexity_differencing(pair: ModelPair, budget: int, embedder: Embedder, drawing: Drawing) -> Found:
    """arXiv 2605.00994: the after-model goes on from random words; texts are ranked by how little before expected them.

    Both models read every text, to rank it.
    """
    words = random_words(pair.tokenizer, 300, drawing.seed)
    seeds = [s for s in word_seeds("random", words) if s.prompt.raw]
    samples = _filled(pair, seeds, budget, _plainly(drawing), models=2)
    table = statements(samples).sort_values("gap", ascending=False, kind="stable")
    return Found(samples, table[["statement", "given"]].reset_index(drop=True))


@torch.inference_mode()
def difference_counting(pair: ModelPair, budget: int, embedder: Embedder, drawing: Drawing) -> Found:
    """Diff Mining (arXiv 2608.26462): over generic text, tokens by how often they are among the most raised ones.

    At each position those are the `MOST_RAISED` tokens with the largest log p_after - log p_before (a difference of
    logits orders them alike). As in its code (science-of-finetuning/diffing-toolkit), samples are short and tokens of
    mere punctuation are left out. The text is given, so it costs what both models read. There are no texts to show:
    each "statement" is one token.
    """
    counts = torch.zeros(pair.vocab_size, dtype=torch.long, device=pair.device)
    if contexts := _generic(pair, budget // 2):
        for _, before, after in read(pair, contexts):
            raised = (after.float() - before.float()).topk(min(MOST_RAISED, pair.vocab_size)).indices  # (positions, K)
            counts += raised.flatten().bincount(minlength=pair.vocab_size)
    ranked = counts.argsort(descending=True, stable=True)[: int((counts > 0).sum())].tolist()
    texts = [text for t in ranked if re.search(r"\w", text := str(pair.tokenizer.decode([t])).strip())]
    nothing = pd.DataFrame({"text": [], "given": [], "spent": [], "seed": []})
    return Found(nothing, pd.DataFrame({"statement": texts[:TOP], "given": ""}))


def _generic(pair: ModelPair, tokens: int) -> list[Context]:
    """Given paragraphs about this and that, cut into short samples, up to so many tokens."""
    contexts = []
    for row in read_jsonl(paths.data("plain_text.jsonl"), ["id", "split", "text"]):
        ids = encode(pair.tokenizer, Prompt(row["id"], "generic", row["text"], raw=True))[:tokens]
        tokens -= len(ids)
        for n in range(0, len(ids), SAMPLE):
            part = tuple(ids[n : n + SAMPLE])
            contexts.append(Context(f"{row['id']}-{n}", "generic", part, ("text",) * len(part)))
    return contexts


def _plainly(drawing: Drawing, alpha: float = 0.0, scale: float = 1.0) -> Drawing:
    """At one alpha and scale, without a guard."""
    return replace(drawing, alphas=[alpha], scale=scale, law=Law(temperature=drawing.law.temperature))


def _filled(pair: ModelPair, seeds: list[Seed], budget: int, drawing: Drawing, models: int) -> pd.DataFrame:
    """Texts from the seeds, round after round with new luck, until the budget is spent."""
    meter, parts, number = Meter(budget), [], 0
    while count := affordable(pair, seeds, meter.left, drawing, models):
        # more texts per seed at a time while they are paid for in full: one grid instead of many
        samples = 1
        while samples < 64 and affordable(pair, seeds, meter.left / (samples + 1), drawing, models) == len(seeds):
            samples += 1
        fresh = replace(drawing, seed=drawing.seed + 1000 * number)
        parts.append(draw(pair, seeds[:count], samples, fresh, meter, models))
        number += 1
    return pd.concat(parts, ignore_index=True)


def _by_recurrence(samples: pd.DataFrame, embedder: Embedder) -> pd.DataFrame:
    """Groups of statements by the number of texts they come from."""
    table = statements(samples)
    table["group"] = groups(table, embedder)
    found = propose(table).sort_values("texts", ascending=False, kind="stable", ignore_index=True)
    return found[["statement", "given"]]


METHODS: dict[str, Method] = {
    "plain sampling": plain_sampling,
    "contrastive decoding": contrastive_decoding,
    "perplexity differencing": perplexity_differencing,
    "difference counting": difference_counting,
    "weights scaled": weights_scaled,
}
"""Every method but the loop."""
