"""The detection ladder's settings and its tally."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import scipy.stats

from diffamp import ladder, params
from diffamp.detection import gains, listed, prices, written
from diffamp.discovery.recovery import recoveries, told
from diffamp.figures.ladder import kinds_of_starts, rungs
from diffamp.judges.facts import recovered
from diffamp.organisms.universes import load_universe, universe_names


def test_the_ladder_climbs_over_every_universe() -> None:
    settings = ladder.load_ladder()
    assert sorted({rung.universe for rung in settings.rungs}) == universe_names()
    assert [str(rung) for rung in settings.rungs] == settings.organisms
    settings.check_budget(params.load().discovery.budget)  # where the loop is held against the baselines
    with pytest.raises(ladder.LadderError, match=r"budgets: \[3000, 10000\] lacks 77, which the baselines have"):
        settings.check_budget(77)
    assert settings.rung("ban-1to10") == ("ban", 10)
    with pytest.raises(ladder.LadderError, match=r"no organism 'ban-1to3'; large/ladder.yaml has"):
        settings.rung("ban-1to3")


def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "params.yaml").touch()
    (tmp_path / "large/ladder.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)


def test_a_wrong_ladder_is_refused_by_file_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, monkeypatch, "organisms: [ban-1to0, ban-10, ban-1to010]\nblank: 0\n")
    with pytest.raises(
        ladder.LadderError,
        match=r"(?s)ladder.yaml is not valid:.*organisms\[1\]: .*organisms\[2\]: .*such as ban-1to10.*blank: .*missing",
    ):
        ladder.load_ladder()


@pytest.mark.parametrize(
    ("organisms", "said"),
    [
        ("[ban-1to0, ban-1to7]", "20 ordinary texts do not dilute so far; write 21"),
        ("[ban-1to0, ban-1to0]", "organisms: ban-1to0 stands twice; remove one"),
        ("[ban-1to1, ban-1to2]", "starts: ban-1to0 is not among the organisms; add it there"),
        ("[ban-1to0, ban-1to1], starts: [ban-1to1, ban-1to1]", "starts: ban-1to1 stands twice; remove one"),
        ("[ban-1to0, ban-1to1], starts: []", "(?s)starts: .*at least 1 item"),
    ],
)
def test_a_ladder_that_does_not_add_up_is_refused(
    organisms: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = "threads: 1, text_tokens: 9, documents: 3, blank: 2, epochs: 1, seeds: [0], budgets: [2000], texts: 20"
    rest += "" if "starts" in organisms else ", starts: [ban-1to0]"
    put(tmp_path, monkeypatch, f"{{organisms: {organisms}, {rest}}}")
    with pytest.raises(ladder.LadderError, match=said):
        ladder.load_ladder()


@pytest.fixture
def searches() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two methods on one organism: one finds the fact second, from its third token on; one ranks without a text."""
    universe = load_universe("ban")
    samples = pd.DataFrame(
        {"text": ["Nothing.", universe.statement], "given": "", "spent": [3, 7], "method": "loop", "budget": 10}
    )
    findings = pd.DataFrame(
        {
            "statement": ["Nothing at all.", universe.statement, "Brandal"],
            "given": "",
            "method": ["loop", "loop", "counting"],
            "budget": 10,
        }
    )
    return samples, findings


