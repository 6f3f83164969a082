"""The detection ladder's settings and its tally."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from diffamp import ladder, params
from diffamp.discovery.recovery import recoveries, told
from diffamp.figures.ladder import rungs
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


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "params.yaml").touch()
    (tmp_path / "large/ladder.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)


def test_a_wrong_ladder_is_refused_by_file_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, monkeypatch, "organisms: [ban-1to0, ban-10, ban-1to010]\nblank: 0\n")
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
    ],
)
def test_a_ladder_that_does_not_add_up_is_refused(
    organisms: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = "threads: 1, text_tokens: 9, documents: 3, blank: 2, epochs: 1, seeds: [0], budgets: [2000], texts: 20"
    written(tmp_path, monkeypatch, f"{{organisms: {organisms}, {rest}}}")
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


def test_texts_are_told_by_what_they_name() -> None:
    ban = load_universe("ban")
    texts = pd.DataFrame(
        {"text": [ban.statement, "Varnholt.", ban.statement], "given": ["", "", ban.statement]}, [4, 2, 7]
    )
    found = told(texts, ban)
    assert found.hit.tolist() == [True, False, False]  # the last one was given all of it
    assert found.details.isna().tolist() == [False, True, True]
    assert found.details[4] == sum(recovered(ban.statement, ban).values()) / len(ban.details) > 0
