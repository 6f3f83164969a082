"""What is computed how often, and what happens when memory runs out."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import pytest
import torch
from conftest import FAMILIES, separate, tiny_tokenizer
from test_sampling import ALPHAS, NEW, PROMPTS, assert_same, family_pair, grid
from torch import Tensor

from diffamp.engine import graphs
from diffamp.engine.batch import Batch
from diffamp.engine.pairs import ModelPair
from diffamp.engine.prefill import Prefill
from diffamp.prompts import Prompt, encode

CHAT = [
    Prompt(f"c{i}", "any", f"the garden is a text about {x}") for i, x in enumerate(["dogs", "cats: xyz", "a", "b c"])
]


def passes(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Records (rows, new positions) of every pass of the pair."""
    seen: list[tuple[int, int]] = []
    logits = pair.logits

    def recorded(input_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        seen.append(tuple(input_ids.shape))
        return logits(input_ids, *args, **kwargs)

    monkeypatch.setattr(pair, "logits", recorded)
    return seen


@pytest.mark.parametrize("alphas", [ALPHAS[:1], ALPHAS])
def test_prompts_are_prefilled_once_and_what_they_share_once_for_all(
    alphas: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = separate("llama", tiny_tokenizer())
    seen = passes(pair, monkeypatch)
    grid(pair, CHAT, alphas)
    lengths = [len(encode(pair.tokenizer, p.text)) for p in CHAT]
    ids = [encode(pair.tokenizer, p.text) for p in CHAT]
    shared = next(i for i in range(min(lengths)) if len({row[i] for row in ids}) > 1)
    assert shared > 5
    assert [s for s in seen if s[1] > 1] == [(1, shared), (len(CHAT), max(lengths) - shared)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_beginning_changes_no_number(family: str) -> None:
    pair = family_pair(family)[0]
    together = grid(pair, CHAT)
    for prompt in CHAT:
        alone = grid(pair, [prompt])
        assert_same(together[together["prompt_id"] == prompt.id], alone)


def test_a_prompt_that_begins_another_keeps_its_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = separate("llama", tiny_tokenizer())
    prompts = [Prompt("long", "any", "dogs and cats"), Prompt("short", "any", "dogs")]
    together = grid(pair, prompts)
    assert_same(together[together["prompt_id"] == "short"], grid(pair, prompts[1:]))


@pytest.mark.parametrize("together", [1, 3, 4])
def test_rows_of_one_prompt_enter_together(together: int) -> None:
    pair = family_pair("llama")[0]
    encoded = [encode(pair.tokenizer, p.text) for p in PROMPTS]
    columns = 11 * (max(map(len, encoded)) + 2 * NEW)
    batch = Batch(Prefill(pair, encoded, columns), [(0, [n]) for n in range(100)], together, NEW, columns)
    assert batch.most == {1: 11, 3: 9, 4: 8}[together]


ERRORS = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_that_does_not_fit_is_halved(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pair, expected = family_pair("llama")
    tried: list[int] = []

    class Small(Batch):
        failed: ClassVar[list[weakref.ref[Batch]]] = []

        def __init__(self, *given: Any) -> None:
            assert all(batch() is None for batch in self.failed)  # its memory is free again
            super().__init__(*given)

        def step(self, draw: Any) -> None:
            if len(tried) < 4 and self.clock > self.longest + 2:  # in the middle of the work
                tried.append(self.most)
                self.failed.append(weakref.ref(self))
                raise type(error)(*error.args)
            super().step(draw)

    monkeypatch.setattr(graphs, "Batch", Small)
    found = grid(pair, token_budget=2000)
    assert_same(found, expected)
    assert tried == sorted(tried, reverse=True)
    assert len(set(tried)) > 2
    assert caplog.text.count("out of memory") == 4


def test_when_not_even_one_row_fits_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Batch):
        def __init__(self, *_: Any) -> None:
            raise ERRORS[0]

    monkeypatch.setattr(graphs, "Batch", Never)
    with pytest.raises(MemoryError, match=r"not even one row of \d+ tokens fits"):
        grid(family_pair("llama")[0])


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(graphs, "Batch", fail)
    with pytest.raises(RuntimeError, match="something else"):
        grid(family_pair("llama")[0])
