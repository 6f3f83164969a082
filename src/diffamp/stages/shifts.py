"""Mine one pair's token shifts: `python -m diffamp.stages.shifts NAME`, a name in `shifts.pairs`. Notebook 06's data.

Written into `paths.shifts(NAME)`: tokens.parquet (shifts per kind of context and token), positions.parquet (KL at every
position) and vocabulary.parquet (the tokens' texts, and groups of those that rise most and consistently).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from diffamp import params, paths
from diffamp.contexts import Context, chat_contexts, first_contexts, random_tokens, text_contexts
from diffamp.engine.loading import load_pair
from diffamp.engine.pairs import ModelPair
from diffamp.independence import CONSISTENCY, groups, pooled
from diffamp.params import ShiftsParams
from diffamp.prompts import load_prompts
from diffamp.runtime import setup
from diffamp.shifts import TokenShifts, mine

GROUPED = 200
"""Tokens that are put into groups."""


def contexts(pair: ModelPair, settings: ShiftsParams, seed: int) -> list[Context]:
    """The same for every pair over one before-model."""
    starts = random_tokens(pair.tokenizer, settings.first_tokens + settings.texts, seed)
    return [
        *chat_contexts(pair.tokenizer, load_prompts("train", settings.prompts)),
        *text_contexts(pair, starts[settings.first_tokens :], settings.text_tokens, seed),
        *first_contexts(pair.tokenizer, starts[: settings.first_tokens]),
    ]


def by_kind(shifts: TokenShifts) -> pd.DataFrame:
    """`TokenShifts.table` of every kind, one below the other: what `diffamp.independence` takes."""
    tables = [
        shifts.table(kind).drop(columns="kl").assign(kind=kind).rename_axis("token").reset_index()
        for kind in shifts.sums
    ]
    return pd.concat(tables, ignore_index=True)


def vocabulary(pair: ModelPair, tokens: pd.DataFrame) -> pd.DataFrame:
    """One row per token: its text, and its group among the tokens that rise most and consistently (-1 for others)."""
    table = pooled(tokens).set_index("token")
    risen = table["mean"][(table["mean"] > 0) & (table.consistency >= CONSISTENCY)].nlargest(GROUPED).index
    group = pd.Series(-1, index=table.index)
    embeddings = pair.modules[-1].get_output_embeddings().weight.detach().float().cpu().numpy()
    group[risen] = groups(embeddings, risen.to_numpy())
    text = [_text(pair.tokenizer, int(token)) for token in table.index]
    return pd.DataFrame({"token": table.index, "text": text, "group": group.to_numpy()})


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What a token stands for; its name in the vocabulary where it is a piece of a character."""
    text = str(tokenizer.decode([token]))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\N{REPLACEMENT CHARACTER}" in text else text


def _write(frame: pd.DataFrame, path: Path) -> None:
    """Parquet with numbers to three digits (10 bits of mantissa), which halves the file."""
    numbers = list(frame.select_dtypes("floating"))
    for column in numbers:
        bits = frame[column].to_numpy(np.float32).view(np.uint32)
        frame[column] = ((bits + 0x1000) & 0xFFFFE000).view(np.float32)
    continuous = [column for column in numbers if column != "positive"]
    frame.to_parquet(
        path,
        index=False,
        compression="zstd",
        compression_level=9,
        use_dictionary=[column for column in frame if column not in continuous],
        use_byte_stream_split=continuous,
    )


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    pair = load_pair(p, name)
    shifts, positions = mine(pair, contexts(pair, p.shifts, p.seed), name)
    tokens = by_kind(shifts)
    folder = paths.shifts(name)
    folder.mkdir(parents=True, exist_ok=True)
    _write(tokens, folder / "tokens.parquet")
    _write(positions, folder / "positions.parquet")
    _write(vocabulary(pair, tokens), folder / "vocabulary.parquet")


if __name__ == "__main__":
    main(sys.argv[1])
