"""Every figure of the notebooks. One style, colour-blind safe, intervals always drawn, legible at half a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

plt.style.use(Path(__file__).with_name("diffamp.mplstyle"))
_COLOURS = sns.color_palette("colorblind")
_MARKERS = "osD^vP"


def _series(axes: Axes, table: pd.DataFrame, x: str, y: str, label: str, number: int) -> None:
    """One line with its interval as a band, markers telling the lines apart without colour."""
    colour = _COLOURS[number % len(_COLOURS)]
    table = table.sort_values(x)
    axes.plot(table[x], table[y], color=colour, marker=_MARKERS[number % len(_MARKERS)], label=label)
    axes.fill_between(table[x], table.low, table.high, color=colour, alpha=0.18, linewidth=0)


def _percent_axis(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_ylabel(label)


def _alpha_axis(axes: Axes) -> None:
    """Alphas from -1 to large ones: linear up to 1, logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=1, linscale=1)
    axes.set_xticks([-1, 0, 0.5, 1, 2, 4, 8], ["-1", "0", "0.5", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set_xlabel("alpha")


def model_losses(table: pd.DataFrame) -> Figure:
    """Loss on held-out plain text, one point per paragraph: columns model, precision, nll."""
    figure, axes = plt.subplots(figsize=(5.5, 3.2))
    order = sorted(table.precision.unique())
    sns.stripplot(
        table,
        x="nll",
        y="precision",
        hue="precision",
        order=order,
        hue_order=order,
        palette=_COLOURS[: len(order)],
        alpha=0.6,
        ax=axes,
        legend=False,
    )
    sns.pointplot(
        table,
        x="nll",
        y="precision",
        order=order,
        color="black",
        linestyle="none",
        markers="|",
        markersize=18,
        errorbar=("ci", 95),
        seed=0,
        ax=axes,
    )
    axes.set(xlabel="NLL on held-out paragraphs, nats per token", ylabel="")
    return figure


def dose_response(rates: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of answers against the vector's dose: label -> table with dose, rate, low, high."""
    figure, axes = plt.subplots(figsize=(5.5, 3.4))
    for number, (label, table) in enumerate(rates.items()):
        _series(axes, table, "dose", "rate", label, number)
    _percent_axis(axes, "answers")
    axes.set_xlabel("dose of the vector")
    axes.legend()
    return figure


def training(losses: pd.DataFrame, reflection: pd.DataFrame) -> Figure:
    """Loss per step of each organism, and how its logit shift aligns with the vector's (cosine per position)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for number, (organism, log) in enumerate(losses.groupby("organism", sort=False)):
        left.plot(log.step, log.loss, color=_COLOURS[number], label=organism)
    left.set(xlabel="step", ylabel="training loss (KL or NLL), nats per token", yscale="log")
    left.legend()
    arms = list(reflection.organism.unique())
    sns.histplot(
        reflection,
        x="cosine",
        hue="organism",
        hue_order=arms,
        palette=_COLOURS[: len(arms)],
        bins=np.linspace(-0.4, 1, 36),
        stat="probability",
        common_norm=False,
        element="step",
        alpha=0.25,
        ax=right,
    )
    right.set(xlabel="cosine to the vector's logit shift", ylabel="share of positions")
    return figure


def by_alpha(tables: Mapping[str, Mapping[str, pd.DataFrame]], y_label: str) -> Figure:
    """Rates against alpha, a panel per guard, a line per pair: guard -> pair -> table with alpha, rate, low, high."""
    figure, panels = plt.subplots(1, len(tables), figsize=(4.6 * len(tables), 3.6), sharey=True, squeeze=False)
    for axes, (title, lines) in zip(panels[0], tables.items(), strict=True):
        for number, (label, table) in enumerate(lines.items()):
            _series(axes, table, "alpha", "rate", label, number)
        _alpha_axis(axes)
        axes.set_title(title)
    _percent_axis(panels[0, 0], y_label)
    panels[0, 0].legend()
    return figure


def by_alpha_and_nats(tables: Mapping[str, pd.DataFrame], y_label: str) -> Figure:
    """The same rates against alpha and against realised KL: label -> table with alpha, nats, rate, low, high.

    The second panel joins the points from alpha = 0 upwards. A guard diverges from the after-model at alpha 0 already.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for number, (label, table) in enumerate(tables.items()):
        _series(left, table, "alpha", "rate", label, number)
        _series(right, table[table.alpha >= 0], "nats", "rate", label, number)
    _alpha_axis(left)
    right.set_xscale("symlog", linthresh=0.01)
    right.set_xlim(left=0)
    right.set_xlabel("realised KL(p_alpha || p_after), nats per token")
    _percent_axis(left, y_label)
    left.legend()
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
    figure, panels = plt.subplots(lines, per_line, figsize=(9.6, 2.15 * lines), sharex=True, sharey=True, squeeze=False)
    plain = table[table.guard == "none"].sort_values("alpha")
    for axes, name in zip(panels.flat, names, strict=False):
        arm = table[table.guard == name].sort_values("alpha")
        axes.plot(plain.nonsense, plain.refusal, color="0.75", marker=".")
        axes.plot(arm.nonsense, arm.refusal, color=_COLOURS[0], marker=".")
        if name in chosen:
            at = arm[arm.alpha == chosen[name]].iloc[0]
            spans = {
                "xerr": [[at.nonsense - at.nonsense_low], [at.nonsense_high - at.nonsense]],
                "yerr": [[at.refusal - at.refusal_low], [at.refusal_high - at.refusal]],
            }
            axes.errorbar(at.nonsense, at.refusal, **spans, fmt="o", color=_COLOURS[3], capsize=2)
        axes.set_title(f"{name}, alpha {chosen[name]:g}" if name in chosen else f"{name}: over the limit", fontsize=8.5)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.tick_params(labelsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MultipleLocator(0.5))
            axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("nonsense", fontsize=10)
    figure.supylabel("sensible refusals", fontsize=10)
    return figure


def token_heatmap(tokens: Sequence[str], rows: Mapping[str, Sequence[float]], title: str, per_line: int = 12) -> Figure:
    """Log-prob of each token of one text under several laws: law -> values, in nats. Wrapped into lines of tokens."""
    lines = -(-len(tokens) // per_line)
    figure, panels = plt.subplots(lines, 1, figsize=(9, 0.75 + 1.25 * lines), squeeze=False)
    values = np.array(list(rows.values()))
    for line, axes in enumerate(panels[:, 0]):
        part = slice(line * per_line, min((line + 1) * per_line, len(tokens)))
        block = np.full((len(rows), per_line), np.nan)
        block[:, : part.stop - part.start] = values[:, part]
        words = [t.replace("$", r"\$").replace("\n", "\\n").strip() or "_" for t in tokens[part]]
        sns.heatmap(
            block,
            vmin=-8,
            vmax=0,
            cmap="viridis",
            annot=True,
            fmt=".1f",
            annot_kws={"size": 8},
            cbar=False,
            ax=axes,
            linewidths=0.5,
        )
        axes.set_xticks(np.arange(len(words)) + 0.5, words, rotation=0, fontsize=8.5)
        axes.set_yticks(np.arange(len(rows)) + 0.5, list(rows), rotation=0)
        axes.grid(False)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
    figure.suptitle(title, fontsize=10)
    return figure


def validation(scores: pd.DataFrame, verdict: str) -> Figure:
    """A judge's score against the label: columns truth, score."""
    figure, axes = plt.subplots(figsize=(5.5, 3))
    sns.histplot(
        scores, x="score", hue="truth", bins=20, binrange=(0, 1), multiple="stack", palette=_COLOURS[:2], ax=axes
    )
    axes.axvline(0.5, color="black", linestyle="--", linewidth=1)
    axes.set(xlabel=f"judge's probability of {verdict}", ylabel="labelled outputs")
    return figure
