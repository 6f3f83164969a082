"""Behaviours, answers, and where in an answer the difference lives (notebook 08)."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffamp.figures.style import COLOURS, MARKERS, percent_axis, series

TITLES = {
    "correct": "correct",
    "in_format": "in the format of the traces",
    "ended": "reaches its end",
    "worked": "shows a step or a calculation",
    "loops": "loops",
    "length": "tokens (cut at the limit)",
    "nats": "KL(p_alpha || p_after), nats / token",
}


def behaviours(rates: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """Each behaviour's rate against alpha, a line per pair; below, what amplification does to it: a forest per pair.

    Args:
        rates: `diffamp.behaviours.per_thousand` by pair and alpha.
        slopes: `diffamp.behaviours.elasticities` from alpha 0 up, by pair and held_out.
    """
    names, pairs = list(rates.behaviour.unique()), list(rates.pair.unique())
    lines = -(-len(names) // 4)
    figure = plt.figure(figsize=(11, 2.2 * lines + 0.36 * len(names) + 1.6), layout="constrained")
    heights = [2.2 * lines, 0.36 * len(names) + 1.6]
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    panels = above.subplots(lines, 4, sharex=True, squeeze=False)
    for axes, name in zip(panels.flat, names, strict=False):
        for number, pair in enumerate(pairs):
            line = rates[(rates.behaviour == name) & (rates.pair == pair)]
            series(axes, line, "alpha", "rate", pair, number)
        _alphas(axes, rates.alpha)
        seen = rates[rates.behaviour == name].rate.max()
        axes.set_title(name.replace("_", " ") + ("" if seen else ": in no answer"), fontsize=10)
        # room for the lines; the interval of a rate of 0 in a few short answers may run out of the panel
        axes.set_ylim(0, max(1.35 * seen, 1))
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    panels[0, 0].legend(fontsize=9)
    above.supxlabel("alpha (-1: before, 0: after)", fontsize=10)
    above.supylabel("per 1,000 tokens", fontsize=10)
    forests = below.subplots(1, len(pairs), sharey=True, sharex=True, squeeze=False)[0]
    kinds = {False: "families trained on", True: "families held out"}
    for axes, pair in zip(forests, pairs, strict=True):
        part = slopes[slopes.pair == pair].assign(kind=lambda table: table.held_out.map(kinds))
        _forest(axes, part, names, "behaviour", "kind", list(kinds.values()), ("slope", "low", "high"))
        axes.axvline(0, color="0.6", linewidth=1, zorder=1)
        for row in part[part.slope.isna()].itertuples():
            y = names.index(row.behaviour) + _offset(int(row.held_out), 2)
            axes.text(0.04, y, f"too few ({row.events})", fontsize=7.5, va="center", color=COLOURS[int(row.held_out)])
        axes.set_title(pair, fontsize=10)
    if slopes.slope.isna().all():
        forests[0].set_xlim(-1, 1)
    forests[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    forests[0].invert_yaxis()
    below.legend(*forests[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    below.supxlabel("d log(rate per token) / d alpha from alpha 0 up, corrected intervals", fontsize=10)
    return figure


def answers(table: pd.DataFrame) -> Figure:
    """Outcomes, length and nats against alpha, a panel each; a line per pair, the guarded arm dashed.

    Args:
        table: `diffamp.behaviours.outcomes` by pair, arm ("plain" or "guarded") and alpha.
    """
    figure, panels = plt.subplots(2, 4, figsize=(12, 5.4), sharex=True, layout="constrained")
    for axes, (measure, title) in zip(panels.flat, TITLES.items(), strict=False):
        for number, pair in enumerate(table.pair.unique()):
            part = table[(table.measure == measure) & (table.pair == pair)].sort_values("alpha")
            series(axes, part[part.arm == "plain"], "alpha", "value", pair, number)
            guarded = part[part.arm == "guarded"]
            axes.errorbar(
                guarded.alpha + 0.06 * (number + 1),  # beside the unguarded point, not upon it
                guarded.value,
                yerr=_arms(guarded.value, guarded.low, guarded.high),
                color=COLOURS[number],
                marker=MARKERS[number],
                markerfacecolor="white",
                linestyle="--",
                capsize=2,
                label=f"{pair}, guarded",
            )
        _alphas(axes, table.alpha)
        axes.set_title(title, fontsize=10)
        if measure in ("length", "nats"):
            axes.set_ylim(bottom=0)
        else:
            percent_axis(axes, "")
        if measure == "correct":  # of small models a few percent
            top = min(1.03, 1.2 * table[table.measure == measure].high.max())
            axes.set_ylim(-0.03 * top, top)
    panels[-1, -1].set_axis_off()
    panels[-1, -1].legend(*panels[0, 0].get_legend_handles_labels(), loc="center", fontsize=10)
    panels[0, -1].tick_params(labelbottom=True)
    figure.supxlabel("alpha (-1: before, 0: after)", fontsize=11)
    return figure


def where(thirds: pd.DataFrame, classes: pd.DataFrame, kept: pd.DataFrame) -> Figure:
    """KL(p_after || p_before) by third and by token class, a marker per pair; and what sparse amplification keeps.

    Args:
        thirds, classes: `diffamp.behaviours.located`, with the column pair. Beside each mean: its share of all nats.
        kept: `diffamp.behaviours.kept` of one pair.
    """
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.6), width_ratios=[0.8, 1.1, 1.2], layout="constrained")
    pairs = list(thirds.pair.unique())
    for axes, table, column in ((panels[0], thirds, "third"), (panels[1], classes, "token_class")):
        values = list(dict.fromkeys(table[column]))
        _forest(axes, table, values, column, "pair", pairs, ("mean", "low", "high"))
        for row in table.itertuples():
            y = values.index(getattr(row, column)) + _offset(pairs.index(row.pair), len(pairs))
            axes.annotate(
                f"{100 * row.share:.0f} %",
                (row.high if np.isfinite(row.high) else row.mean, y),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=COLOURS[pairs.index(row.pair)],
            )
        axes.set_yticks(range(len(values)), values)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.2 * max(table.high.max(), table["mean"].max())))
        axes.set_xlabel("KL(p_after || p_before), nats per token", fontsize=9)
        axes.set_title(f"by {column.replace('_', ' ')} (%: share of all nats)", fontsize=10)
    panels[0].legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    part = kept[kept.kept.notna()]
    axes, measures = panels[2], list(part.measure.unique())
    axes.set_title("kept of the whole change from alpha 0 to 1", fontsize=10)
    if not measures:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no change is clearly different from 0", ha="center", transform=axes.transAxes)
        return figure
    part = part.assign(positions=[f"{100 * share:g} % of positions" for share in part.share])
    _forest(
        axes, part, measures, "measure", "positions", list(part.positions.unique()), ("kept", "kept_low", "kept_high")
    )
    for at in (0, 1):
        axes.axvline(at, color="0.6", linewidth=1, linestyle=":" if at else "-", zorder=1)
    axes.set_yticks(range(len(measures)), [m.replace("_", " ") for m in measures])
    axes.invert_yaxis()
    axes.set_xlim(max(-0.5, part.kept_low.min() - 0.1), min(2.0, part.kept_high.max() + 0.1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel("when only the most divergent positions are amplified", fontsize=9)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _alphas(axes: Axes, alphas: pd.Series) -> None:
    ticks = [a for a in sorted(alphas.unique()) if (2 * a).is_integer()]  # quarters would run into each other
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.tick_params(labelsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _offset(number: int, of: int) -> float:
    return (number - (of - 1) / 2) * 0.7 / max(of, 2)


def _arms(value: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    return np.clip([value - low, high - value], 0, None)


def _forest(
    axes: Axes,
    table: pd.DataFrame,
    rows: Sequence[str],
    row: str,
    mark: str,
    marks: Sequence[str],
    columns: tuple[str, str, str],
) -> None:
    """A line of the forest for each of `rows`, on it a marker with its interval for each of `marks`."""
    value, low, high = columns
    for number, name in enumerate(marks):
        part = table[table[mark] == name].set_index(row).reindex(rows)
        axes.errorbar(
            part[value],
            np.arange(len(rows)) + _offset(number, len(marks)),
            xerr=_arms(part[value], part[low], part[high]),
            fmt=MARKERS[number],
            markersize=5,
            color=COLOURS[number],
            capsize=2,
            linewidth=1.4,
            label=name,
        )
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.tick_params(labelsize=9)
