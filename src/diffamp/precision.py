"""What a precision does to a pair, beside what the fine-tune did."""

from __future__ import annotations

import pandas as pd

from diffamp.loading import load_pair
from diffamp.params import Params
from diffamp.scoring import noise_floor, score
from diffamp.stats import means


def twins(params: Params, names: list[str]) -> dict[str, str]:
    """NF4 pair -> the pair of the same weights in bf16, where both are among `names`."""
    weights = {n: params.pair(n).model_dump(exclude={"precision"}) for n in names}
    precision = {n: params.pair(n).precision for n in names}
    return {
        low: high
        for low in names
        for high in names
        if weights[low] == weights[high] and (precision[low], precision[high]) == ("nf4", "bf16")
    }


def cost(params: Params, pairs: dict[str, str], answers: pd.DataFrame, per_pair: int = 16) -> pd.DataFrame:
    """Divergences on the bf16 pair's unamplified answers, in nats per token, with 95 % intervals over answers.

    Args:
        pairs: `twins`.
        answers: with the columns pair, alpha, prompt and tokens; the first `per_pair` at alpha 0 of each are read.

    Returns:
        pair, what ("fine-tune": KL(after || before) in bf16; "quantised, alpha A": KL(bf16 || nf4) of the amplified
        law), n, mean, low, high.
    """
    tables = []
    for low, high in pairs.items():
        said = answers[(answers.pair == high) & (answers.alpha == 0)].drop_duplicates("prompt_id").head(per_pair)
        texts = list(zip(said.prompt, said.tokens, strict=True))
        exact = load_pair(params, high)
        noise = noise_floor(load_pair(params, low), exact, texts, [0.0, 1.0])
        # at alpha -1 the law is the before-model's
        moved = score(exact, texts, [-1.0]).rename(columns={"kl_after_alpha": "kl"})[["text", "kl"]]
        parts = [
            moved.assign(what="fine-tune"),
            noise.assign(what="quantised, alpha " + noise.alpha.map("{:g}".format)),
        ]
        tables.append(pd.concat(parts, ignore_index=True).assign(pair=high))
    return means(pd.concat(tables, ignore_index=True), ["pair", "what"], "kl", cluster="text")
