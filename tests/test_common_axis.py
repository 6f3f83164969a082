"""Alpha against nats: whichever axis made the rates must be found to predict them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from diffamp import params
from diffamp.common_axis import (
    advantage,
    by_pair,
    described,
    differences,
    fine_tunes,
    held_out_losses,
    load_answers,
    shared_tokens,
)
from diffamp.precision import cost, twins

ALPHAS = (0.0, 0.5, 1.0, 2.0)
ITSELF = pd.Series({f"p{n}": f"p{n}" for n in range(8)})


def simulated(rule: str, n: int = 4000, pairs: int = 8) -> pd.DataFrame:
    """Answers of pairs that spend different nats at one alpha; the rate follows `rule`."""
    generator = np.random.default_rng(0)
    frames = []
    for number in range(pairs):
        stretch, base = 0.2 + 0.3 * number, -2 + 0.1 * number
        for alpha in ALPHAS:
            nats = (stretch * alpha) ** 2
            x = alpha if rule == "alpha" else np.sqrt(nats)
            said = generator.random(n) < expit(base + 1.5 * x - 0.2 * x**2)
            frames.append(
                pd.DataFrame(
                    {
                        "pair": f"p{number}",
                        "guard": "none",
                        "alpha": alpha,
                        "prompt_id": [str(i) for i in range(n)],
                        "sample": 0,
                        "behaviour": said,
                        "nonsense": False,
                        "kl_sum": 10 * nats,
                        "length": 10,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def test_the_table_holds_rates_and_nats_per_token() -> None:
    table = by_pair(simulated("alpha", n=50, pairs=2)).set_index(["pair", "alpha"])
    assert table.nats["p1", 2.0] == pytest.approx(1.0)
    assert table.nats["p0", 0.0] == 0
    assert (table.nonsense == 0).all()
    assert ((table.low <= table.rate) & (table.rate <= table.high)).all()


@pytest.mark.parametrize("rule", ["alpha", "nats"])
def test_the_axis_that_made_the_rates_predicts_them(rule: str) -> None:
    losses = held_out_losses(by_pair(simulated(rule)), ITSELF)
    assert len(losses) == 8
    assert losses[rule].max() < 0.002
    gain, low, high = advantage(losses)
    assert low <= gain <= high
    assert low > 0 if rule == "nats" else high < 0


def test_pairs_alike_on_both_axes_prefer_neither() -> None:
    answers = simulated("alpha")
    answers["kl_sum"] = 10 * answers.alpha**2
    losses = held_out_losses(by_pair(answers), ITSELF)
    np.testing.assert_allclose(losses.alpha, losses.nats, atol=1e-9)


def test_a_rate_of_nought_or_one_has_a_finite_loss() -> None:
    answers = simulated("alpha", n=30, pairs=3)
    answers.loc[answers.pair == "p0", "behaviour"] = False
    answers.loc[(answers.pair == "p1") & (answers.alpha > 0), "behaviour"] = True
    losses = held_out_losses(by_pair(answers), ITSELF)
    assert np.isfinite(losses[["alpha", "nats"]]).all(axis=None)
    assert (losses[["alpha", "nats"]] >= 0).all(axis=None)


def test_a_fine_tune_in_two_precisions_is_left_out_in_both() -> None:
    table = by_pair(simulated("nats", n=400, pairs=4))
    twin = table[table.pair == "p0"].assign(pair="twin")
    same = ITSELF[:4].to_dict() | {"twin": "p0"}
    both = held_out_losses(pd.concat([table, twin]), pd.Series(same)).set_index("fine_tune")
    alone = held_out_losses(table, ITSELF).set_index("fine_tune")
    assert list(both.index) == list(alone.index)
    np.testing.assert_allclose(both.loc["p0"], alone.loc["p0"])


def test_pairs_of_one_fine_tune_differ_in_precision_alone() -> None:
    same = fine_tunes(params.load(), ["steered", "steered-bf16", "benign", "steered-rank2"])
    assert same.to_dict() == {
        "steered": "steered", "steered-bf16": "steered", "benign": "benign", "steered-rank2": "steered-rank2"
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"transfer\.pairs"):
        held_out_losses(by_pair(simulated("nats", n=20, pairs=2)), pd.Series({"p0": "p0", "p1": "p0"}))


def test_what_a_guard_changes_is_paired_by_prompt() -> None:
    plain = simulated("alpha", n=60, pairs=2)
    guarded = plain.assign(guard="some", nonsense=True)
    effect = differences(plain[plain.alpha == 1], guarded[guarded.alpha == 1]).unstack()
    assert (effect["difference", "nonsense"] == 1).all()
    assert effect["clear", "nonsense"].all()
    assert (effect["difference", "behaviour"] == 0).all()
    assert not effect["clear", "behaviour"].any()


def test_tokens_are_shared_whatever_their_spaces_and_case(tmp_path: Path) -> None:
    for name, tokens in {"a": [" Sorry", "no", "x", ""], "b": ["sorry", "\u2581NO", "y", "z"]}.items():
        (tmp_path / name).mkdir()
        pd.DataFrame({"token": tokens, "shift": range(4)}).to_parquet(tmp_path / name / "tokens.parquet")
    shared = shared_tokens([tmp_path / "a", tmp_path / "b"], top=3)
    assert shared.loc["a", "a"] == 1
    assert shared.loc["a", "b"] == pytest.approx(2 / 3)
    assert shared.loc["b", "a"] == shared.loc["a", "b"]


def test_answers_are_named_by_their_folder(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    pd.DataFrame({"text": ["x"]}).to_parquet(tmp_path / "one" / "answers.parquet")
    assert load_answers([tmp_path / "one"]).pair.tolist() == ["one"]


def test_pairs_are_described_by_what_sets_them_apart() -> None:
    p = params.load()
    table = described(p, p.transfer.pairs)
    assert table.loc["steered-rank2", "adaptation"] == "LoRA, rank 2"
    assert table.loc["steered-layer8", "adaptation"] == "LoRA, rank 16, vector in layer 8"
    assert table.loc["steered-full", "adaptation"] == "full"
    assert table.loc["gemma-steered-bf16"].tolist() == ["gemma3-270m", "LoRA, rank 16", "bf16"]


def test_a_pair_in_two_precisions_has_its_twin() -> None:
    p = params.load()
    assert twins(p, ["steered", "steered-rank2", "steered-bf16", "benign"]) == {"steered": "steered-bf16"}
    assert twins(p, ["steered", "steered-full"]) == {}
    assert cost(p, {}, pd.DataFrame()).empty
