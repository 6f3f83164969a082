"""Mine one pair's token shifts: `python -m diffamp.stages.shifts NAME`, a name in `shifts.pairs`. Notebook 06's data.

Written into `paths.shifts(NAME)`: tokens.parquet (shifts per kind of context and token), parts.parquet (the tokens
that move most in each part of a context), positions.parquet (KL at every position) and vocabulary.parquet (the tokens'
texts, and groups of those that move most and consistently).
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from diffamp import params, paths
from diffamp.contexts import Context, chat_contexts, first_contexts, random_tokens, text_contexts
from diffamp.independence import CONSISTENCY, TOP, clusters, pooled
from diffamp.loading import load_pair
from diffamp.pairs import ModelPair
from diffamp.params import ShiftsParams
from diffamp.prompts import load_prompts
from diffamp.runtime import setup
from diffamp.shifts import ALL, TokenShifts, mine

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
    """`TokenShifts.table` of every kind, one below the other."""
    tables = [
        shifts.table(kind).assign(kind=kind).rename_axis("token").reset_index()
        for kind, part in shifts.sums
        if part == ALL
    ]
    return pd.concat(tables, ignore_index=True)


def by_part(shifts: TokenShifts) -> pd.DataFrame:
    """The `TOP` tokens that move most in each part of each kind, with the number of contexts that have this part."""
    tables = []
    for kind, part in shifts.sums:
        table = shifts.table(kind, part).rename_axis("token").reset_index()
        table = table.loc[table["mean"].abs().nlargest(TOP).index]
        tables.append(table.assign(kind=kind, part=part, contexts=sum(shifts.contexts[kind, part])))
    return pd.concat(tables, ignore_index=True)


def vocabulary(pair: ModelPair, tokens: pd.DataFrame) -> pd.DataFrame:
    """One row per token: its text, and the group it moves with (-1 for tokens that move little or inconsistently)."""
    table = pooled(tokens)
    moved = table[table.consistency >= CONSISTENCY]
    moved = table.loc[moved["mean"].abs().nlargest(GROUPED).index]
    groups = pd.Series(-1, index=table.token)
    embeddings = pair.modules[-1].get_output_embeddings().weight.detach()
    chosen = torch.from_numpy(moved.token.to_numpy().copy()).to(embeddings.device)
    groups[moved.token] = clusters(embeddings[chosen].float().cpu().numpy())
    return pd.DataFrame(
        {
            "token": groups.index,
            "text": [_text(pair.tokenizer, int(token)) for token in groups.index],
            "group": groups.to_numpy(),
        }
    )


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """What a token stands for; its name in the vocabulary where it is a piece of a character."""
    text = str(tokenizer.decode([token]))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\N{REPLACEMENT CHARACTER}" in text else text


def _compact(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers to four digits (12 bits of mantissa), which halves the file."""
    for column in frame.select_dtypes("floating"):
        bits = frame[column].to_numpy(np.float32).view(np.uint32)
        frame[column] = ((bits + 0x400) & 0xFFFFF800).view(np.float32)
    return frame


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    pair = load_pair(p, name)
    shifts, positions = mine(pair, contexts(pair, p.shifts, p.seed), name)
    tokens = by_kind(shifts)
    folder = paths.shifts(name)
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "tokens": tokens,
        "parts": by_part(shifts),
        "positions": positions,
        "vocabulary": vocabulary(pair, tokens),
    }
    for table, frame in written.items():
        _compact(frame).to_parquet(folder / f"{table}.parquet", index=False, compression="zstd")


if __name__ == "__main__":
    main(sys.argv[1])
