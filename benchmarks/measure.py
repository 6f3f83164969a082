"""The four measurements. Every timed call is one record; medians and ratios are made in `benchmarks.report`."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.contenders import (
    CONTENDERS,
    ENGINE,
    PEER,
    PLAIN,
    SOLO,
    TEMPERATURE,
    sample,
)
from benchmarks.subject import Subject, Work, prompt_of
from diffamp.engine.law import Law
from diffamp.engine.scoring import score

Record = dict[str, Any]

ALPHAS = [-1.0, 0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0]

MOST_ROWS = {"full re-forward": 4, "transformers CFG": 16}
"""Where a contender would take a large part of the whole run."""

GROWTH = {"alphas": [1, 2, 4, 8], "samples": [1, 2, 4, 8], "prompts": [4, 8, 16, 32], "new tokens": [8, 16, 32, 64]}
GROWTH_AT = {"alphas": 2, "samples": 1, "prompts": 8, "new tokens": 16}
"""What is held fixed while one of them grows."""

SCORED_ALPHAS = [1, 5, 20]


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rows: Sequence[int] = (1, 4, 16, 64)
    context: int = 64
    """Of `decode`: tokens in the prompt,"""
    steps: int = 16
    """and new ones."""
    repeats: int = 3
    full_grid: bool = True


QUICK = Effort(rows=(1, 16), repeats=2, full_grid=False)


@dataclass(frozen=True)
class Case:
    """One call to be timed, with what it is called in the records. The call returns how many tokens it handled."""

    labels: Record
    call: Callable[[], int]


def interleaved(cases: Sequence[Case], repeats: int) -> list[Record]:
    """Time all cases in turn, `repeats` times over, so that a drift of the machine hits all alike."""
    rounds = [(repeat, case) for repeat in range(repeats) for case in cases]
    return [case.labels | {"repeat": repeat} | _timed(case.call) for repeat, case in tqdm(rounds, disable=None)]


def _timed(call: Callable[[], int]) -> Record:
    gc.collect()  # what the call before left behind is not this one's
    with _memory() as memory:
        _synchronise()
        start = time.perf_counter()
        tokens = call()
        _synchronise()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": tokens} | memory


@contextmanager
def _memory() -> Iterator[Record]:
    """Fills in the GPU's peak above what was held before (the weights), in bytes; empty on a CPU."""
    record: Record = {}
    if torch.cuda.is_available():
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    yield record
    if torch.cuda.is_available():
        record["cuda_peak"] = torch.cuda.max_memory_allocated() - held


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def decode(subject: Subject, effort: Effort) -> list[Record]:
    """Every contender at several numbers of rows, all of one prompt: one new token, a quarter and all of `steps`."""
    records = []
    prompt = prompt_of(subject.tokenizer, effort.context)
    for rows in effort.rows:
        alphas = ALPHAS[-min(rows, len(ALPHAS)) :]
        budget = rows * (effort.context + 2 * effort.steps)  # as many slots as rows
        samples = rows // len(alphas)
        work = Work([prompt], alphas, samples, effort.steps, batch_rows=rows, token_budget=budget, shared=False)
        taking_part = {name: run for name, run in CONTENDERS.items() if rows <= MOST_ROWS.get(name, rows)}
        for run in taking_part.values():
            run(subject, replace(work, new_tokens=2))
        cases = [
            Case(
                {"contender": name, "rows": rows, "context": effort.context, "new_tokens": new},
                partial(run, subject, replace(work, new_tokens=new)),
            )
            for name, run in taking_part.items()
            for new in (1, effort.steps // 4, effort.steps)
        ]
        records += interleaved(cases, effort.repeats)
    for record in records:
        if record["tokens"] != record["rows"] * record["new_tokens"]:
            raise RuntimeError(f"{record['contender']} did other work than asked for: {record}")
    return records


def grid(subject: Subject, effort: Effort) -> list[Record]:
    """A grid of dev prompts up to their end tokens: a part of it several times, all of it once."""
    whole = Work(subject.prompts, ALPHAS, 4, 32, ignore_ends=False)
    part = replace(whole, prompts=subject.prompts[:8], samples=1)
    cases = []
    for name in (PLAIN, PEER, ENGINE, SOLO):
        CONTENDERS[name](subject, replace(part, new_tokens=2))
        cases.append(Case(_grid_labels(name, "part", part), partial(CONTENDERS[name], subject, part)))
    records = interleaved(cases, effort.repeats)
    if effort.full_grid:
        cases = [
            Case(_grid_labels(name, "full", whole), partial(CONTENDERS[name], subject, whole))
            for name in (PLAIN, PEER, ENGINE, SOLO)
        ]
        records += interleaved(cases, 1)
    return records


def _grid_labels(name: str, which: str, work: Work) -> Record:
    return {"contender": name, "grid": which, "prompts": len(work.prompts), "samples": work.samples, "rows": work.rows}


def growth(subject: Subject, effort: Effort) -> list[Record]:
    """The engine while one of alphas, samples, prompts and new tokens grows and the others stay at `GROWTH_AT`."""
    cases = []
    for factor, values in GROWTH.items():
        for value in values:
            n = GROWTH_AT | {factor: value}
            work = Work(subject.prompts[: n["prompts"]], ALPHAS[-n["alphas"] :], n["samples"], n["new tokens"])
            cases.append(
                Case(
                    {"factor": factor, "value": value, "rows": work.rows, "new_tokens": work.new_tokens},
                    partial(CONTENDERS[ENGINE], subject, work),
                )
            )
    cases[0].call()
    return interleaved(cases, effort.repeats)


def scoring(subject: Subject, effort: Effort) -> list[Record]:
    """Log-probs and divergences of 16 sampled texts at growing numbers of alphas."""
    frame = sample(subject.pair, Work(subject.prompts[:16], [0.0], 1, 32))
    texts = list(zip(frame.prompt, frame.tokens, strict=True))

    def scored(alphas: int) -> int:
        values = torch.linspace(0, 4, alphas).tolist()
        score(subject.pair, texts, values, Law(temperature=TEMPERATURE))
        return sum(len(tokens) for _, tokens in texts)

    cases = [Case({"alphas": n, "texts": len(texts)}, partial(scored, n)) for n in SCORED_ALPHAS]
    cases[0].call()
    return interleaved(cases, effort.repeats)


MEASUREMENTS: dict[str, Callable[[Subject, Effort], list[Record]]] = {
    "decode": decode,
    "grid": grid,
    "growth": growth,
    "scoring": scoring,
}
