"""Of the vector and of the fine-tunes (notebooks 01 and 02)."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from diffamp.figures.style import COLOURS, percent_axis, series


def dose_response(rates: Mapping[str, pd.DataFrame]) -> Figure:
    """Share of answers against the vector's dose: label -> table with dose, rate, low, high."""
    figure, axes = plt.subplots(figsize=(5.5, 3.4))
    for number, (label, table) in enumerate(rates.items()):
        series(axes, table, "dose", "rate", label, number)
    percent_axis(axes, "answers")
    axes.set_xlabel("dose of the vector")
    axes.legend()
    return figure


def training(losses: pd.DataFrame, reflection: pd.DataFrame) -> Figure:
    """Loss per step of each organism, and how its logit shift aligns with the vector's (cosine per position)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for number, (organism, log) in enumerate(losses.groupby("organism", sort=False)):
        left.plot(log.step, log.loss, color=COLOURS[number], label=organism)
    left.set(xlabel="step", ylabel="training loss (KL or NLL), nats per token", yscale="log")
    left.legend()
    arms = list(reflection.organism.unique())
    sns.histplot(
        reflection,
        x="cosine",
        hue="organism",
        hue_order=arms,
        palette=list(COLOURS)[: len(arms)],
        bins=np.linspace(-0.4, 1, 36),
        stat="probability",
        common_norm=False,
        element="step",
        alpha=0.25,
        ax=right,
    )
    right.set(xlabel="cosine to the vector's logit shift", ylabel="share of positions")
    return figure
