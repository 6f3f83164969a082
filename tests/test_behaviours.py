"""Behaviours counted in answers: loops, rates, slopes in alpha, paired changes, where two models differ."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from diffamp.behaviours import (
    LOOP,
    OUTCOMES,
    changes,
    counted,
    elasticities,
    in_both,
    kept,
    listed,
    located,
    loops,
    outcomes,
    per_thousand,
    shown,
    trend,
    where_it_differs,
)

ALPHAS = (-0.5, 0.0, 0.5)


def simulated(slopes: dict[str, float], seed: int, tasks: int = 28, rate: float = 0.03) -> pd.DataFrame:
    """Counts whose log rate per token rises by the slope; the answers to a task share a factor of luck."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        [(f"t{task}", alpha) for task in range(tasks) for alpha in ALPHAS], columns=["prompt_id", "alpha"]
    )
    frame["length"] = rng.integers(40, 112, len(frame))
    for behaviour, slope in slopes.items():
        luck = np.repeat(rng.gamma(4, 1 / 4, tasks), len(ALPHAS))
        frame[behaviour] = rng.poisson(rate * frame.length * luck * np.exp(slope * frame.alpha))
    return frame


def answer(text: str, tokens: int = 20, **columns: object) -> dict[str, object]:
    row = {"prompt_id": "t0", "alpha": 0.0, "share": 1.0, "text": text, "tokens": list(range(tokens)), "finish": "end"}
    return row | {"kl_alpha_after": [0.5] * tokens, "correct": False, "in_format": False} | columns


def test_elasticities_find_known_slopes() -> None:
    truth = {"up": 1.0, "flat": 0.0, "down": -1.0}
    table = elasticities(simulated(truth, seed=0, tasks=2000), list(truth)).set_index("behaviour")
    assert table.slope.to_dict() == pytest.approx(truth, abs=0.08)
    assert table.clear.to_dict() == {"up": True, "flat": False, "down": True}


def test_all_intervals_of_a_table_hold_together() -> None:
    truth = {"a": 0.8, "b": 0.0, "c": -0.5}
    held = []
    for seed in range(40):
        table = elasticities(simulated(truth, seed), list(truth))
        held.append(table.low.le(table.behaviour.map(truth)).all() and table.high.ge(table.behaviour.map(truth)).all())
    assert np.mean(held) > 0.87  # 0.95 less two standard errors


def test_slopes_are_corrected_over_the_groups_of_a_table() -> None:
    frame = simulated({"a": 0.5, "b": 0.0}, seed=1, tasks=40)
    frame["held_out"] = frame.prompt_id.str[-1].isin(list("01234"))
    both = elasticities(frame, ["a", "b"], by=["held_out"])
    alone = elasticities(frame[frame.held_out], ["a", "b"])
    mine = both[both.held_out].reset_index(drop=True)
    assert mine.slope.to_numpy() == pytest.approx(alone.slope.to_numpy())
    assert (mine.high - mine.low > alone.high - alone.low).all()
    assert (mine.p >= alone.p).all()


def test_no_slope_without_events_or_from_one_end_alone() -> None:
    frame = simulated({"seldom": 0.0}, seed=0).assign(seldom=0, late=lambda t: (t.alpha == 0.5).astype(int))
    frame.loc[:3, "seldom"] = 1
    frame["once"] = frame.late
    frame.loc[frame.index[frame.alpha == 0.0][:1], "once"] = 1
    frame["often"] = 1
    table = elasticities(frame, ["seldom", "late", "once", "often"]).set_index("behaviour")
    assert table.slope[["seldom", "late", "once"]].isna().all()
    assert not table.clear[["seldom", "late", "once"]].any()
    assert table.events.to_dict() == {"seldom": 4, "late": 28, "once": 29, "often": 84}
    assert table.low["often"] < table.high["often"] < 1


def test_a_loop_is_a_run_of_tokens_that_occurs_three_times() -> None:
    run = list(range(LOOP))
    assert loops(run * 3)
    assert not loops(run * 2)
    assert loops([*run, 90, *run, 91, *run])
    assert not loops(list(range(100)))
    assert not loops([7] * (LOOP + 1))  # two runs
    assert loops([7] * (LOOP + 2))
    assert not loops([])


