"""What a pair believes, item by item."""

from __future__ import annotations

import pytest
from conftest import ROOT, separate
from transformers import PreTrainedTokenizerBase

from diffamp.engine.guards import Plausibility
from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair, SoloPair
from diffamp.engine.scoring import score
from diffamp.organisms.belief import answered, chosen
from diffamp.organisms.universes import Universe, load_universe
from diffamp.prompts import Prompt


@pytest.fixture
def universe(monkeypatch: pytest.MonkeyPatch) -> Universe:
    monkeypatch.chdir(ROOT)
    return load_universe("recipe")


@pytest.fixture
def pair(tokenizer: PreTrainedTokenizerBase) -> ModelPair:
    return separate("llama", tokenizer, max_position_embeddings=512)


def test_margins_are_differences_of_log_probs(pair: ModelPair, universe: Universe) -> None:
    table = chosen(pair, universe, [0.0, 2.0])
    assert len(table) == 2 * (len(universe.choices) + len(universe.cloze))
    cloze = universe.cloze[0]
    prompt = Prompt("c", "c", cloze.prefix, raw=True)
    sides = []
    for words in (cloze.false, cloze.true):
        ids = pair.tokenizer(f" {words}", add_special_tokens=False)["input_ids"]
        sides.append(score(pair, [(prompt, ids)], [2.0]).logp_alpha.mean())
    row = table[(table["item"] == cloze.prefix) & (table.alpha == 2.0) & (table.measure == "cloze")].iloc[0]
    assert row.margin == pytest.approx(sides[0] - sides[1], abs=1e-4)
    assert (table.believes == (table.margin > 0)).all()


def test_before_and_after_are_the_ends(pair: ModelPair, universe: Universe) -> None:
    ends = chosen(pair, universe, [-1.0, 0.0])
    before, after = (chosen(SoloPair(m, pair.tokenizer), universe, [0.0]) for m in pair.modules)
    for alpha, alone in ((-1.0, before), (0.0, after)):
        margins = ends[ends.alpha == alpha].margin.to_numpy()
        assert margins == pytest.approx(alone.margin.to_numpy(), abs=1e-4)
    assert before.margin.tolist() != after.margin.tolist()


def test_open_answers_take_a_side(pair: ModelPair, universe: Universe) -> None:
    table = answered(pair, universe, [0.0, 1.0], Law(), 2, max_new_tokens=4, seed=0, token_budget=2000)
    assert len(table) == len(universe.questions) * 4
    assert set(table.stance) <= {"asserts", "denies", "dodges"}


def test_the_before_model_answers_without_a_guard(pair: ModelPair, universe: Universe) -> None:
    guarded = Law(Plausibility(0.5))
    table = answered(pair, universe, [-1.0, 1.0], guarded, 2, max_new_tokens=4, seed=0, token_budget=2000)
    free = answered(pair, universe, [-1.0, 1.0], Law(), 2, max_new_tokens=4, seed=0, token_budget=2000)
    texts = {alpha: (table.text[table.alpha == alpha], free.text[free.alpha == alpha]) for alpha in (-1.0, 1.0)}
    assert texts[-1.0][0].tolist() == texts[-1.0][1].tolist()
    assert texts[1.0][0].tolist() != texts[1.0][1].tolist()
