"""What an estimate of the unamplified rate costs, against plain counting (notebook 10)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from diffamp.figures.style import COLOURS, MARKERS


def savings(methods: pd.DataFrame, sweep: pd.DataFrame, leaves: pd.DataFrame, published: tuple[float, float]) -> Figure:
    """Tokens saved by each method and at each alpha, and samples saved opening by opening.

    Args:
        methods: columns true, method, token_ratio.
        sweep: columns true, at (alpha), ratio.
        leaves: columns amplification, variance_ratio, length (tokens that decide).
        published: the range that other estimators claim, shaded.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11.5, 3.7))
    for number, (method, table) in enumerate(methods.groupby("method", sort=False)):
        _line(left, table.sort_values("true"), "true", "token_ratio", str(method), number)
    left.set(
        xscale="log", xlabel="true rate", ylabel="counting's tokens / method's tokens", title="equal interval width"
    )
    left.axhspan(*published, color="0.9", zorder=0)
    left.legend(fontsize=8, loc="lower left")
    left.set_ylim(0.04, 2 * methods.token_ratio.max())  # room for the legend
    for number, (rate, table) in enumerate(sweep.groupby("true", sort=True)):
        _line(middle, table.sort_values("at"), "at", "ratio", f"rate {rate:.2g}", number)
    middle.set(xscale="log", xlabel="alpha of the mixture", title="mixture, equal variance", ylim=(0.1, 3))
    middle.set_xticks(alphas := sorted(sweep["at"].unique()), [f"{alpha:g}" for alpha in alphas])
    middle.minorticks_off()
    middle.legend(fontsize=8, loc="upper right")
    points = right.scatter(
        leaves.amplification, leaves.variance_ratio, c=leaves.length, s=18, cmap="viridis", edgecolor="none"
    )
    right.set(
        xscale="log",
        xlabel="amplification of the opening",
        ylabel="counting's variance / mixture's",
        title="each opening, equal samples",
    )
    figure.colorbar(points, ax=right, label="tokens that decide")
    for axes in (left, middle, right):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.axhline(1, color="black", linestyle="--", linewidth=1)
    return figure


def _line(axes: Axes, table: pd.DataFrame, x: str, y: str, label: str, number: int) -> None:
    style = {"color": COLOURS[number], "marker": MARKERS[number]}
    axes.plot(table[x], table[y], label=label, **style)