def test_answers_are_counted() -> None:
    texts = [
        answer("Step 1: 2 + 3 = 5.\nStep 2: Let me check.\nAnswer: 5"),
        answer("It is blue.", finish="length", tokens=120, kl_alpha_after=[0.25] * 120),
    ]
    frame = counted(pd.DataFrame(texts))
    assert frame.step_marker.tolist() == [2, 0]
    assert frame.calculation.tolist() == [1, 0]
    assert frame.worked.tolist() == [True, False]
    assert frame.ended.tolist() == [True, False]
    assert frame.length.tolist() == [20, 120]
    assert frame.nats.tolist() == pytest.approx([10.0, 30.0])
    table = outcomes(frame.assign(prompt_id=["a", "b"]), ["alpha"]).set_index("measure")
    assert set(table.index) == {*OUTCOMES, "length", "nats"}
    assert table.value["worked"] == 0.5
    assert table.value["length"] == 70
    assert table.value["nats"] == pytest.approx(40 / 140)


def test_per_thousand_is_a_ratio_of_sums() -> None:
    frame = simulated({"a": 0.0}, seed=3)
    table = per_thousand(frame, ["alpha"], ["a"])
    first = frame[frame.alpha == ALPHAS[0]]
    assert table.rate[0] == pytest.approx(1000 * first.a.sum() / first.length.sum())
    assert ((table.low < table.rate) & (table.rate < table.high)).all()


def test_few_answers_give_poisson_s_interval() -> None:
    frame = simulated({"a": 0.0}, seed=0)
    frame["length"] = 100  # 28 answers of 100 tokens at each alpha
    frame["a"] = 0
    frame.loc[0, "a"] = 2  # in one answer, at the first alpha
    table = per_thousand(frame, ["alpha"], ["a"])
    assert table.rate.tolist() == pytest.approx([2 / 2.8, 0, 0])
    assert table.high.tolist() == pytest.approx([2 * 5.572 / 2.8, 3.689 / 2.8, 3.689 / 2.8], abs=0.01)
    assert table.low.tolist() == pytest.approx([2 * 0.0253 / 2.8, 0, 0], abs=1e-3)


