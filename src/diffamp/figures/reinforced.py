"""Reward while a student is reinforced, and what amplifying the change does (the large profile's notebook grpo)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from diffamp.figures.style import COLOURS, percent_axis, series

SMOOTHED = 8
"""Steps of the running mean."""


def reinforced(log: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Share of right answers per step; then right answers and tokens per answer against alpha, a line per kind of task.

    Args:
        log: columns step and reward.
        table: `diffamp.behaviours.outcomes` by tasks and alpha.
    """
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    left.plot(log.step, log.reward, color="0.75", linewidth=1)
    mean = log.reward.rolling(SMOOTHED, min_periods=1, center=True).mean()
    left.plot(log.step, mean, color=COLOURS[0], label=f"mean of {SMOOTHED} steps")
    left.set(xlabel="step of GRPO", ylim=(0, None))
    left.yaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    left.set_ylabel("right answers (train tasks)")
    left.legend()
    for number, tasks in enumerate(table.tasks.unique()):
        of = table[table.tasks == tasks].sort_values("alpha")
        series(middle, of[of.measure == "correct"], "alpha", "value", tasks, number)
        series(right, of[of.measure == "length"], "alpha", "value", tasks, number)
    percent_axis(middle, "right answers")
    middle.set_ylim(0, 1.1 * table[table.measure == "correct"].high.max())
    right.set(ylabel="tokens per answer", ylim=(0, None))
    for axes in (middle, right):
        axes.set_xlabel("alpha (-1: the student, 0: reinforced)")
    middle.legend()
    return figure
