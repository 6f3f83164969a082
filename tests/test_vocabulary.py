"""Two vocabularies made one: moved ids change nothing, unknown tokens stay unamplified, too many are refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from conftest import PROMPTS, batch, continue_, random_adapter, tiny_model, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffamp.engine.amplify import amplify
from diffamp.engine.checkpoints import PairError
from diffamp.engine.loading import checkpoint_pair
from diffamp.engine.pairs import SeparatePair
from diffamp.engine.sampling import sample_grid
from diffamp.engine.scoring import score
from diffamp.engine.vocabulary import Reconciliation, reconcile
from diffamp.prompts import Prompt

GRID = [Prompt("a", "any", "a cat"), Prompt("b", "any", "dogs and cats in the garden")]
ALPHAS = [-1.0, 0.0, 1.0]


def respelled(
    tokenizer: PreTrainedTokenizerBase, names: Mapping[str, str] | None = None, order: Tensor | None = None
) -> PreTrainedTokenizerBase:
    """The same tokenizer with other names for some special tokens, or with token i under the id order[i]."""
    names = names or {}
    new = torch.arange(len(tokenizer)) if order is None else order
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"]["vocab"] = {names.get(t, t): int(new[i]) for t, i in content["model"]["vocab"].items()}
    for token in content["added_tokens"]:
        token |= {"content": names.get(token["content"], token["content"]), "id": int(new[token["id"]])}
    content["added_tokens"].sort(key=lambda token: token["id"])
    special = {k: names.get(v, v) for k, v in tokenizer.special_tokens_map.items()}
    found = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), padding_side="left", **special
    )
    template = tokenizer.chat_template
    for old, name in names.items():
        template = template.replace(old, name)
    found.chat_template = template
    return found


def moved(model: PreTrainedModel, order: Tensor) -> PreTrainedModel:
    """The same model with token i under the id order[i]."""
    size = model.config.vocab_size
    found = tiny_model(vocab=size, **{key: int(order[getattr(model.config, key)]) for key in SPECIAL})
    found.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer, old in (
            (found.get_input_embeddings(), model.get_input_embeddings()),
            (found.get_output_embeddings(), model.get_output_embeddings()),
        ):
            layer.weight[order] = old.weight
    return found


SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
SIZE = len(tiny_tokenizer())
ORDER = torch.randperm(SIZE, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def two(tokenizer: PreTrainedTokenizerBase) -> tuple[SeparatePair, SeparatePair]:
    """One pair twice: with one vocabulary, and with the before-model's tokens under other ids."""
    before = tiny_model(vocab=SIZE)
    after = random_adapter(before).merge_and_unload()
    vocabulary = reconcile(respelled(tokenizer, order=ORDER), tokenizer, SIZE, SIZE)
    return (
        SeparatePair(before, after, tokenizer),
        SeparatePair(moved(before, ORDER), after, tokenizer, vocabulary=vocabulary),
    )


def everywhere(pair: SeparatePair) -> tuple[Tensor, Tensor]:
    """Both models' logits at every position of a padded batch."""
    inputs = batch(PROMPTS)
    return pair.logits(**inputs, position_ids=(inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0))


# One vocabulary


def test_equal_vocabularies_are_the_identity(tokenizer: PreTrainedTokenizerBase) -> None:
    found = reconcile(tokenizer, tiny_tokenizer(), 160, 160)
    assert found.equal
    assert torch.equal(found.to_before, torch.arange(160))  # padding stands for itself
    assert (found.share, found.moved, found.unknown) == (1, 0, ())
    assert str(found) == "one vocabulary: every token has the same id in both models"
    before, after = torch.randn(2, 3, 160).unbind(0)
    assert torch.equal(found.logits(before, after), before)
    assert torch.equal(found.ids(torch.arange(160)), torch.arange(160))


def test_one_of_them_padded_further_is_the_identity(tokenizer: PreTrainedTokenizerBase) -> None:
    for sizes in ((160, 192), (192, 160)):
        found = reconcile(tokenizer, tokenizer, *sizes)
        assert found.equal
        assert torch.equal(found.to_before, torch.arange(160))


