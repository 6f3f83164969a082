"""Rates against alpha, against nats, and against each other (notebooks 03 to 05)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from diffamp.figures.style import COLOURS, alpha_axis, percent_axis, series


def by_alpha(tables: Mapping[str, Mapping[str, pd.DataFrame]], y_label: str) -> Figure:
    """Rates against alpha, a panel per guard, a line per pair: guard -> pair -> table with alpha, rate, low, high."""
    figure, panels = plt.subplots(1, len(tables), figsize=(4.6 * len(tables), 3.6), sharey=True, squeeze=False)
    for axes, (title, lines) in zip(panels[0], tables.items(), strict=True):
        for number, (label, table) in enumerate(lines.items()):
            series(axes, table, "alpha", "rate", label, number)
        alpha_axis(axes)
        axes.set_title(title)
    percent_axis(panels[0, 0], y_label)
    panels[0, 0].legend()
    return figure


def by_alpha_and_nats(tables: Mapping[str, pd.DataFrame], y_label: str) -> Figure:
    """The same rates against alpha and against realised KL: label -> table with alpha, nats, rate, low, high.

    The second panel joins the points from alpha = 0 upwards. A guard diverges from the after-model at alpha 0 already.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for number, (label, table) in enumerate(tables.items()):
        series(left, table, "alpha", "rate", label, number)
        series(right, table[table.alpha >= 0], "nats", "rate", label, number)
    alpha_axis(left)
    right.set_xscale("symlog", linthresh=0.01)
    right.set_xlim(left=-0.002, right=1.4 * max(table.nats.max() for table in tables.values()))  # room for the markers
    right.set_xlabel("realised KL(p_alpha || p_after), nats per token")
    percent_axis(left, y_label)
    left.legend()
    return figure


def losses_by_alpha(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss on plain text against alpha: label -> table with alpha, mean, low, high, in nats per token."""
    figure, axes = plt.subplots(figsize=(5.5, 3.4))
    for number, (label, table) in enumerate(tables.items()):
        series(axes, table, "alpha", "mean", label, number)
    alpha_axis(axes)
    axes.set(yscale="log", ylabel="NLL of plain text, nats per token")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend()
    return figure


def guard_planes(table: pd.DataFrame, chosen: Mapping[str, float], per_line: int = 5) -> Figure:
    """Sensible refusals against nonsense, a panel per guard, its path along alpha over the unguarded one (grey).

    Args:
        table: `diffamp.choice.by_guard`.
        chosen: guard -> the alpha chosen for it: a large marker with both intervals. The others add too much nonsense
            at every alpha.
    """
    names = [*chosen, *(g for g in table.guard.unique() if g not in chosen)]
    lines = -(-len(names) // per_line)
    figure, panels = plt.subplots(lines, per_line, figsize=(9.6, 2.3 * lines), sharex=True, sharey=True, squeeze=False)
    plain = table[table.guard == "none"].sort_values("alpha")
    for axes, name in zip(panels.flat, names, strict=False):
        arm = table[table.guard == name].sort_values("alpha")
        axes.plot(plain.nonsense, plain.refusal, color="0.75", marker=".", label="no guard")
        axes.plot(arm.nonsense, arm.refusal, color=COLOURS[0], marker=".", label="with the guard")
        last = arm.iloc[-1]
        axes.annotate(f"{last.alpha:g}", (last.nonsense, last.refusal), (4, 3), textcoords="offset points", fontsize=7)
        if name in chosen:
            at = arm[arm.alpha == chosen[name]].iloc[0]
            spans = {
                "xerr": [[at.nonsense - at.nonsense_low], [at.nonsense_high - at.nonsense]],
                "yerr": [[at.refusal - at.refusal_low], [at.refusal_high - at.refusal]],
            }
            axes.errorbar(at.nonsense, at.refusal, **spans, fmt="o", color=COLOURS[3], capsize=2, label="chosen on dev")
        axes.set_title(f"{name}\n" + (f"alpha {chosen[name]:g}" if name in chosen else "over the limit"), fontsize=8.5)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.tick_params(labelsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(0.5))
            axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="lower right",
        fontsize=9,
        title="paths along alpha,\nits largest written",
        title_fontsize=8,
    )
    figure.supxlabel("nonsense", fontsize=10)
    figure.supylabel("sensible refusals", fontsize=10)
    return figure
