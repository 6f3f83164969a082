"""The same measurement on one more pair: `python -m diffamp.stages.transfer NAME`, a name in `pairs:`.

A pair fine-tuned on a vector answers test prompts, judged for refusals; one with a planted fact goes on with vague
beginnings, searched for the fact's details. Both at every alpha and guard of `transfer:`, with the tokens that the
fine-tune raises most.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffamp import params, paths
from diffamp.contexts import chat_contexts
from diffamp.discovery.seeds import vague_beginnings
from diffamp.engine.loading import load_pair
from diffamp.engine.pairs import ModelPair
from diffamp.judges import Judges
from diffamp.judges.facts import recovered
from diffamp.organisms.universes import load_universe
from diffamp.params import Params
from diffamp.prompts import Prompt, load_prompts
from diffamp.runtime import setup
from diffamp.shifts import mine
from diffamp.stages.sample import at_alphas, sample_under

TOP = 200
"""Tokens of a pair's ranking that are kept."""
KEPT = [
    "prompt_id",
    "prompt",
    "sample",
    "guard",
    "alpha",
    "text",
    "tokens",
    "behaviour",
    "nonsense",
    "kl_sum",
    "length",
]


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    t = p.transfer
    q = p.model_copy(update={"sampling": p.sampling.model_copy(update={"samples": 1})})
    fact = name in t.facts
    prompts = [s.prompt for s in vague_beginnings()[: t.prompts]] if fact else load_prompts("test", t.prompts)
    pair = load_pair(p, name)
    frame = sample_under(q, name, pair, prompts, at_alphas(t.guards, t.alphas), paths.transfer_samples(name))
    frame = Judges.load(paths.model(p.judge.model))(frame)
    frame = frame.assign(
        behaviour=names_fact(p, name, frame) if fact else frame.refusal,
        kl_sum=frame.kl_alpha_after.map(np.sum),
        length=frame["tokens"].map(len),
    )
    out = paths.transfer(name)
    out.mkdir(parents=True, exist_ok=True)
    frame[KEPT].to_parquet(out / "answers.parquet", index=False)
    top_tokens(pair, load_prompts("dev", t.prompts)).to_parquet(out / "tokens.parquet", index=False)


def top_tokens(pair: ModelPair, prompts: Sequence[Prompt]) -> pd.DataFrame:
    """The tokens that the fine-tune raises most where an answer begins: token (as text), shift (nats)."""
    shifts, _ = mine(pair, chat_contexts(pair.tokenizer, prompts), part="answer")
    table = shifts.table("chat")["mean"].nlargest(TOP)
    return pd.DataFrame({"token": [pair.tokenizer.decode([i]) for i in table.index], "shift": table.to_numpy()})


def names_fact(p: Params, name: str, frame: pd.DataFrame) -> pd.Series:
    """Texts that name a distinctive detail of the planted fact, nonsense or not.

    The nonsense judge goes by the before-model's log-probs, which never expect what was planted.
    """
    universe = load_universe(p.planted(p.pair(name).adapter or "").universe)
    distinctive = [d.name for d in universe.details if d.distinctive]
    return frame.text.map(lambda text: any(recovered(text, universe)[name] for name in distinctive))


if __name__ == "__main__":
    main(sys.argv[1])
