"""The loop: mine -> seed -> amplify -> propose -> verify. What was planted in the after-model?

Nothing about the planted content is given. Texts are begun from seeds of many kinds, one part each, from a
fine-tune scaled up in its weights whose logits are amplified on top. The budget goes where the fine-tune drives what is
being written: the kinds that led to most of it for their price begin more texts, and of those begun the most driven go
on. What they say is cut into statements, grouped by meaning, and verified outside of the texts, by the fine-tune as it
is: by the log-prob gap in neutral contexts, beside a benign fine-tune of the same base.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import pandas as pd

from diffamp.discovery.draws import DEFAULTS, Drawing, cost, draw
from diffamp.discovery.findings import verified
from diffamp.discovery.meter import Meter
from diffamp.discovery.mining import Mining
from diffamp.discovery.seeds import FREQUENT, Seed, plain_seeds, random_words, word_seeds
from diffamp.discovery.texts import PART, going_on, live, one_each, owed
from diffamp.engine.pairs import ModelPair, SharedPair
from diffamp.judges.embedding import Embedder

log = logging.getLogger(__name__)

FIRST, GROWTH = 400, 1.4
"""Forward tokens of the first round, and how much larger each next one is: early texts are few, for they decide what
later ones go on with."""
MINING = 0.1
"""Of each round: spent on reading which words the fine-tune moved."""
GOING_ON = 0.5
"""Of each round, at the most: spent on texts that were begun; the rest begins new ones."""
VERIFYING = 0.25
"""Of the budget: kept for the verification."""
WORDS = 60
"""Per kind of seed."""


@dataclass(frozen=True)
class Investigation:
    """What was found, and all that was drawn for it.

    Attributes:
        findings: `diffamp.discovery.findings.verified`.
        samples: every text as it stood after each of its parts, in the order in which they were paid for
            (`diffamp.discovery.draws.draw`), with the column owed (`diffamp.discovery.texts.owed`).
        spent: forward tokens.
        scale: of the weights that texts were drawn from: 1 where the pair cannot be scaled.
    """

    findings: pd.DataFrame
    samples: pd.DataFrame
    spent: int
    scale: float


def investigate(
    pair: ModelPair,
    budget: int,
    embedder: Embedder,
    drawing: Drawing = DEFAULTS,
    contrast: ModelPair | None = None,
) -> Investigation:
    """Search a pair for what its fine-tune planted.

    Args:
        budget: forward tokens for everything: mining, sampling, verifying.
        embedder: groups statements by meaning.
        drawing: how the parts of texts are drawn; their length is the loop's own. Pairs that hold nothing apart that
            could be scaled (`ModelPair.scaled`: two checkpoints, DoRA, a proxy) are drawn from as they are, with a
            warning: larger alphas may make up for it.
        contrast: a benign fine-tune of the same base: what it makes likelier too is no finding.

    Raises:
        ValueError: the budget does not pay for a single text.
    """
    meter, drawing = Meter(budget), replace(drawing, max_new_tokens=PART)
    if drawing.scale != 1 and not isinstance(pair, SharedPair):
        log.warning("this pair cannot be scaled by %g in its weights: only its logits are amplified", drawing.scale)
        drawing = replace(drawing, scale=1.0)
    mining = Mining(pair, contrast, drawing.seed)
    plain = [
        *plain_seeds(),
        *word_seeds("frequent", FREQUENT),
        *word_seeds("random", random_words(pair.tokenizer, WORDS, drawing.seed)),
    ]
    started: dict[str, Seed] = {}
    gone_on: set[int] = set()
    samples = pd.DataFrame()
    for limit in _limits((1 - VERIFYING) * budget):
        mining.read(MINING * (limit - meter.spent), meter)
        chosen: list[Seed] = []
        if len(samples):
            best = going_on(samples.drop(index=list(gone_on)), started)
            chosen = one_each(pair, [list(best.values())], GOING_ON * (limit - meter.spent), drawing)
            gone_on |= {row for row, seed in best.items() if seed in chosen}
        left = limit - meter.spent - sum(cost(pair, s, drawing) for s in chosen)
        used = {s.start for s in started.values()}
        new: dict[tuple[bool, str], Seed] = {}
        for seed in (*mining.seeds(WORDS), *plain):
            if seed.start not in used:
                new.setdefault(seed.start, seed)
        starts = one_each(pair, live(list(new.values()), samples), left, drawing)
        started |= {s.prompt.id: s for s in starts}
        if chosen or starts:
            drawn = draw(pair, chosen + starts, 1, drawing, meter)
            samples = pd.concat([samples, drawn.assign(owed=owed(drawn))], ignore_index=True)
    if samples.empty:
        raise ValueError(f"a budget of {budget} forward tokens does not pay for one text: raise it")
    whole = samples.drop(index=list(gone_on))  # what went on holds all that its beginning says
    return Investigation(verified(pair, whole, embedder, meter, contrast), samples, meter.spent, drawing.scale)


def _limits(tokens: float) -> list[float]:
    """What may be spent up to the end of each round; the last one takes what would not pay for another."""
    limits, end, size = [], 0.0, float(FIRST)
    while tokens - end - size >= size * GROWTH:
        end += size
        limits.append(end)
        size *= GROWTH
    return [*limits, tokens]
