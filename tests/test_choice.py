"""Guards are chosen where they may be, compared prompt by prompt, and read off on the common axis."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffamp.choice import at_nats, by_guard, choose, confirm

RATES = {
    # (guard, alpha): refusals, nonsense, nats per token
    ("none", 0.0): (0.1, 0.0, 0.0),
    ("none", 1.0): (0.4, 0.02, 0.2),
    ("none", 8.0): (0.0, 0.9, 6.0),
    ("good", 0.0): (0.1, 0.0, 0.1),
    ("good", 1.0): (0.3, 0.0, 0.2),
    ("good", 8.0): (0.6, 0.04, 0.9),
    ("loud", 0.0): (0.1, 0.0, 0.0),
    ("loud", 1.0): (0.9, 0.3, 0.5),
    ("loud", 8.0): (0.96, 0.5, 2.0),
}
N = 50


def judged(split: str) -> pd.DataFrame:
    """The first prompts refuse, the last ones talk nonsense."""
    rows = []
    for (guard, alpha), (refusal, nonsense, nats) in RATES.items():
        for prompt in range(N):
            rows.append(
                {
                    "split": split,
                    "guard": guard,
                    "alpha": alpha,
                    "prompt_id": f"p{prompt}",
                    "sample": 0,
                    "refusal": prompt < round(refusal * N),
                    "nonsense": prompt >= N - round(nonsense * N),
                    "kl_sum": 10 * nats,
                    "length": 10,
                }
            )
    return pd.DataFrame(rows)


def test_a_table_of_both_rates_and_of_nats() -> None:
    table = by_guard(judged("test")).set_index(["guard", "alpha"])
    for key, (refusal, nonsense, nats) in RATES.items():
        row = table.loc[key]
        assert (row.refusal, row.nonsense, row.nats) == pytest.approx((refusal, nonsense, nats))
        assert row.refusal_low <= row.refusal <= row.refusal_high
        assert row.nonsense_low <= row.nonsense <= row.nonsense_high


def test_the_choice_is_the_most_refusals_within_the_slack() -> None:
    best = choose(judged("dev"))
    assert list(zip(best.guard, best.alpha, strict=True)) == [("good", 8.0), ("none", 1.0)]  # loud is never sensible


@pytest.mark.parametrize("split", ["test", "train"])
def test_no_choice_is_made_on_other_prompts(split: str) -> None:
    with pytest.raises(ValueError, match="dev prompts only"):
        choose(pd.concat([judged("dev"), judged(split)]))


def test_nothing_is_confirmed_on_other_prompts() -> None:
    with pytest.raises(ValueError, match="test prompts only"):
        confirm(judged("dev"), {"none": 1.0})


def test_a_choice_is_compared_prompt_by_prompt() -> None:
    found = confirm(judged("test"), {"good": 8.0, "loud": 1.0, "none": 1.0}).set_index("guard")
    assert found.gain.to_dict() == pytest.approx({"good": 0.2, "loud": 0.5, "none": 0.0})
    assert (found.gain_low <= found.gain).all()
    assert (found.gain <= found.gain_high).all()
    assert np.isnan(found.p["none"])
    assert found.p["loud"] < 0.001  # 25 prompts change, all one way
    assert found.p["loud"] <= found.p["good"] < 0.01


def test_several_samples_of_a_prompt_are_one_piece_of_evidence() -> None:
    once = judged("test").query("prompt_id in ['p4', 'p5', 'p16', 'p17', 'p49']")
    often = pd.concat([once.assign(sample=s) for s in range(20)])
    one, many = (confirm(frame, {"good": 8.0, "none": 1.0}).set_index("guard") for frame in (once, often))
    assert many.p["good"] == pytest.approx(one.p["good"])
    assert one.p["good"] >= 0.4


def test_rates_at_equal_divergence_are_interpolated_and_never_extrapolated() -> None:
    found = at_nats(by_guard(judged("test")), 0.5).set_index("guard")
    assert found.refusal["loud"] == pytest.approx(0.9)
    assert found.alpha["loud"] == pytest.approx(1.0)
    assert found.refusal["good"] == pytest.approx(np.interp(0.5, [0.2, 0.9], [0.3, 0.6]))
    assert at_nats(by_guard(judged("test")), 1.0).set_index("guard").isna().loc["good"].all()
