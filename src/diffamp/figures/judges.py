"""What judges are worth (notebook 04)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

from diffamp.figures.style import COLOURS, MARKERS


def validation(scores: pd.DataFrame, bins: int = 5) -> Figure:
    """ROC, calibration and confusion of each judge on labels it has not seen.

    Args:
        scores: `diffamp.judges.validation.validation_scores`: columns judge, score, truth.
        bins: of equal width over the score; each shows its Wilson interval.
    """
    judges = list(dict.fromkeys(scores.judge))
    figure, (roc, calibration, *tables) = plt.subplots(
        1, 2 + len(judges), figsize=(9.6, 2.9), width_ratios=[1.5, 1.5, *(1 for _ in judges)]
    )
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], color="0.75", linewidth=1)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    for number, (name, part) in enumerate(scores.groupby("judge", sort=False)):
        false, true, _ = roc_curve(part.truth, part.score)
        roc.plot(false, true, color=COLOURS[number], label=f"{name}: AUC {roc_auc_score(part.truth, part.score):.2f}")
        binned = part.groupby(np.minimum((part.score * bins).astype(int), bins - 1))
        at = binned.agg(score=("score", "mean"), hits=("truth", "sum"), n=("truth", "size"))
        share = at.hits / at.n
        low, high = proportion_confint(at.hits, at.n, method="wilson")
        calibration.errorbar(
            at.score,
            share,
            yerr=[np.maximum(share - low, 0), np.maximum(high - share, 0)],
            color=COLOURS[number],
            marker=MARKERS[number],
            capsize=2,
            label=name,
        )
        table = confusion_matrix(part.truth, part.score > 0.5, labels=[False, True])
        axes = tables[number]
        sns.heatmap(table, annot=True, fmt="d", cmap="Greys", cbar=False, ax=axes, square=True, vmin=0, vmax=len(part))
        axes.set(title=name, xlabel="judged", xticklabels=["no", "yes"], yticklabels=["no", "yes"])
        axes.grid(False)
    tables[0].set_ylabel("labelled")
    roc.set(xlabel="false positive rate", ylabel="true positive rate")
    roc.legend(fontsize=7.5, loc="lower right")
    calibration.set(xlabel="judge's probability", ylabel="share so labelled")
    calibration.legend(fontsize=7.5, loc="upper left")
    return figure
