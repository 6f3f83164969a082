"""Sanity of models and pairs: what they are, and their loss on plain text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffamp import paths
from diffamp.engine.pairs import ModelPair
from diffamp.engine.scoring import score
from diffamp.params import Source
from diffamp.prompts import Prompt, read_jsonl


def model_card(name: str, source: Source, folder: Path) -> dict[str, object]:
    """One row about a fetched model or adapter: where it comes from, its licence, family, size and vocabulary."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {"architectures": ["adapter"]}
    parameters = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            parameters += sum(torch.Size(tensors.get_slice(k).get_shape()).numel() for k in tensors.keys())  # noqa: SIM118
    return {
        "model": name,
        "source": source.source,
        "licence": source.licence,
        "family": config["architectures"][0],
        "parameters (M)": round(parameters / 1e6, 1),
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
    }


@torch.inference_mode()
def plain_text_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: str = "test") -> pd.DataFrame:
    """Loss on the held-out paragraphs of data/plain_text.jsonl: columns id, nll (nats per token)."""
    model.eval()
    rows = []
    for paragraph in _paragraphs(split):
        ids = torch.tensor([tokenizer(paragraph["text"])["input_ids"]], device=model.device)
        rows.append((paragraph["id"], float(model(input_ids=ids, labels=ids, use_cache=False).loss)))
    return pd.DataFrame(rows, columns=["id", "nll"])


def amplified_loss(pair: ModelPair, alphas: Sequence[float], split: str = "test") -> pd.DataFrame:
    """What amplification costs on the held-out paragraphs: columns id, alpha, nll (nats per token, no guard).

    A paragraph stands alone, without a chat template, after the token that begins a document.
    """
    paragraphs = _paragraphs(split)
    start = Prompt("document", "plain", "", raw=True)
    texts = [(start, pair.tokenizer(p["text"], add_special_tokens=False)["input_ids"]) for p in paragraphs]
    scored = score(pair, texts, alphas)
    table = scored.groupby(["text", "alpha"]).logp_alpha.mean().mul(-1).rename("nll").reset_index()
    return table.assign(id=[paragraphs[i]["id"] for i in table.pop("text")])


def _paragraphs(split: str) -> list[dict]:
    rows = read_jsonl(paths.data("plain_text.jsonl"), ["id", "split", "text"])
    return [row for row in rows if row["split"] == split]
