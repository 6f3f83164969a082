"""All pairs on one axis (notebook 09)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from diffamp.figures.style import COLOURS, MARKERS, percent_axis


def on_both_axes(table: pd.DataFrame, pairs: pd.DataFrame) -> Figure:
    """Behaviour (above) and nonsense (below) against alpha (left) and against nats (right), a line per pair.

    Args:
        table: `diffamp.common_axis.by_pair` of one guard.
        pairs: index pair, columns model, adaptation, precision: colour, marker, and a filled marker for nf4.
    """
    figure, panels = plt.subplots(2, 2, figsize=(9.6, 6.4), sharey="row", height_ratios=[1.7, 1], layout="constrained")
    models, adaptations = list(pairs.model.unique()), list(pairs.adaptation.unique())
    for name, pair in pairs.iterrows():
        line = table[table.pair == name].sort_values("alpha")
        style = {
            "color": COLOURS[models.index(pair.model)],
            "marker": MARKERS[adaptations.index(pair.adaptation)],
            "markerfacecolor": None if pair.precision == "nf4" else "white",
            "linestyle": "-" if pair.precision == "nf4" else "--",
        }
        for row, column in enumerate(("rate", "nonsense")):
            panels[row, 0].plot(line.alpha, line[column], **style)
            panels[row, 1].plot(line.nats, line[column], **style, label=name if row == 0 else None)
    for row, label in enumerate(("behaviour, sensible text", "nonsense")):
        percent_axis(panels[row, 0], label)
        panels[row, 1].set_xscale("symlog", linthresh=0.05)
        panels[row, 1].set_xlim(left=0)
    panels[1, 0].set_ylim(-0.01, max(0.1, 1.15 * table.nonsense.max()))
    for axes in panels[:, 0]:
        axes.set_xticks(sorted(table.alpha.unique()))
        axes.xaxis.set_major_formatter("{x:g}")
    panels[1, 0].set_xlabel("alpha")
    panels[1, 1].set_xlabel("realised KL(p_alpha || p_after), nats per token")
    figure.legend(*panels[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def overlap(shared: pd.DataFrame) -> Figure:
    """Share of their most raised tokens that two pairs have in common: `diffamp.common_axis.shared_tokens`."""
    size = 1.6 + 0.55 * len(shared)
    figure, axes = plt.subplots(figsize=(size + 1.4, size), layout="constrained")
    sns.heatmap(shared, vmin=0, vmax=1, annot=100 * shared, fmt=".0f", cmap="viridis", cbar=False, ax=axes)
    axes.grid(visible=False)
    axes.tick_params(axis="x", rotation=45)
    plt.setp(axes.get_xticklabels(), ha="right")
    return figure