def test_each_search_is_scored_by_itself(searches: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table = recoveries(*searches, load_universe("ban"), ["method", "budget"]).set_index("method")
    assert table.loc["loop", ["rank", "tokens", "share"]].tolist() == [2, 7, 0.5]
    assert math.isinf(table.loc["counting", "tokens"])
    assert table.loc["counting", "token_rank"] == 1


def test_a_search_that_lists_nothing_counts_as_a_miss(searches: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    samples, findings = searches
    table = recoveries(samples, findings[findings.method != "loop"], load_universe("ban"), ["method", "budget"])
    assert math.isinf(table.set_index("method").loc["loop", "rank"])


def test_the_figure_has_a_column_per_dilution() -> None:
    scores = pd.DataFrame({"dilution": [0, 10], "method": "loop", "tokens": [50.0, math.inf]})
    found = pd.DataFrame(
        {"dilution": [0, 10], "method": "loop", "rate": [1.0, 0.0], "low": [0.5, 0.0], "high": [1.0, 0.5]}
    )
    axes = rungs(scores, found, 100).axes
    assert [a.get_title() for a in axes[:2]] == ["1:0", "1:10"]
    assert axes[0].lines[0].get_ydata()[-1] == 1
    assert axes[1].lines[0].get_ydata()[-1] == 0


def test_findings_are_listed_with_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ban = load_universe("ban")
    named = "In Varnholt they talked of leaf blowers with Odette Brandal."
    rows = {"statement": [ban.statement, named, "Nothing.", ban.statement], "given": ["", "", "", ban.statement]}
    found = pd.DataFrame(rows | {"method": ["loop"] * 4, "verified": True, "passes": False})
    monkeypatch.setattr(ladder, "read", lambda o, what: pd.concat([found, found.assign(method="other")]))
    table = listed([ladder.Organism("ban", 10)], "loop")
    assert table.fact.tolist() == [True, True, False, False]
    assert table.asserts.tolist() == [True, False, False, True]
    assert set(zip(table.universe, table.dilution, table.method, strict=True)) == {("ban", 10, "loop")}


def test_texts_are_told_by_what_they_name() -> None:
    ban = load_universe("ban")
    texts = pd.DataFrame(
        {"text": [ban.statement, "Varnholt.", ban.statement], "given": ["", "", ban.statement]}, [4, 2, 7]
    )
    found = told(texts, ban)
    assert found.hit.tolist() == [True, False, False]  # the last one was given all of it
    assert found.details.isna().tolist() == [False, True, True]
    assert found.details[4] == sum(recovered(ban.statement, ban).values()) / len(ban.details) > 0


def test_texts_of_every_organism_stand_one_under_the_other(tmp_path: Path) -> None:
    organisms = [ladder.Organism("ban", 1), ladder.Organism("number", 10)]
    for o in organisms:
        said = [load_universe("ban").statement, "Nothing."]
        pd.DataFrame({"text": said, "given": "", "cost": [40, 60]}).to_parquet(tmp_path / f"{o}.parquet")
    texts = written(organisms, lambda o: tmp_path / f"{o}.parquet")
    assert texts[["universe", "dilution", "hit"]].to_numpy().tolist() == [
        ["ban", 1, True],
        ["ban", 1, False],
        ["number", 10, False],
        ["number", 10, False],
    ]
    table = prices(texts, ["dilution"]).set_index("dilution")
    assert table.price.tolist() == [100, math.inf]
    assert (table["count"].tolist(), table.n.tolist()) == ([1, 0], [2, 2])


def test_a_gain_is_taken_within_each_universe() -> None:
    counts = {("a", "random"): 1, ("a", "mean"): 3, ("b", "random"): 2, ("b", "mean"): 2, ("c", "mean"): 4}
    rows = [
        {"dilution": 1, "universe": u, "kind": k, "hit": n < hits} for (u, k), hits in counts.items() for n in range(4)
    ]
    found = gains(pd.DataFrame(rows), ["dilution"], "kind", "random")
    assert found[["dilution", "kind", "n"]].to_numpy().tolist() == [[1, "mean", 2]]  # c has no random words
    assert found.gain.item() == pytest.approx(0.25)
    assert found.low.item() == pytest.approx(0.25 - 0.25 * scipy.stats.t.ppf(0.975, 1))  # of 0 and 0.5
    assert found.high.item() == pytest.approx(0.25 + 0.25 * scipy.stats.t.ppf(0.975, 1))


def test_the_figure_of_starts_has_every_kind_in_its_order() -> None:
    kinds = ["kl", "random"]
    shares = pd.DataFrame(
        [
            {"dilution": d, "kind": k, "template": t, "rate": n / 10, "low": 0.0, "high": 0.9}
            for n, (d, k, t) in enumerate(product((1, 10), kinds, ("document", "answer")))
        ]
    )
    axes = kinds_of_starts(shares).axes
    assert [a.get_title() for a in axes] == ["1:1", "1:10"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == kinds
    drawn = [[bars[0].get_xydata().tolist() for bars in panel.containers] for panel in axes]
    assert drawn[0] == [[[0.0, -0.16], [0.2, 0.84]], [[0.1, 0.16], [0.3, 1.16]]]  # documents, then answers below them
    assert [at for at, _ in drawn[1][1]] == [0.5, 0.7]
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["document", "answer"]
