"""From records to tables and the figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

import diffamp
from benchmarks.contenders import CONTENDERS, ENGINE, PEER, PLAIN, SOLO
from benchmarks.machine import Facts
from benchmarks.measure import ALPHAS, GROWTH_AT, MOST_ROWS, Record


def markdown(found: Facts, timings: dict[str, list[Record]]) -> str:
    """The report of one run: every measurement that was made."""
    repeats = 1 + max(int(r["repeat"]) for records in timings.values() for r in records)
    parts = [
        f"# Benchmark: {found.get('gpu', found['cpu'])}",
        "Written by `python -m benchmarks`; every single timing is in the .json file beside this one.",
        _table(["", ""], [(key, str(value)) for key, value in found.items()]),
        f"All in one process. Unless a section says otherwise each number is the median of {repeats} timed calls, its "
        "range in brackets; contenders take turns (A B C A B C), after one short call each that is not timed. "
        "Where a contender's prefill takes seconds, its step, a difference of two calls, is as uncertain as the range "
        "says. Peers run under the same settings of the process (threads, memory allocator) as diffamp. The two named "
        f"*one model* below ({PLAIN}; {SOLO}) do not amplify: they are the floor.",
    ]
    for name, records in timings.items():
        parts += SECTIONS[name](pd.DataFrame(records))
    return "\n\n".join(parts) + "\n"


def decode_steps(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per number of rows, contender and repeat: seconds of `prefill` and per `step`, and tokens per second."""
    wide = frame.pivot(index=["rows", "contender", "repeat"], columns="new_tokens", values="seconds")
    _, few, many = sorted(wide.columns)
    steps = pd.DataFrame({"prefill": wide[1], "step": (wide[many] - wide[few]) / (many - few)}).reset_index()
    return steps.assign(rate=steps.rows / steps.step)


def _decode(frame: pd.DataFrame) -> list[str]:
    limits = ", ".join(f"`{name}` up to {rows} rows" for name, rows in MOST_ROWS.items())
    context, (_, few, many) = frame.context.iloc[0], sorted(frame.new_tokens.unique())
    parts = [
        "## Decode",
        f"All rows continue one prompt of {context} tokens by {many}, end tokens ignored. Prefill is the time of a "
        f"call for one new token; a step is the {many}-token call less one of {few}, over {many - few}: what is set up "
        "in the first steps (CUDA graphs take two) is in neither. A token "
        f"counts once, whatever number of forwards it takes. Measured only in part: {limits}. `transformers CFG` has "
        "one scale for all rows, and batches only rows of one length. Rows of the engine share one prefill and "
        "nothing else: what they have in common is decoded for each (it is decoded once in a grid).",
    ]
    steps = decode_steps(frame)
    for rows, part in steps.groupby("rows"):
        medians = part.groupby("contender").step.median()
        header = ["contender", "prefill, ms", "step, ms", "tokens/s", f"time / {PLAIN}", f"speed-up over {PEER}"]
        cells = [
            [
                name,
                _spread(1000 * of.prefill),
                _spread(1000 * of.step),
                _number(of.rate.median()),
                f"{medians[name] / medians[PLAIN]:.2f}",
                f"{medians[PEER] / medians[name]:.2f}",
            ]
            for name, of in _in_order(part)
        ]
        if "cuda_peak" in frame:
            header.append("peak above the weights, MiB")
            peaks = frame[frame.rows == rows].groupby("contender").cuda_peak.max() / 2**20
            for row in cells:
                row.append(f"{peaks[row[0]]:.0f}")
        parts += [f"### {rows} row{'s' if rows > 1 else ''}", _table(header, cells)]
    return parts