def test_a_token_without_logits_counts_for_nothing() -> None:
    """As Gemma 3's image token, which its text models' tokenizer lists one beyond their logits."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"])
    found = reconcile(tokenizer, tokenizer, SIZE, SIZE)
    assert found.equal
    found = reconcile(respelled(tiny_tokenizer(), {"</s>": "<end>"}), tokenizer, SIZE, SIZE)
    assert found.unknown == ("</s>",)
    assert len(found.to_before) == SIZE


def test_a_tokenizer_with_holes_is_the_identity() -> None:
    """Ids beyond the number of tokens."""
    tokenizer = tiny_tokenizer()
    order = torch.arange(SIZE)
    order[SIZE - 1] = 150
    holed = respelled(tokenizer, order=order)
    assert max(holed.get_vocab().values()) == 150
    assert reconcile(holed, holed, 160, 160).equal


# Moved ids


def test_moved_ids_are_found(tokenizer: PreTrainedTokenizerBase) -> None:
    found = reconcile(respelled(tokenizer, order=ORDER), tokenizer, SIZE, SIZE)
    assert torch.equal(found.to_before, ORDER)
    assert found.share == 1
    assert found.moved == int((torch.arange(SIZE) != ORDER).sum())
    assert not found.equal
    assert f"{found.moved} of them under another id" in str(found)


def test_a_before_model_with_permuted_rows_gives_the_same_logits(two: tuple[SeparatePair, SeparatePair]) -> None:
    (before, after), (found, same) = (everywhere(pair) for pair in two)
    torch.testing.assert_close(found, before, atol=1e-5, rtol=0)
    assert torch.equal(same, after)


def test_alpha_minus_one_is_the_before_model_whatever_its_ids(two: tuple[SeparatePair, SeparatePair]) -> None:
    plain, permuted = two
    wanted = continue_(plain.modules[0], PROMPTS)
    assert continue_(permuted.amplify(-1.0), PROMPTS) == wanted
    assert continue_(permuted.amplify(0.0), PROMPTS) == continue_(plain.modules[1], PROMPTS)
    own = continue_(permuted.modules[0], [ORDER[p].tolist() for p in PROMPTS[:1]])  # in its own ids
    assert own == [ORDER[p].tolist() for p in wanted[:1]]


def test_what_is_sampled_from_a_permuted_pair_is_what_is_sampled_from_the_plain_one(
    two: tuple[SeparatePair, SeparatePair],
) -> None:
    wanted, found = (sample_grid(pair, GRID, ALPHAS, 2, max_new_tokens=5, token_budget=300) for pair in two)
    assert found["tokens"].map(list).tolist() == wanted["tokens"].map(list).tolist()
    assert found["text"].tolist() == wanted["text"].tolist()
    for name in ("logp_before", "logp_after", "logp_alpha"):
        for one, other in zip(found[name], wanted[name], strict=True):
            assert list(one) == pytest.approx(list(other), abs=1e-4)


def test_the_before_models_end_tokens_are_read_in_the_after_models_ids(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    before, after = tiny_model(vocab=SIZE), tiny_model(vocab=SIZE, seed=1)
    vocabulary = reconcile(respelled(tokenizer, order=ORDER), tokenizer, SIZE, SIZE)
    before.generation_config.eos_token_id = [int(ORDER[9]), int(ORDER[5])]
    after.generation_config.eos_token_id = 2
    assert SeparatePair(before, after, tokenizer, vocabulary=vocabulary).end_tokens == [2, 5, 9]


def test_an_end_token_that_the_after_model_does_not_know_ends_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    before, after = tiny_model(vocab=SIZE), tiny_model(vocab=SIZE, seed=1)
    vocabulary = reconcile(respelled(tokenizer, {"<s>": "<end>"}), tokenizer, SIZE, SIZE)
    before.generation_config.eos_token_id = 1  # <end>, <s> in the after-model
    assert SeparatePair(before, after, tokenizer, vocabulary=vocabulary).end_tokens == [2]


# Unknown tokens


@st.composite
def unlike(draw: st.DrawFn) -> tuple[Reconciliation, Tensor, Tensor]:
    """A vocabulary with moved and unknown tokens, and the logits of both models in their own ids."""
    known, unknown, more = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
    ids = draw(st.permutations([*draw(st.permutations(range(known + more)))[:known], *[-1] * unknown]))
    values = st.floats(-12, 12, width=32)
    before = draw(arrays("float32", (2, known + more), elements=values))
    after = draw(arrays("float32", (2, len(ids)), elements=values))
    found = Reconciliation(torch.tensor(ids), known / len(ids), 0, (), 0)
    return found, torch.from_numpy(before), torch.from_numpy(after)


@given(unlike())
def test_the_before_model_is_itself_on_known_tokens_and_the_after_model_on_the_others(
    case: tuple[Reconciliation, Tensor, Tensor],
) -> None:
    vocabulary, before, after = case
    known = vocabulary.to_before >= 0
    read = vocabulary.logits(before, after)
    assert torch.equal(read[:, known], before[:, vocabulary.to_before[known]])
    law, other = (x.double().log_softmax(-1) for x in (read, after))
    # as likely as in the after-model, each of them: their log-probs did not change
    torch.testing.assert_close(law[:, ~known], other[:, ~known], atol=1e-4, rtol=1e-5)


@given(unlike(), st.floats(-3, 8, width=32))
def test_known_tokens_are_amplified_as_if_there_were_no_others(
    case: tuple[Reconciliation, Tensor, Tensor], alpha: float
) -> None:
    vocabulary, before, after = case
    known = vocabulary.to_before >= 0
    found = amplify(vocabulary.logits(before, after), after, alpha)[:, known].double().log_softmax(-1)
    plain = amplify(before[:, vocabulary.to_before[known]], after[:, known], alpha).double().log_softmax(-1)
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-5)


@given(unlike(), st.floats(-3, 8, width=32))
def test_unknown_tokens_stay_unamplified(case: tuple[Reconciliation, Tensor, Tensor], alpha: float) -> None:
    """Against each other nothing changes; against a known token only as much as that token was amplified."""
    vocabulary, before, after = case
    known = vocabulary.to_before >= 0
    found = amplify(vocabulary.logits(before, after), after, alpha).double()
    others = found[:, ~known]
    torch.testing.assert_close(
        others - others[:, :1], (after[:, ~known] - after[:, ~known][:, :1]).double(), atol=2e-4, rtol=1e-5
    )
    # log-odds against a known token: the after-model's, less alpha times that token's change among known tokens
    inner, outer = (x.double().log_softmax(-1) for x in (before[:, vocabulary.to_before[known]], after[:, known]))
    odds = others[:, :1] - found[:, known]
    wanted = (after[:, ~known][:, :1] - after[:, known]).double() - alpha * (outer - inner)
    torch.testing.assert_close(odds, wanted, atol=1e-3, rtol=1e-5)
    # against all of them: the after-model's, less what amplification gains in sum (nothing at -1 and at 0)
    gain = ((1 + alpha) * outer - alpha * inner).logsumexp(-1, keepdim=True)
    whole = others[:, :1] - found[:, known].logsumexp(-1, keepdim=True)
    wanted = after[:, ~known][:, :1].double() - after[:, known].double().logsumexp(-1, keepdim=True)
    torch.testing.assert_close(whole + gain, wanted, atol=1e-3, rtol=1e-5)


@given(unlike())
def test_the_ends_are_the_after_model_and_the_before_model_on_known_tokens(
    case: tuple[Reconciliation, Tensor, Tensor],
) -> None:
    vocabulary, before, after = case
    known = vocabulary.to_before >= 0
    read = vocabulary.logits(before, after)
    assert torch.equal(amplify(read, after, 0.0), after)
    assert torch.equal(amplify(read, after, -1.0)[:, known], before[:, vocabulary.to_before[known]])


def test_a_token_that_the_before_model_does_not_know_is_shown_to_it_as_another(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    renamed = respelled(tokenizer, {"<s>": "<begin>"})
    found = reconcile(renamed, tokenizer, SIZE, SIZE)
    assert (found.unknown, found.moved) == (("<s>",), 0)
    assert found.share == pytest.approx(1 - 1 / SIZE)
    assert found.stand_in == renamed.pad_token_id == 0
    assert found.ids(torch.tensor([[1, 7], [2, 1]])).tolist() == [[0, 7], [2, 0]]
    assert "unknown to it and left unamplified: '<s>'" in str(found)


def test_the_stand_in_has_a_row(tokenizer: PreTrainedTokenizerBase) -> None:
    padded = tiny_tokenizer()
    padded.add_special_tokens({"pad_token": "<blank>"})
    assert padded.pad_token_id == SIZE  # a row that the model does not have
    assert reconcile(padded, tokenizer, SIZE, SIZE).stand_in == padded.eos_token_id


def test_padding_of_two_vocabularies_is_unknown(tokenizer: PreTrainedTokenizerBase) -> None:
    found = reconcile(respelled(tokenizer, {"<s>": "<begin>"}), tokenizer, 160, 192)
    assert len(found.to_before) == 192
    assert (found.to_before[SIZE:] == -1).all()


def test_a_pair_with_renamed_tokens_is_sampled_and_scored_alike(tokenizer: PreTrainedTokenizerBase) -> None:
    before = tiny_model(vocab=160)
    after = random_adapter(tiny_model(vocab=192)).merge_and_unload()
    vocabulary = reconcile(respelled(tokenizer, {"<s>": "<begin>"}), tokenizer, 160, 192)
    pair = SeparatePair(before, after, tokenizer, vocabulary=vocabulary)
    assert pair.vocab_size == 192
    found = sample_grid(pair, GRID, ALPHAS, 2, max_new_tokens=5, token_budget=300)
    scored = score(pair, list(zip(found["prompt"], found["tokens"], strict=True)), ALPHAS)
    for number, row in found.iterrows():
        of_row = scored[(scored["text"] == number) & (scored["alpha"] == row["alpha"])]
        for name in ("logp_before", "logp_after", "logp_alpha"):
            assert of_row[name].tolist() == pytest.approx(list(row[name]), abs=1e-4)


# From folders


def folders(
    tmp_path: Path, before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, *models: PreTrainedModel
) -> tuple[Path, Path]:
    for name, tokenizer, model in zip(("before", "after"), (before, after), models, strict=True):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path / "before", tmp_path / "after"


def test_two_folders_with_permuted_ids(
    tmp_path: Path, two: tuple[SeparatePair, SeparatePair], caplog: pytest.LogCaptureFixture
) -> None:
    plain, permuted = two
    tokenizer = plain.tokenizer
    with caplog.at_level(logging.WARNING):
        pair = checkpoint_pair(
            *folders(tmp_path, respelled(tokenizer, order=ORDER), tokenizer, *permuted.modules), "fp32"
        )
    assert "under another id" in caplog.text
    for found, wanted in zip(everywhere(pair), everywhere(plain), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_two_folders_with_one_vocabulary_need_no_translation(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    pair = checkpoint_pair(*folders(tmp_path, tokenizer, tokenizer, tiny_model(), tiny_model(vocab=192)), "fp32")
    assert pair.vocabulary is None
    assert pair.vocab_size == 160


def test_too_little_overlap_is_refused_with_the_remedy(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    letters = {t: f"<{t}>" for t, i in tokenizer.get_vocab().items() if len(t) == 1 and i < 30}
    other = tiny_tokenizer()
    content = json.loads(other.backend_tokenizer.to_str())
    content["model"]["vocab"] = {letters.get(t, t): i for t, i in content["model"]["vocab"].items()}
    content["model"]["merges"] = []
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), **tokenizer.special_tokens_map
    )
    share = 1 - len(letters) / SIZE
    assert share < 0.95
    both = folders(tmp_path, other, tokenizer, tiny_model(), tiny_model(seed=1))
    with pytest.raises(PairError) as refused:
        checkpoint_pair(*both, "fp32")
    for words in ("of before and after do not match", f"`overlap` of the pair below {share:.3f}", "choose two models"):
        assert words in str(refused.value)
    pair = checkpoint_pair(*both, "fp32", overlap=0.5)
    assert pair.vocabulary is not None
    assert pair.vocabulary.share == pytest.approx(share)


def test_no_token_in_common_is_refused_in_the_same_words(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"] |= {"vocab": {f"[{t}]": i for t, i in content["model"]["vocab"].items()}, "merges": []}
    content["added_tokens"] = []
    foreign = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), eos_token="[</s>]")
    both = folders(tmp_path, foreign, tokenizer, tiny_model(), tiny_model(seed=1))
    with pytest.raises(PairError, match=r"do not match: 0.00% of the after-model's tokens are known"):
        checkpoint_pair(*both, "fp32")
