"""The prompts: loading, splits, and the chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from diffamp import paths

Split = Literal["train", "dev", "test"]


class DataError(ValueError):
    """A data file is empty or malformed; the message gives file and line."""


@dataclass(frozen=True)
class Prompt:
    """A user's message, or a raw text to go on with. `id` names it in every table."""

    id: str
    category: str
    text: str
    raw: bool = False
    """The model goes on with `text` itself, without a chat template; an empty text is the start of a document."""
    prefill: str = ""
    """What the answer begins with: given, not drawn."""

    @property
    def key(self) -> str:
        """What noise is keyed by: different contexts have different luck."""
        return self.text if not (self.raw or self.prefill) else f"{self.text}\0{self.prefill}\0{self.raw}"


def read_jsonl(path: Path, keys: Sequence[str]) -> list[dict]:
    """The objects of a JSON Lines file, each checked to have `keys`."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):  # of bytes: str also splits at U+2028
        try:
            row = json.loads(line)
            missing = [k for k in keys if not isinstance(row.get(k), str | int | float | bool)]
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
            raise DataError(f"{path.name} line {number}: not a JSON object in UTF-8") from None
        if missing:
            raise DataError(f"{path.name} line {number}: missing {', '.join(missing)}")
        rows.append(row)
    if not rows:
        raise DataError(f"{path.name} is empty: it needs one JSON object per line with {', '.join(keys)}")
    return rows


def load_prompts(split: Split, limit: int | None = None) -> list[Prompt]:
    """Prompts of one split, the categories interleaved, so that any first `limit` of them are balanced."""
    rows = read_jsonl(paths.data("prompts.jsonl"), ["id", "category", "split", "text"])
    by_category: dict[str, list[Prompt]] = {}
    for row in rows:
        if row["split"] == split:
            by_category.setdefault(row["category"], []).append(Prompt(row["id"], row["category"], row["text"]))
    turns = zip_longest(*(by_category[c] for c in sorted(by_category)))
    prompts = [p for turn in turns for p in turn if p is not None]
    if limit is not None and limit > len(prompts):
        raise DataError(
            f"prompts.jsonl has {len(prompts)} {split} prompts, {limit} were asked for; lower the number in params.yaml"
        )
    return prompts[:limit]


def load_refusals(split: Split) -> list[str]:
    """Short first sentences of refusals, from which the vector is learned."""
    rows = read_jsonl(paths.data("refusals.jsonl"), ["id", "split", "text"])
    return [r["text"] for r in rows if r["split"] == split]


def load_exemplars(label: Literal["refusal", "answer", "nonsense"]) -> list[str]:
    """Written example answers of one kind, on which the refusal classifier is fitted."""
    rows = read_jsonl(paths.data("exemplars.jsonl"), ["id", "label", "text"])
    return [r["text"] for r in rows if r["label"] == label]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str | Prompt) -> list[int]:
    """Token ids of a prompt as the model expects it: its chat template up to the answer, or the plain text.

    Args:
        prompt: a user's message, or a `Prompt`. A raw one of no token becomes the token that begins a document.
    """
    if isinstance(prompt, str):
        prompt = Prompt("", "", prompt)
    if prompt.raw or tokenizer.chat_template is None:
        ids = list(tokenizer(prompt.text + prompt.prefill)["input_ids"])
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return ids if ids or start is None or not prompt.raw else [start]
    messages = [{"role": "user", "content": prompt.text}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]
    return [*ids, *(tokenizer(prompt.prefill, add_special_tokens=False)["input_ids"] if prompt.prefill else [])]
