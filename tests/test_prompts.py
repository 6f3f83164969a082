"""What a model is given: chat messages, raw texts, and answers that have begun."""

from __future__ import annotations

import pytest
from conftest import separate
from transformers import PreTrainedTokenizerBase

from diffamp.engine.guards import TopK
from diffamp.engine.law import Law
from diffamp.engine.noise import uniforms
from diffamp.engine.sampling import sample_grid
from diffamp.prompts import Prompt, encode


def test_a_message_goes_through_the_template(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.decode(encode(tokenizer, "cats")) == "<s>cats"
    assert encode(tokenizer, Prompt("p", "any", "cats")) == encode(tokenizer, "cats")


def test_a_raw_text_does_not(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.decode(encode(tokenizer, Prompt("p", "any", "cats", raw=True))) == "cats"
    assert tokenizer.decode(encode(tokenizer, Prompt("p", "any", "cats", raw=True, prefill=" and"))) == "cats and"


def test_an_empty_raw_text_is_the_start_of_a_document(tokenizer: PreTrainedTokenizerBase) -> None:
    assert encode(tokenizer, Prompt("p", "any", "", raw=True)) == [tokenizer.bos_token_id]


def test_a_prefill_begins_the_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = encode(tokenizer, Prompt("p", "any", "cats", prefill="dogs"))
    assert ids == encode(tokenizer, "cats") + tokenizer("dogs", add_special_tokens=False)["input_ids"]


def test_contexts_have_luck_of_their_own_and_messages_keep_theirs() -> None:
    contexts = [Prompt("p", "any", "a"), Prompt("p", "any", "a", raw=True), Prompt("p", "any", "a", prefill="b")]
    contexts += [Prompt("p", "any", "", raw=True), Prompt("p", "any", "", raw=True, prefill="b")]
    assert len({tuple(uniforms(0, c.key, 0, 3)) for c in contexts}) == len(contexts)
    assert contexts[0].key == "a"


@pytest.mark.parametrize("raw", [False, True])
def test_the_sampler_goes_on_from_a_prefill(raw: bool, tokenizer: PreTrainedTokenizerBase) -> None:
    """A greedy law says after "x" + "y" what it says after the text "xy"."""
    pair = separate("llama", tokenizer)
    split = Prompt("split", "any", "cats", raw=raw, prefill=" and")
    whole = Prompt("whole", "any", "cats and", raw=raw)
    frames = [sample_grid(pair, [p], [1.0], 1, max_new_tokens=6, law=Law(TopK(1))) for p in (split, whole)]
    same = encode(tokenizer, split) == encode(tokenizer, whole)
    assert same  # or the test would compare two different contexts
    assert frames[0].tokens[0].tolist() == frames[1].tokens[0].tolist()
