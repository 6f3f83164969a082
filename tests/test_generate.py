"""The amplified model under transformers' own generate, for five families and every kind of pair."""

from __future__ import annotations

import copy
from itertools import chain
from threading import Thread

import pytest
import torch
from conftest import FAMILIES, NEW, PROMPTS, VOCAB, batch, continue_, separate, tiny_model
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    TextIteratorStreamer,
    TextStreamer,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    pipeline,
)

from diffamp.engine.amplify import amplify
from diffamp.engine.cache import PairCache
from diffamp.engine.guards import Plausibility
from diffamp.engine.model import AmplifiedLM
from diffamp.engine.pairs import SeparatePair


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_generate_what_the_two_models_generate(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    pair = separate(family, tokenizer)
    before, after = (continue_(m, PROMPTS) for m in pair.modules)
    assert before != after
    assert continue_(pair.amplify(-1.0), PROMPTS) == before
    assert continue_(pair.amplify(0.0), PROMPTS) == after


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ragged_batch_is_its_rows_one_by_one(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = separate(family, tokenizer).amplify(1.5)
    assert continue_(model, PROMPTS) == [continue_(model, [p])[0] for p in PROMPTS]


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_the_logits_of_a_plain_forward(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = separate(family, tokenizer).amplify(1.5)
    with torch.no_grad():
        padded = model(**batch(PROMPTS)).logits
        for row, prompt in zip(padded, PROMPTS, strict=True):
            alone = model(torch.tensor([prompt])).logits[0]
            torch.testing.assert_close(row[-len(prompt) :], alone, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_alpha_per_row(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    pair, alphas = separate(family, tokenizer), [-1.0, 0.5, 4.0]
    rows = continue_(pair.amplify(torch.tensor(alphas)), PROMPTS)
    assert rows == [continue_(pair.amplify(a), [p])[0] for a, p in zip(alphas, PROMPTS, strict=True)]
    twice = {"num_beams": 2, "num_return_sequences": 2}
    one_by_one = [continue_(pair.amplify(a), [p], **twice) for a, p in zip(alphas, PROMPTS, strict=True)]
    assert continue_(pair.amplify(torch.tensor(alphas)), PROMPTS, **twice) == list(chain(*one_by_one))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_classifier_free_guidance_with_the_before_model(
    family: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    pair, alpha = separate(family, tokenizer), 1.5
    before, after = pair.modules
    for prompt in PROMPTS:
        guidance = UnbatchedClassifierFreeGuidanceLogitsProcessor(
            1 + alpha, before, unconditional_ids=torch.tensor([prompt])
        )
        expected = continue_(after, [prompt], logits_processor=LogitsProcessorList([guidance]))
        assert continue_(pair.amplify(alpha), [prompt]) == expected


def test_sampling_with_top_p_at_the_ends_draws_what_the_models_draw(tokenizer: PreTrainedTokenizerBase) -> None:
    pair, drawn = separate("llama", tokenizer), []
    settings = {"do_sample": True, "top_p": 0.8, "temperature": 0.7, "num_return_sequences": 3}
    for model in (pair.amplify(0.0), pair.modules[1], pair.amplify(2.0), pair.amplify(2.0)):
        torch.manual_seed(3)
        drawn.append(continue_(model, PROMPTS, **settings))
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3] != drawn[0]
    assert len(drawn[0]) == 9


@pytest.mark.parametrize("sizes", [(VOCAB, VOCAB), (VOCAB, VOCAB + 32), (VOCAB + 32, VOCAB)])
def test_beam_search_at_the_ends_and_with_padded_vocabularies(
    sizes: tuple[int, int], tokenizer: PreTrainedTokenizerBase
) -> None:
    pair = SeparatePair(*(tiny_model(seed=s, vocab=v) for s, v in enumerate(sizes)), tokenizer)
    model, narrow = pair.amplify(0.0), copy.deepcopy(pair.modules[1])
    narrow.resize_token_embeddings(VOCAB)
    assert model(**batch(PROMPTS)).logits.shape[-1] == model.config.vocab_size == VOCAB
    settings = {"num_beams": 3, "num_return_sequences": 3, "return_dict_in_generate": True, "output_scores": True}
    settings |= {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    output, expected = (m.generate(**batch(PROMPTS), **settings) for m in (model, narrow))
    assert torch.equal(output.sequences, expected.sequences)
    torch.testing.assert_close(output.sequences_scores, expected.sequences_scores)
    scores = [
        m.compute_transition_scores(o.sequences, o.scores, o.beam_indices)
        for m, o in ((model, output), (narrow, expected))
    ]
    torch.testing.assert_close(*scores)


def test_beam_search_between_the_ends_scores_its_own_law(tokenizer: PreTrainedTokenizerBase) -> None:
    model = separate("llama", tokenizer).amplify(1.0)
    settings = {"num_beams": 4, "num_return_sequences": 4, "return_dict_in_generate": True, "output_scores": True}
    found = model.generate(torch.tensor(PROMPTS[1:2]), max_new_tokens=6, do_sample=False, eos_token_id=None, **settings)
    with torch.no_grad():  # without a cache
        log_probs = model(found.sequences, use_cache=False).logits[:, 4:-1].log_softmax(-1)
    own = log_probs.gather(-1, found.sequences[:, 5:, None])[..., 0].mean(-1)
    torch.testing.assert_close(own, found.sequences_scores, atol=1e-4, rtol=1e-4)


def test_it_stops_at_the_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    model = separate("llama", tokenizer).amplify(1.0)
    full = continue_(model, PROMPTS)
    end = full[1][3]
    stopped = continue_(model, PROMPTS, eos_token_id=end)
    cut = [row[: row.index(end) + 1] if end in row else row for row in full]
    width = max(map(len, cut))
    assert stopped == [row + [0] * (width - len(row)) for row in cut]


def test_streamers_and_pipeline_give_the_text_that_generate_gives(
    tokenizer: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = separate("llama", tokenizer).amplify(1.0), "a cat in the garden"
    inputs = tokenizer(text, return_tensors="pt")
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = tokenizer.decode(model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :])
    assert expected.strip()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    thread = Thread(target=model.generate, kwargs={**inputs, **settings, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()
    model.generate(**inputs, **settings, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out == expected + "\n"
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    (answer,) = pipe(text, return_full_text=False, skip_special_tokens=False, **settings)
    assert answer["generated_text"] == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_the_output_holds_both_models_logits(family: str, keep: int, tokenizer: PreTrainedTokenizerBase) -> None:
    pair, guard = separate(family, tokenizer), Plausibility(0.1)
    before, after = (copy.deepcopy(m)(**batch(PROMPTS[1:2])).logits[:, -keep:] for m in pair.modules)
    output = SeparatePair(*(m.bfloat16() for m in pair.modules), tokenizer).amplify(2.0, guard)(
        **batch(PROMPTS[1:2]), logits_to_keep=keep
    )
    for logits, own in ((output.before_logits, before), (output.after_logits, after)):
        assert logits.shape == (1, keep or 5, VOCAB)
        assert logits.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(logits, own, dim=-1).min() > 0.99
    assert torch.equal(output.logits, guard(output.before_logits, output.after_logits, 2.0))
    assert isinstance(output.past_key_values, PairCache)
    assert pair.amplify(2.0)(**batch(PROMPTS[1:2]), use_cache=False).past_key_values is None


def test_a_cache_filled_by_another_model_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = separate("llama", tokenizer)
    ids, cache = torch.tensor(PROMPTS[1:2]), DynamicCache(config=pair.config)
    with torch.no_grad():
        pair.modules[0](ids[:, :3], past_key_values=cache)
        with pytest.raises(ValueError, match="filled by another model"):
            pair.amplify(1.0)(ids[:, 3:], past_key_values=cache)
        first = pair.amplify(1.0)(ids[:, :3])
        continued = pair.amplify(1.0)(ids[:, 3:], past_key_values=first.past_key_values)
        whole = pair.amplify(1.0)(ids)
    torch.testing.assert_close(continued.logits, whole.logits[:, 3:], atol=1e-4, rtol=1e-4)
    assert torch.equal(whole.logits, amplify(whole.before_logits, whole.after_logits, 1.0))


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), torch.zeros(2, 2), torch.tensor([0.0, torch.nan])])
def test_an_alpha_that_is_no_number_is_refused(alpha: float | Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="alpha must be"):
        separate("llama", tokenizer).amplify(alpha)


def test_alphas_that_do_not_fit_the_batch_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    model = separate("llama", tokenizer).amplify(torch.tensor([0.0, 1.0]))
    assert isinstance(model, AmplifiedLM)
    with pytest.raises(ValueError, match="2 values for a batch of 3"):
        model(**batch(PROMPTS))
