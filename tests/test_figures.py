"""What all figures share."""

from __future__ import annotations

import pandas as pd

from diffamp.figures.shifts import ranking_stability
from diffamp.figures.style import COLOURS, MARKERS


def test_colours_and_markers_begin_again() -> None:
    assert COLOURS[len(COLOURS)] == COLOURS[0] != COLOURS[1]
    assert MARKERS[len(MARKERS) + 2] == MARKERS[2]


def test_a_figure_may_have_more_pairs_than_there_are_markers() -> None:
    table = pd.DataFrame({"compared": ["halves"], "spearman": [1.0], "overlap": [0.5]})
    figure = ranking_stability({f"pair {n}": table for n in range(len(MARKERS) + 1)})
    lines = figure.axes[0].lines
    assert len(lines) == len(MARKERS) + 1
    assert lines[-1].get_marker() == lines[0].get_marker()
