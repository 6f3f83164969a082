"""What a notebook leaves beside itself: figures, numbers, and its finding in words."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from IPython.display import Image, Markdown
from matplotlib.figure import Figure

from diffamp import paths


def save_figure(figure: Figure, name: str) -> None:
    """reports/figures/NAME.png, without the metadata that would change its bytes from run to run."""
    path = paths.report(f"figures/{name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def save_finding(
    notebook: str, question: str, answer: str, details: Sequence[str], numbers: Mapping[str, Any], figure: str
) -> Markdown:
    """reports/metrics/NOTEBOOK.json, from which the summary and the README quote; returns the finding for display.

    Args:
        answer: to the question, in a few sentences: all that is quoted.
        details: what a reader of the notebook should know besides, a sentence or two each.
    """
    path = paths.report(f"metrics/{notebook}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"question": question, "answer": answer, "details": list(details)}
    content = said | {"figure": f"figures/{figure}.png", "numbers": _plain(numbers)}
    path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")
    return Markdown("\n".join([f"**Finding.** {answer}", "", *(f"- {detail}" for detail in details)]))


def _plain(value: Any) -> Any:
    """Numbers as JSON knows them: numpy's unwrapped, NaN as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_findings() -> dict[str, dict[str, Any]]:
    """What every notebook of the pipeline found, by its name, in order."""
    written = {notebook.stem: paths.report(f"metrics/{notebook.stem}.json") for notebook in paths.notebooks()}
    return {name: json.loads(file.read_text()) for name, file in written.items() if file.is_file()}


def findings_table(findings: Mapping[str, Mapping[str, Any]]) -> Markdown:
    """Question and answer, one row per notebook."""
    rows = [f"| [{name}]({name}.ipynb) | {f['question']} | {f['answer']} |" for name, f in findings.items()]
    return Markdown("\n".join(["| notebook | question | answer |", "|---|---|---|", *rows]))


def figures_shown(findings: Mapping[str, Mapping[str, Any]]) -> list[Markdown | Image]:
    """Each notebook's figure under its question."""
    shown: list[Markdown | Image] = []
    for name, finding in findings.items():
        shown += [
            Markdown(f"### {name}: {finding['question']}"),
            Image(str(paths.report(finding["figure"])), width=720),
        ]
    return shown
