"""What a precision does to a pair, beside what the fine-tune did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from diffamp.common_axis import fine_tunes
from diffamp.engine.loading import load_pair
from diffamp.engine.scoring import noise_floor, score
from diffamp.params import Params, Precision
from diffamp.stats import means

BITS: dict[Precision, int] = {"nf4": 4, "bf16": 16, "fp32": 32}
FINE_TUNE, ROUNDING = "fine-tune", "rounding, alpha {:g}"
"""What moved a law."""


def twins(params: Params, names: Sequence[str]) -> dict[str, str]:
    """Pair -> the pair of the same weights in a finer precision, where both are among `names`."""
    shows = fine_tunes(params, names)
    bits = {n: BITS[params.pair(n).precision] for n in names}
    return {low: high for low in names for high in names if shows[low] == shows[high] and bits[low] < bits[high]}


def cost(params: Params, pairs: Mapping[str, str], answers: pd.DataFrame, per_pair: int = 16) -> pd.DataFrame:
    """Divergences on the finer pair's unamplified answers, in nats per token, with 95 % intervals over answers.

    Args:
        pairs: `twins`.
        answers: with the columns pair, alpha, prompt and tokens; the first `per_pair` at alpha 0 of each are read.

    Returns:
        pair (the coarser), what (`FINE_TUNE`: KL(after || before) in the finer precision; `ROUNDING`: KL(finer ||
        coarser) of the amplified law), n, mean, low, high.
    """
    tables = []
    for low, high in pairs.items():
        said = answers[(answers.pair == high) & (answers.alpha == 0)].drop_duplicates("prompt_id").head(per_pair)
        texts = list(zip(said.prompt, said.tokens, strict=True))
        exact = load_pair(params, high)
        noise = noise_floor(load_pair(params, low), exact, texts, [0.0, 1.0])
        # at alpha -1 the law is the before-model's
        moved = score(exact, texts, [-1.0]).rename(columns={"kl_after_alpha": "kl"})[["text", "kl"]]
        parts = [moved.assign(what=FINE_TUNE), noise.assign(what=noise.alpha.map(ROUNDING.format))]
        tables.append(pd.concat(parts, ignore_index=True).assign(pair=low))
    if not tables:
        return pd.DataFrame(columns=["pair", "what", "n", "mean", "low", "high"])
    return means(pd.concat(tables, ignore_index=True), ["pair", "what"], "kl", cluster="text")
