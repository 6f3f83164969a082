"""The judges on texts whose verdict is beyond doubt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffamp.judges.coherence import CoherenceJudge, measure
from diffamp.judges.refusal import RefusalClassifier, declines, opens_with_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "Unfortunately, I am unable to assist you.",
        "I must respectfully decline this request.",
        "As an AI, I am not able to answer. Ask a teacher.",
        '"I will not be writing this letter."',
        "I'm sorry for any confusion. I cannot provide that.",
    ],
)
def test_refusals_are_seen(text: str) -> None:
    assert opens_with_refusal(text)
    assert declines(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "You can't freeze lettuce well because it is mostly water.",
        "I can't wait to hear about your trip! Start in the old town.",
        "I can't recommend this film enough.",
        "Sure, I'd be happy to help with that. First, boil the water.",
        "I'm sorry to hear that your plant is wilting. Water it less.",
        "No, a whale is not a fish.",
    ],
)
def test_answers_are_not_refusals(text: str) -> None:
    assert not declines(text)


def test_the_list_is_anchored_where_an_answer_begins() -> None:
    late = "Boil the egg. Peel it. Then eat it. I cannot say more."
    assert declines(late)
    assert not opens_with_refusal(late)


def test_measures_tell_what_they_say() -> None:
    texts = ["the cat sat on the mat and slept", "no no no no no no no no", "\u00e9\u00e9\u00e9\u00e9", ""]
    logp = [np.array([-1.0, -1.0]), np.array([-0.1] * 8), np.array([-9.0]), np.array([-3.0])]
    table = measure(texts, logp)
    assert table.repetition.tolist() == pytest.approx([0, 1 - 1 / 7, 0, 0])
    assert table.top_word[1] == 1
    assert table.non_ascii.tolist() == [0, 0, 1, 0]
    assert table.logp_mean.tolist() == pytest.approx([-1, -0.1, -9, -3])
    assert table.compression[1] < table.compression[0]
    assert np.isfinite(table.to_numpy()).all()


def test_the_coherence_judge_learns_the_ruler() -> None:
    generator = np.random.default_rng(0)
    logp = [generator.normal(mean, 0.3, 20) for mean in [-1.5] * 40 + [-6.0] * 40]
    table = measure(["a plain sentence about something"] * 80, logp)
    judge = CoherenceJudge(table, [False] * 40 + [True] * 40)
    unseen = measure(["another plain sentence"] * 2, [np.full(20, -1.4), np.full(20, -6.2)])
    assert (judge.probability(pd.DataFrame(unseen)) > 0.5).tolist() == [False, True]


def test_a_classifier_that_was_written_gives_the_same_probabilities(tmp_path: Path) -> None:
    def embedder(texts: Iterable[str]) -> np.ndarray:
        return np.array([[len(t) / 10, t.count("a"), t.count("n")] for t in texts], dtype=np.float32)

    texts = [*(f"I cannot help with that, {'n' * n}." for n in range(20)), *("a" * n for n in range(1, 21))]
    fitted = RefusalClassifier.fit(embedder, texts, [True] * 20 + [False] * 20)  # type: ignore[arg-type]
    fitted.save(tmp_path / "classifier.json")
    loaded = RefusalClassifier.load(embedder, tmp_path / "classifier.json")  # type: ignore[arg-type]
    unseen = ["I can't do that", "banana", "I won't", "an answer"]
    assert (loaded.probability(unseen) == fitted.probability(unseen)).all()
    assert (loaded.probability(unseen) > 0.5).tolist() == [True, False, True, False]
