"""Of the models themselves (notebook 00)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from diffamp.figures.style import COLOURS


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
        palette=list(COLOURS)[: len(order)],
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
