"""What all figures share: colours, markers, axes, a line with its interval."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

T = TypeVar("T")

plt.style.use(Path(__file__).with_name("diffamp.mplstyle"))


class Cycle(tuple[T, ...]):
    """Begins again behind its last item, so that a figure may have more lines than there are colours or markers."""

    def __getitem__(self, number: int) -> T:  # type: ignore[override]
        return super().__getitem__(number % len(self))


COLOURS = Cycle(sns.color_palette("colorblind"))
MARKERS = Cycle("osD^vP")


def series(axes: Axes, table: pd.DataFrame, x: str, y: str, label: str, number: int) -> None:
    """One line with its interval as a band, markers telling the lines apart without colour."""
    colour = COLOURS[number]
    table = table.sort_values(x)
    axes.plot(table[x], table[y], color=colour, marker=MARKERS[number], label=label)
    axes.fill_between(table[x], table.low, table.high, color=colour, alpha=0.18, linewidth=0)


def percent_axis(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_ylabel(label)


def alpha_axis(axes: Axes) -> None:
    """Alphas from -1 to large ones: linear up to 1, logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=1, linscale=1)
    axes.set_xticks([-1, 0, 0.5, 1, 2, 4, 8], ["-1", "0", "0.5", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.margins(x=0.04)  # or the markers at both ends are cut
    axes.set_xlabel("alpha")
