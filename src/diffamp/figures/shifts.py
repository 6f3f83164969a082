"""Which tokens, positions and prompts a fine-tune moves (notebook 06)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from diffamp.figures.style import COLOURS, MARKERS, percent_axis


def token_shifts(tables: Mapping[str, pd.DataFrame], contrast: str, top: int = 14) -> Figure:
    """A row per pair: every token's shift and consistency, and the independent tokens that rise most.

    Args:
        tables: pair -> `diffamp.independence.prompt_independent`, with the column text.
        contrast: name of the pair that the shifts are held against.
    """
    figure, panels = plt.subplots(
        len(tables), 2, figsize=(9.2, 0.6 + 3.7 * len(tables)), width_ratios=[1.25, 1], squeeze=False
    )
    for (name, table), (left, right) in zip(tables.items(), panels, strict=True):
        _volcano(left, table)
        left.set_title(f"{name}: every token")
        risen = table[table.independent & (table.excess > 0)].head(top)[::-1]
        y = np.arange(len(risen))
        right.barh(y, risen["mean"], xerr=1.96 * risen.se, color=COLOURS[3], height=0.7, label=name)
        right.plot(risen.null_mean, y, linestyle="none", marker=MARKERS[2], color=COLOURS[0], label=contrast)
        right.set_yticks(y, [shown(text) for text in risen.text], fontsize=9)
        right.axvline(0, color="black", linewidth=0.8)
        right.set(xlabel="shift, nats (95 % interval)", title="independent tokens that rise most")
        right.grid(axis="y", visible=False)
        if len(risen):
            right.set_xlim(right=1.45 * risen["mean"].max())  # room for the legend
            right.legend(loc="lower right", fontsize=9)
    return figure


def _volcano(axes: Axes, table: pd.DataFrame) -> None:
    """Size of the shift against its consistency, independent tokens in colour."""
    parts = {"others": (~table.independent, "0.7"), "independent of the context": (table.independent, COLOURS[3])}
    for label, (which, colour) in parts.items():
        part = table[which]
        axes.plot(
            part["mean"],
            part.consistency,
            linestyle="none",
            marker=".",
            markersize=2.5,
            markeredgewidth=0,
            color=colour,
            alpha=0.6,
            label=f"{label} ({len(part):,})",
        )
    percent_axis(axes, "contexts that agree, in the worst kind")
    axes.set_xlabel("shift, nats")
    axes.legend(loc="lower right", fontsize=9, markerscale=4, frameon=True, framealpha=0.9)


def kl_by_position(positions: Mapping[str, pd.DataFrame], columns: int = 24) -> Figure:
    """KL(p_after || p_before) at each position of every chat prompt, a panel per pair, prompts with the largest above.

    Args:
        positions: pair -> rows of `diffamp.shifts.mine` for chat prompts.
        columns: positions shown, counted back from where the answer begins.
    """
    figure, panels = plt.subplots(
        1, len(positions), figsize=(0.8 + 3.6 * len(positions), 4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (name, table) in zip(panels[0], positions.items(), strict=True):
        back = table.position - table.groupby("context").position.transform("max")
        grid = table.assign(back=back).pivot(index="context", columns="back", values="kl")
        grid = grid.reindex(columns=range(1 - columns, 1))
        grid = grid.loc[table.groupby("context").kl.mean().sort_values(ascending=False).index]
        image = axes.imshow(
            grid.clip(lower=1e-4),
            norm=LogNorm(1e-3, 1),
            cmap="viridis",
            aspect="auto",
            interpolation="nearest",
            extent=(0.5 - columns, 0.5, len(grid), 0),
        )
        template = int((table.part == "template").groupby(table.context).sum().max())
        axes.axvline(-template - 0.5, color="white", linestyle="--", linewidth=1)
        axes.axvline(-0.5, color="white", linestyle="--", linewidth=1)
        axes.set(title=name, xlabel="tokens before the answer")
        axes.grid(False)
    panels[0, 0].set_ylabel("chat prompts, most moved above")
    figure.colorbar(image, ax=panels[0].tolist(), label="KL, nats", extend="both")
    return figure


def ranking_stability(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """How alike tokens rank over halves and kinds of context: pair -> `diffamp.independence.stability`."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
    for axes, column, label in zip(
        panels, ("spearman", "overlap"), ("Spearman over all tokens", "shared among the largest 50"), strict=True
    ):
        for number, (name, table) in enumerate(tables.items()):
            y = np.arange(len(table))[::-1]
            axes.plot(
                table[column], y, linestyle="none", marker=MARKERS[number], color=COLOURS[number], label=name, alpha=0.8
            )
        axes.set_yticks(y, table.compared)
        axes.set(xlim=(-0.05, 1.05), xlabel=label)
    panels[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=9)
    return figure


def shown(text: str) -> str:
    """A token as it stands in a label: spaces and line breaks visible, nothing that matplotlib would typeset."""
    return text.replace("\n", "\\n").replace(" ", "\N{OPEN BOX}").replace("$", r"\$") or "(empty)"
