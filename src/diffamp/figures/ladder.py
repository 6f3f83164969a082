"""Found or not, by dilution, method and price; what texts were begun from (the large profile's notebooks)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffamp.figures.style import COLOURS, MARKERS, percent_axis


def rungs(scores: pd.DataFrame, found: pd.DataFrame, budget: int) -> Figure:
    """Above, searches in whose texts the fact has appeared, against forward tokens; below, those that list it.

    Args:
        scores: one row per search: dilution, method, tokens (until the first text with the fact; infinite when none).
        found: columns dilution, method, rate, low, high: share of searches with the fact among their first findings.
        budget: forward tokens that each method had.
    """
    dilutions, methods = sorted(scores.dilution.unique()), list(dict.fromkeys(scores.method))
    figure, axes = plt.subplots(
        2, len(dilutions), figsize=(3.4 * len(dilutions), 5.4), squeeze=False, sharey="row", height_ratios=[1, 0.9]
    )
    for dilution, (upper, lower) in zip(dilutions, axes.T, strict=True):
        for number, method in enumerate(methods):
            colour = COLOURS[number]
            part = scores[(scores.dilution == dilution) & (scores.method == method)]
            prices = np.sort(part.tokens[np.isfinite(part.tokens)].to_numpy(float))
            shares = np.arange(len(prices) + 1) / len(part)
            upper.step([10, *prices, budget], [*shares, shares[-1]], where="post", color=colour, label=method)
            bar = found[(found.dilution == dilution) & (found.method == method)].iloc[0]
            lower.errorbar(
                [bar.rate],
                [number],
                xerr=[[bar.rate - bar.low], [bar.high - bar.rate]],
                color=colour,
                fmt="o",
                capsize=2,
            )
        upper.set(title=f"1:{dilution}", xscale="log", xlim=(20, budget), xlabel="forward tokens")
        lower.set(xlim=(-0.04, 1.04), xlabel="fact among the first five findings")
        lower.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])  # more would run into the next panel's
    percent_axis(axes[0, 0], "searches with a hit among texts")
    axes[1, 0].set_yticks(range(len(methods)), methods)
    for label, colour in zip(axes[1, 0].get_yticklabels(), COLOURS, strict=False):
        label.set_color(colour)  # the key to the panels above
    axes[1, 0].invert_yaxis()
    return figure


def kinds_of_starts(shares: pd.DataFrame) -> Figure:
    """Share of texts that hold the fact, by the kind of word that they were begun from: a panel per dilution.

    Args:
        shares: columns dilution, kind, template, rate, low, high.
    """
    dilutions, templates = sorted(shares.dilution.unique()), list(dict.fromkeys(shares.template))
    kinds = list(dict.fromkeys(shares.kind))
    figure, axes = plt.subplots(
        1, len(dilutions), figsize=(0.6 + 3.8 * len(dilutions), 0.9 + 0.5 * len(kinds)), squeeze=False, sharey=True
    )
    for panel, dilution in zip(axes[0], dilutions, strict=True):
        for number, template in enumerate(templates):
            part = shares[(shares.dilution == dilution) & (shares.template == template)]
            panel.errorbar(
                part.rate,
                [kinds.index(k) + 0.16 * (2 * number - 1) for k in part.kind],
                xerr=[part.rate - part.low, part.high - part.rate],
                fmt=MARKERS[number],
                color=COLOURS[number],
                capsize=2,
                label=template,
            )
        panel.set(title=f"1:{dilution}", xlim=(-0.04, 1.04), xlabel="texts that hold the fact")
        panel.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes[0, 0].set_yticks(range(len(kinds)), kinds)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(title="the word begins")
    return figure
