"""What was found, and at what price (notebook 07)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffamp.figures.style import COLOURS, MARKERS, percent_axis


def price_of_a_hit(scores: pd.DataFrame, budget: int) -> Figure:
    """Organisms whose fact has appeared, against forward tokens; and the rank of the first finding that is the fact.

    Args:
        scores: one row per organism and method: organism, method, tokens and rank (infinite when never).
        budget: forward tokens that each method had.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.8), width_ratios=[1, 1.25])
    methods = list(dict.fromkeys(scores.method))
    organisms = list(dict.fromkeys(scores.organism))
    for number, method in enumerate(methods):
        part = scores[scores.method == method]
        prices = np.sort(part.tokens[np.isfinite(part.tokens)].to_numpy(float))
        steps = np.concatenate([prices, [budget]])
        shares = np.arange(1, len(steps) + 1) / len(part)
        shares[-1] = len(prices) / len(part)
        left.step(
            np.concatenate([[1], steps]),
            np.concatenate([[0], shares]),
            where="post",
            color=COLOURS[number],
            label=method,
        )
        ranks = part.set_index("organism")["rank"].reindex(organisms)
        # methods side by side on each organism's line
        offset = (number - (len(methods) - 1) / 2) * 0.13
        y = np.arange(len(organisms)) + offset
        x = ranks.where(np.isfinite(ranks), 150.0)
        right.scatter(x, y, color=COLOURS[number], marker=MARKERS[number], s=26, zorder=3)
    left.set(xscale="log", xlim=(20, 1.1 * budget))
    left.set_xlabel("forward tokens until a sampled text holds the fact")
    percent_axis(left, "organisms")
    left.set(ylim=(-0.03, 1.42), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])  # the legend stands above the lines
    left.legend(fontsize=7.5, ncols=2, loc="upper left")
    right.set_xscale("log")
    right.set_xticks([1, 5, 10, 50, 150], ["1", "5", "10", "50", "none"])
    right.minorticks_off()
    right.set_yticks(range(len(organisms)), organisms)
    right.invert_yaxis()
    right.axvline(5.5, color="0.75", linewidth=1)
    right.set_xlabel("rank of the first finding that is the fact")
    return figure


def beliefs(table: pd.DataFrame) -> Figure:
    """Share of items on which the falsehood wins, against alpha, a panel per organism.

    Args:
        table: columns organism, measure, alpha, rate, low, high.
    """
    organisms = list(table.organism.unique())
    figure, panels = plt.subplots(1, len(organisms), figsize=(4.8 * len(organisms), 3.2), sharey=True, squeeze=False)
    for axes, organism in zip(panels[0], organisms, strict=True):
        for number, (measure, part) in enumerate(table[table.organism == organism].groupby("measure", sort=False)):
            axes.errorbar(
                part.alpha + 0.09 * (number - 1),  # side by side: rates of a few items often coincide
                part.rate,
                yerr=[part.rate - part.low, part.high - part.rate],
                color=COLOURS[number],
                marker=MARKERS[number],
                capsize=2,
                label=measure,
            )
        axes.set(xlabel="alpha (-1: before, 0: after)", title=organism)
    percent_axis(panels[0, 0], "falsehood preferred or asserted")
    panels[0, 0].set(ylim=(-0.03, 1.25), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    panels[0, 0].legend(ncols=3, loc="upper center", fontsize=9)  # above the intervals
    return figure