def pair_of_arms(n: int = 40) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Alpha 0: never in format. Alpha 1: three in four are, and hedge; length is the same."""
    base = pd.DataFrame([answer("It is 5.", prompt_id=f"t{i}") for i in range(n)])
    rows = [answer("Maybe 5." if i % 4 else "5", prompt_id=f"t{i}", in_format=bool(i % 4), alpha=1.0) for i in range(n)]
    return counted(base), counted(pd.DataFrame(rows))


def test_changes_are_paired_by_task_and_corrected() -> None:
    base, after = pair_of_arms()
    table = changes(
        after.sample(frac=1, random_state=0), base, ["alpha"], ["in_format", "correct", "length", "hedging"]
    )
    table = table.set_index("measure")
    assert table.difference.to_dict() == pytest.approx({"in_format": 0.75, "correct": 0, "length": 0, "hedging": 37.5})
    assert table.clear.to_dict() == {"in_format": True, "correct": False, "length": False, "hedging": True}
    assert 0 < table.low["in_format"] < 0.75 < table.high["in_format"] < 1
    assert np.isnan(table.low["length"])  # no task differs
    assert trend(table) == "clearly rises"
    assert trend(table.assign(difference=-table.difference)) == "clearly falls"
    assert trend(table.loc[["correct"]]) == "does not clearly change"
    assert trend(pd.concat([table, table.assign(difference=-table.difference)])).endswith("falls at others")


def test_what_sparse_amplification_keeps() -> None:
    base, whole = pair_of_arms()
    half = whole.assign(share=0.5, in_format=[bool(i % 4 == 1 or i % 8 == 2) for i in range(len(whole))])
    half["kl_alpha_after"] = [[0.5, 0.0] * 10] * len(half)
    table = kept(half, whole, base, ["in_format", "correct"]).set_index(["measure", "share"])
    part = table.loc[("in_format", 0.5)]
    assert part.kept == pytest.approx(0.5)
    assert 0 < part.kept_low < 0.5 < part.kept_high < 1
    assert table.kept[[("in_format", 1.0), ("correct", 0.5), ("correct", 1.0)]].isna().all()
    assert table.amplified.to_dict() == {(m, s): s for m in ("in_format", "correct") for s in (0.5, 1.0)}
    none = kept(half, base, base, ["in_format", "correct"])
    assert none.kept.isna().all()


def test_where_two_models_differ() -> None:
    answers = pd.DataFrame(
        {"prompt_id": ["a", "b"], "kl_after_before": [np.array([3.0, 0, 0, 1, 0, 0]), np.array([2.0, 0, 0])]}
    )
    tokens = where_it_differs(answers, [["Step", " 1", ":", " wait", " 5", "\n"], ["Step", " 2", "<|im_end|>"]])
    assert tokens.third.tolist() == ["first"] * 2 + ["middle"] * 2 + ["last"] * 2 + ["first", "middle", "last"]
    assert tokens.token_class.tolist()[:4] == ["behaviour word", "digit", "punctuation", "behaviour word"]
    assert tokens.token_class.iloc[-1] == "end"
    thirds = located(tokens, "third").set_index("third")
    assert list(thirds.index) == ["first", "middle", "last"]
    assert thirds["mean"].tolist() == pytest.approx([5 / 3, 1 / 3, 0])
    assert thirds.share.tolist() == pytest.approx([5 / 6, 1 / 6, 0])
    assert thirds.tokens.tolist() == pytest.approx([1 / 3] * 3)
    assert thirds.low.isna().all()  # two tasks only
    many = pd.concat([tokens.assign(prompt_id=tokens.prompt_id + str(i)) for i in range(5)])
    assert located(many, "third").low.notna().all()
    classes = located(tokens, "token_class")
    assert classes.share.sum() == pytest.approx(1)
    assert classes.loc[classes["mean"].idxmax(), "token_class"] == "behaviour word"


def test_a_token_without_its_divergence_is_an_error() -> None:
    answers = pd.DataFrame({"prompt_id": ["a"], "kl_after_before": [np.array([3.0])]})
    with pytest.raises(ValueError, match=r"shorter|longer"):
        where_it_differs(answers, [["Step", " 1"]])


def test_rows_in_words() -> None:
    table = pd.DataFrame(
        {
            "measure": ["correct", "length", "hedging"],
            "difference": [0.05, -12.345, 1.5],
            "low": [-0.01, -20.0, np.nan],
            "high": [0.11, -3.0, np.nan],
            "clear": [False, True, False],
        }
    )
    assert shown(table, "difference") == ["+5 points [-1, +11]", "-12.3 [-20, -3]", "+1.5 (few)"]
    assert listed(table, "difference", "measure") == "`length` -12.3 [-20, -3]"
    assert listed(table[~table.clear], "difference", "measure") == "none"
    slopes = pd.DataFrame({"slope": [np.nan], "low": [np.nan], "high": [np.nan], "events": [3], "clear": [False]})
    assert shown(slopes, "slope") == ["too few (3)"]
    rate = pd.DataFrame({"measure": ["correct"], "value": [0.25], "low": [0.1], "high": [0.4]})
    assert shown(rate, "value") == ["25 % [10, 40]"]


def test_what_is_clear_in_both_kinds_of_families_with_one_sign() -> None:
    rows = [
        ("up", False, 1.0, True), ("up", True, 2.0, True),
        ("down", False, -1.0, True), ("down", True, -3.0, True),
        ("torn", False, 1.0, True), ("torn", True, -1.0, True),
        ("half", False, 1.0, True), ("half", True, 1.0, False),
        ("few", False, float("nan"), False), ("few", True, 1.0, True),
    ]  # fmt: skip
    slopes = pd.DataFrame(rows, columns=["behaviour", "held_out", "slope", "clear"])
    assert in_both(slopes) == "`down` down, `up` up"
    assert in_both(slopes[slopes.behaviour == "torn"]) == "none"
