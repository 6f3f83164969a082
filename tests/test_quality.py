"""What a model is, and its loss on plain text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ROOT, tiny_model
from transformers import PreTrainedTokenizerBase

from diffamp.engine.pairs import SoloPair
from diffamp.params import PathSource
from diffamp.prompts import Prompt, encode, read_jsonl
from diffamp.quality import amplified_loss, model_card

SOURCE = PathSource(source="path", path="here", licence="none")


def test_a_card_says_what_a_folder_holds(model_folder: Path, tmp_path: Path) -> None:
    card = model_card("tiny", SOURCE, model_folder)
    assert (card["family"], card["layers"], card["width"], card["vocabulary"]) == ("LlamaForCausalLM", 2, 32, 160)
    assert card["parameters (M)"] == round(sum(p.numel() for p in tiny_model().parameters()) / 1e6, 1)
    adapter = model_card("adapter", SOURCE, tmp_path)
    assert (adapter["family"], adapter["layers"], adapter["parameters (M)"]) == ("adapter", None, 0.0)


def test_every_token_of_a_paragraph_counts(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    model = tiny_model(max_position_embeddings=1024)
    losses = amplified_loss(SoloPair(model, tokenizer), [0.0]).set_index("id").nll
    paragraphs = [r for r in read_jsonl(ROOT / "data" / "plain_text.jsonl", ["id"]) if r["split"] == "test"]
    assert list(losses.index) == [p["id"] for p in paragraphs]
    start = encode(tokenizer, Prompt("document", "plain", "", raw=True))
    said = tokenizer(paragraphs[3]["text"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_probs = tiny_model(max_position_embeddings=1024)(torch.tensor([start + said])).logits[0].log_softmax(-1)
    expected = -log_probs[len(start) - 1 : -1].gather(1, torch.tensor(said)[:, None]).mean()
    assert losses.iloc[3] == pytest.approx(expected.item(), abs=1e-3)
