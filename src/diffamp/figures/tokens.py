"""Log-probs of a text, token by token (notebook 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure


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
