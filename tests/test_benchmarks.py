"""`make bench` end to end on a tiny pair: every contender does what it is asked for, and the report is made of it."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import random_adapter, tiny_model, tiny_tokenizer

from benchmarks import measure, report
from benchmarks.contenders import CONTENDERS, ENGINE
from benchmarks.machine import facts, slug
from benchmarks.subject import Subject
from diffamp.engine.adapters import shared_pair
from diffamp.engine.pairs import SeparatePair, SoloPair
from diffamp.prompts import Prompt, encode


@pytest.fixture(scope="module")
def subject() -> Subject:
    tokenizer, base = tiny_tokenizer(), tiny_model()
    pair = shared_pair(random_adapter(base), tokenizer)
    assert pair is not None
    return Subject(
        tokenizer=tokenizer,
        wrapped=random_adapter(base),
        after=random_adapter(base).merge_and_unload(),
        pair=pair,
        two=SeparatePair(tiny_model(), random_adapter(base).merge_and_unload(), tokenizer),
        solo=SoloPair(tiny_model(), tokenizer),
        prompts=[Prompt(f"p{i}", "any", "a text about dogs"[: 3 + i]) for i in range(32)],
    )


def test_everything_is_measured_and_reported(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.gc, "collect", lambda: 0)  # before each of a hundred calls
    monkeypatch.setattr(measure, "ALPHAS", [0.0, 1.0])
    monkeypatch.setattr(measure, "GROWTH", {"samples": [1, 2], "new tokens": [2, 4]})
    monkeypatch.setattr(measure, "GROWTH_AT", {"alphas": 2, "samples": 1, "prompts": 2, "new tokens": 2})
    context = len(encode(subject.tokenizer, "Tell the the"))
    effort = measure.Effort(rows=(1, 2), context=context, steps=8, repeats=1, full_grid=False)
    timings = {name: timed(subject, effort) for name, timed in measure.MEASUREMENTS.items()}
    assert {r["contender"] for r in timings["decode"]} == set(CONTENDERS)
    assert {r["new_tokens"] for r in timings["decode"]} == {1, 2, 8}
    text = report.markdown(facts(1), timings)
    for name in CONTENDERS:
        assert f"| {name} |" in text
    assert f"prompt of {context} tokens by 8" in text
    steps = report.decode_steps(pd.DataFrame(timings["decode"]))
    engine = steps[(steps.contender == ENGINE) & (steps.rows == 2)].iloc[0]
    seconds = {r["new_tokens"]: r["seconds"] for r in timings["decode"] if r["contender"] == ENGINE and r["rows"] == 2}
    assert engine.step == pytest.approx((seconds[8] - seconds[2]) / 6)
    assert len(report.figure(timings["decode"]).axes) == 1


def test_results_are_named_by_the_device_that_computes() -> None:
    assert slug({"cpu": "AMD EPYC (family 25, model 17)"}) == "amd-epyc-family-25-model-17"
    assert slug({"cpu": "x", "gpu": "NVIDIA H200"}) == "nvidia-h200"