def _grid(frame: pd.DataFrame) -> list[str]:
    parts = [
        "## Grid",
        f"Dev prompts x {len(ALPHAS)} alphas x samples, up to 32 new tokens, to the end token. The loop and `generate` "
        "take batches of 32 rows, and keep a row until its batch is done"
        + ("; the full grid runs once." if "full" in set(frame.grid) else "."),
    ]
    for _, of_grid in frame.groupby("grid", sort=False):
        seconds = of_grid.groupby("contender").seconds.median()
        rate = (of_grid.tokens / of_grid.seconds).groupby(of_grid.contender).median()
        first = of_grid.iloc[0]
        header = ["contender", "tokens", "seconds", "tokens/s", f"speed / {PLAIN}", f"speed / {PEER}"]
        cells = [
            [
                name,
                f"{of.tokens.median():.0f}",
                _spread(of.seconds) if len(of) > 1 else _number(seconds[name]),
                _number(rate[name]),
                *(f"{rate[name] / rate[other]:.2f}" if other in rate else "" for other in (PLAIN, PEER)),
            ]
            for name, of in _in_order(of_grid)
        ]
        title = f"### {first.prompts} prompts x {len(ALPHAS)} alphas x {first.samples} samples ({first.rows} texts)"
        parts += [title.replace("x 1 samples", "x 1 sample"), _table(header, cells)]
    return parts


def _growth(frame: pd.DataFrame) -> list[str]:
    fixed = ", ".join(f"{value} {name}" for name, value in GROWTH_AT.items())
    cells = []
    for factor, part in frame.groupby("factor", sort=False):
        medians = part.groupby("value").seconds.median()
        for value, of in part.groupby("value"):
            growth = f"{medians[value] / medians.iloc[0]:.2f}"
            cells.append([factor, str(value), str(of.rows.iloc[0]), _spread(of.seconds), growth])
    header = ["what grows", "to", "texts", "seconds", "times the first"]
    return [
        "## Growth",
        f"The engine while one thing grows and the others stay (of {fixed}); end tokens ignored.".replace(
            " 1 samples", " 1 sample"
        ),
        _table(header, cells),
    ]


def _scoring(frame: pd.DataFrame) -> list[str]:
    medians = frame.groupby("alphas").seconds.median()
    cells = [
        [str(alphas), _spread(of.seconds), f"{medians[alphas] / medians.iloc[0]:.2f}"]
        for alphas, of in frame.groupby("alphas")
    ]
    return [
        "## Scoring",
        f"Log-probs and divergences of {frame.texts.iloc[0]} texts ({frame.tokens.iloc[0]} tokens) under before, after "
        "and every alpha, from one pair of passes.",
        _table(["alphas", "seconds", "times one alpha"], cells),
    ]


SECTIONS: dict[str, Callable[[pd.DataFrame], list[str]]] = {
    "decode": _decode,
    "grid": _grid,
    "growth": _growth,
    "scoring": _scoring,
}


def figure(records: list[Record]) -> Figure:
    """Tokens per second against rows, medians with the range over repeats; solid lines amplify, dashed ones do not."""
    steps = decode_steps(pd.DataFrame(records))
    present = [name for name in CONTENDERS if name in set(steps.contender)]
    with plt.style.context(Path(diffamp.__file__).with_name("figures") / "diffamp.mplstyle"):
        drawn, axes = plt.subplots(figsize=(6, 5.4))
        colours = sns.color_palette("colorblind")
        for number, name in enumerate(CONTENDERS):
            if name not in present:
                continue
            by_rows = steps[steps.contender == name].groupby("rows").rate
            low, middle, high = by_rows.min(), by_rows.median(), by_rows.max()
            axes.errorbar(
                middle.index,
                middle,
                yerr=[middle - low, high - middle],
                color=colours[number],
                marker="osD^vPX*"[number],
                linestyle="--" if name in (PLAIN, SOLO) else "-",
                linewidth=3 if name == ENGINE else 1.5,
                label=name,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        rows = sorted(steps.rows.unique())
        axes.set_xticks(rows, [str(n) for n in rows])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel="rows decoded together", ylabel="tokens per second")
        drawn.legend(loc="outside lower center", ncols=2, title="dashed: one model, not amplified")
    return drawn


def _in_order(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The contenders that took part, in the order in which they are listed."""
    return [(name, frame[frame.contender == name]) for name in CONTENDERS if name in set(frame.contender)]


def _spread(values: pd.Series) -> str:
    return f"{_number(values.median())} ({_number(values.min())}-{_number(values.max())})"


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
