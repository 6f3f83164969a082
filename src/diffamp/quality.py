"""Sanity of models and pairs: what they are, and their loss on plain text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from diffamp import paths
from diffamp.engine.checkpoints import parameters, text_config
from diffamp.engine.pairs import ModelPair
from diffamp.engine.scoring import score
from diffamp.params import Source
from diffamp.prompts import Prompt, read_jsonl


def model_card(name: str, source: Source, folder: Path) -> dict[str, object]:
    """One row about a fetched model or adapter: where it comes from, its licence, family, size and vocabulary."""
    config = text_config(folder) if (folder / "config.json").is_file() else None  # an adapter has none
    return {
        "model": name,
        "source": source.source,
        "licence": source.licence,
        "family": "adapter" if config is None else (config.architectures or [config.model_type])[0],
        "parameters (M)": round(parameters(folder) / 1e6, 1),
        "layers": getattr(config, "num_hidden_layers", None),
        "width": getattr(config, "hidden_size", None),
        "vocabulary": getattr(config, "vocab_size", None),
    }


def amplified_loss(pair: ModelPair, alphas: Sequence[float], split: str = "test") -> pd.DataFrame:
    """Loss on the held-out paragraphs of data/plain_text.jsonl: columns id, alpha, nll (nats per token, no guard).

    A paragraph stands alone, without a chat template, after the token that begins a document; its first token counts.

    Args:
        pair: for the loss of one model `diffamp.engine.pairs.SoloPair`, with the alpha 0.
    """
    rows = read_jsonl(paths.data("plain_text.jsonl"), ["id", "split", "text"])
    paragraphs = [row for row in rows if row["split"] == split]
    start = Prompt("document", "plain", "", raw=True)
    texts = [(start, pair.tokenizer(p["text"], add_special_tokens=False)["input_ids"]) for p in paragraphs]
    scored = score(pair, texts, alphas)
    table = scored.groupby(["text", "alpha"]).logp_alpha.mean().mul(-1).rename("nll").reset_index()
    return table.assign(id=[paragraphs[i]["id"] for i in table.pop("text")])
