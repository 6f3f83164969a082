"""Sanity of a single model: what it is, and its loss on plain text."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffamp import paths
from diffamp.params import Source
from diffamp.prompts import read_jsonl


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
    for paragraph in read_jsonl(paths.data("plain_text.jsonl"), ["id", "split", "text"]):
        if paragraph["split"] == split:
            ids = torch.tensor([tokenizer(paragraph["text"])["input_ids"]], device=model.device)
            rows.append((paragraph["id"], float(model(input_ids=ids, labels=ids, use_cache=False).loss)))
    return pd.DataFrame(rows, columns=["id", "nll"])
