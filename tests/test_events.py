"""Events that a prefix decides, and their exact probability."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import FAMILIES, separate, tiny_tokenizer

from diffamp.engine.guards import Plausibility
from diffamp.engine.law import Law
from diffamp.engine.sampling import sample_grid
from diffamp.engine.scoring import score
from diffamp.prompts import Prompt
from diffamp.truerate.events import TextEvent, Trie, log_complement, openings, outcome_log_probs

PROMPTS = [Prompt("a", "any", "a text about cats"), Prompt("b", "any", "dogs in the garden, and a cat")]
TRIE = Trie(((5, 9), (5, 7, 11), (5, 7, 12), (8,), (30, 31, 32, 33)))
ALPHAS = [0.0, 1.0, -1.0, 3.0]
LAW = Law(temperature=0.7)


def test_the_verdict_comes_with_the_first_token_that_decides() -> None:
    assert TRIE.decide([5, 7, 12, 1, 1]) == (True, 3)
    assert TRIE.decide([8]) == (True, 1)
    assert TRIE.decide([5, 8]) == (False, 2)
    assert TRIE.decide([2]) == (False, 1)
    assert TRIE.decide([5, 7]) == (None, 2)
    assert TRIE.decide([]) == (None, 0)
    assert TRIE.longest == 4
    assert list(TRIE.open_tokens((5, 7))) == [11, 12]


def test_outcomes_are_all_that_can_happen() -> None:
    generator = np.random.default_rng(0)
    answers = generator.choice([5, 7, 9, 8, 11, 12, 30, 31, 32, 33, 1], size=(3000, 4)).tolist()
    deciding = {tuple(answer[: TRIE.decide(answer)[1]]) for answer in answers}
    leaves = {tokens for tokens, hit in TRIE.outcomes if hit}
    inner = {tokens for tokens, hit in TRIE.outcomes if not hit}
    assert all(prefix in leaves or prefix[:-1] in inner for prefix in deciding)
    assert TRIE.lengths.tolist() == [len(t) + (not hit) for t, hit in TRIE.outcomes]
    assert TRIE.hits.sum() == 5


@pytest.mark.parametrize(
    ("leaves", "message"),
    [((), "at least one"), (((1,), ()), "no empty one"), (((1, 2), (1,)), r"\[1\] begins"), (((1,), (1,)), "twice")],
)
def test_a_trie_is_prefix_free(leaves: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trie(leaves)


def test_a_rule_on_text_decides_where_it_first_holds() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer("a short text about cats")["input_ids"]
    first = next(n for n in range(1, len(ids) + 1) if "text" in tokenizer.decode(ids[:n]))
    event = TextEvent(lambda text: "text" in text, tokenizer, len(ids), [2])
    assert event.decide(ids) == (True, first)
    assert event.decide(ids[: first - 1]) == (None, first - 1)
    assert event.decide([*ids[:2], 2, *ids]) == (False, 3)
    short = TextEvent(lambda text: "text" in text, tokenizer, first - 1, [2])
    assert short.decide(ids) == (False, first - 1)
    with pytest.raises(ValueError, match="at least one token"):
        TextEvent(str.isalpha, tokenizer, 0, [2])
    assert openings(event, [ids, [2], ids]).leaves == (tuple(ids[:first]),)
    with pytest.raises(ValueError, match="none of the 1 answers"):
        openings(event, [[2]])


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_probabilities_are_those_of_teacher_forcing(family: str) -> None:
    pair = separate(family, tiny_tokenizer())
    table = outcome_log_probs(pair, PROMPTS, TRIE, ALPHAS, LAW)
    assert np.exp(table).sum(1) == pytest.approx(1, abs=1e-6)
    texts = [(p.text, leaf) for p in PROMPTS for leaf in TRIE.leaves]
    scores = score(pair, texts, ALPHAS, LAW).groupby(["text", "alpha"]).logp_alpha.sum().unstack()[ALPHAS]
    expected = scores.to_numpy().reshape(len(PROMPTS), len(TRIE.leaves), len(ALPHAS))
    assert table[:, TRIE.hits] == pytest.approx(expected, abs=2e-4)


def test_prompts_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = separate("llama", tiny_tokenizer())
    whole = outcome_log_probs(pair, PROMPTS, TRIE, ALPHAS, LAW)
    monkeypatch.setattr("diffamp.truerate.events.NODES", 1)
    assert outcome_log_probs(pair, PROMPTS, TRIE, ALPHAS, LAW) == pytest.approx(whole, abs=1e-4)


def test_a_guard_may_rule_outcomes_out() -> None:
    pair = separate("llama", tiny_tokenizer())
    table = outcome_log_probs(pair, PROMPTS, TRIE, [1.0], Law(Plausibility(0.9)))
    assert np.isneginf(table).any()
    assert np.exp(table).sum(1) == pytest.approx(1, abs=1e-6)


def test_the_exact_rate_is_the_long_run_frequency() -> None:
    """Of the engine's own samples, at alpha 0 and amplified."""
    pair, samples, alphas = separate("llama", tiny_tokenizer()), 1500, [0.0, 2.0]
    trie = Trie((*((t,) for t in range(3, 40)), *((t, u) for t in range(40, 100) for u in range(3, 80))))
    exact = np.exp(outcome_log_probs(pair, PROMPTS, trie, alphas, LAW))[:, trie.hits].sum(1)
    frame = sample_grid(pair, PROMPTS, alphas, samples, max_new_tokens=2, law=LAW)
    frame["hit"] = [trie.decide(tokens)[0] is True for tokens in frame.tokens]
    found = frame.groupby(["prompt_id", "alpha"]).hit.mean().unstack().to_numpy()
    assert 0.02 < exact.min() < exact.max() < 0.98
    assert (np.abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / samples)).all()


def test_the_complement_of_everything_is_nothing() -> None:
    assert log_complement([np.log(0.25), np.log(0.25)]) == pytest.approx(np.log(0.5))
    assert log_complement([0.0]) == -np.inf
    assert log_complement([]) == 0.0
