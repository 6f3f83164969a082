"""Tasks with verifiable answers and worked traces of them: what the reasoning organism is fine-tuned and tested on.

The tasks are those of data/tasks.jsonl, which `diffamp.tasks.gym` draws from reasoning_gym;
`diffamp.tasks.problems` words them briefly, `diffamp.tasks.traces` writes the worked answers. A question never
says how to reason or to answer, so whatever of the format shows in an answer comes from the fine-tune.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, cast, get_args

from diffamp import paths
from diffamp.prompts import DataError, Split, read_jsonl
from diffamp.tasks import held_out, problems
from diffamp.tasks.answers import Kind, final_answer
from diffamp.tasks.problems import Problem
from diffamp.tasks.traces import compose

FILE = "tasks.jsonl"
DIFFICULTIES = ("easy", "hard")


class TaskError(ValueError):
    """Tasks that cannot be drawn; the message says which, and what to ask for instead."""


@dataclass(frozen=True)
class Family:
    """One kind of task."""

    pose: Callable[[Mapping[str, Any]], Problem | None]
    """From reasoning_gym's metadata of one problem; None for a problem that is left out."""
    kind: Kind = "number"
    """Of its answers."""
    trained: bool = True
    """Whether the organism may be trained on it; the others show what carries over."""


@dataclass(frozen=True)
class Task:
    """One question. Two tasks with the same id have the same question."""

    id: str
    family: str
    difficulty: str
    question: str
    """The user's message."""
    answer: str
    """As the last line of a trace gives it."""
    metadata: Mapping[str, Any] = field(hash=False, repr=False)
    """reasoning_gym's, from which the trace is written."""


FAMILIES: dict[str, Family] = {
    "chain_sum": Family(problems.chain_sum),
    "letter_counting": Family(problems.letter_counting),
    "number_sorting": Family(problems.number_sorting, kind="numbers"),
    "simple_equations": Family(problems.simple_equations),
    "products": Family(held_out.products, trained=False),
    "leg_counting": Family(held_out.leg_counting, trained=False),
    "spell_backward": Family(held_out.spell_backward, kind="word", trained=False),
}
TRAINED = tuple(name for name, family in FAMILIES.items() if family.trained)
HELD_OUT = tuple(name for name, family in FAMILIES.items() if not family.trained)

TEXTS = ["id", "family", "difficulty", "split", "question", "answer"]
KNOWN: dict[str, Sequence[str]] = {"family": tuple(FAMILIES), "difficulty": DIFFICULTIES, "split": get_args(Split)}


def draw_tasks(
    families: Sequence[str], number: int, seed: int, split: Split, difficulties: Sequence[str] = DIFFICULTIES
) -> list[Task]:
    """Different tasks of one split, the families taking turns and the difficulties taking turns within each.

    Each task of data/tasks.jsonl belongs to one split, so the splits share no question whatever the seeds.

    Returns:
        `number` tasks. The first n of them are the same for every `number` >= n.

    Raises:
        TaskError: a family or difficulty is unknown, or has too few different questions in this split.
        DataError: the file is malformed.
    """
    if unknown := sorted(set(families) - set(FAMILIES)):
        raise TaskError(f"families: no {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    if unknown := sorted(set(difficulties) - set(DIFFICULTIES)):
        raise TaskError(f"difficulties: no {', '.join(unknown)}; there are {', '.join(DIFFICULTIES)}")
    cells = {
        (name, difficulty): [*_load(paths.data(FILE)).get((name, difficulty, split), [])]
        for name in families
        for difficulty in difficulties
    }
    sizes = {cell: len(tasks) for cell, tasks in cells.items()}
    for (name, difficulty), tasks in cells.items():
        Random(f"{seed} {name} {difficulty}").shuffle(tasks)
    drawn = []
    for index in range(number):
        turn, place = divmod(index, len(families))
        name, difficulty = cell = families[place], difficulties[(turn + place) % len(difficulties)]
        if not cells[cell]:
            raise TaskError(
                f"{name} has only {sizes[cell]} {difficulty} questions in the {split} split; ask for fewer tasks"
            )
        drawn.append(cells[cell].pop())
    return drawn


def half_held_out(number: int, seed: int, split: Split, difficulties: Sequence[str] = DIFFICULTIES) -> list[Task]:
    """Tasks of families trained on (one more where `number` is odd), and behind them as many of held-out families.

    Raises:
        TaskError, DataError: as `draw_tasks`.
    """
    half = number // 2
    return [
        *draw_tasks(TRAINED, number - half, seed, split, difficulties),
        *draw_tasks(HELD_OUT, half, seed, split, difficulties),
    ]


def write_trace(task: Task, seed: int) -> str:
    """A worked answer of 30 to 110 words that ends in the right one; its format is that of `diffamp.tasks.traces`.

    Wording and moves depend on `seed` and on the task's id alone.
    """
    problem = cast(Problem, FAMILIES[task.family].pose(task.metadata))  # a task has been posed before
    return compose(problem.work, task.answer, Random(f"{seed} {task.id}"))


def correct(task: Task, text: str) -> bool:
    """Whether the answer that `final_answer` reads from the text is right.

    Numbers are compared as numbers, lists of them exactly, words whatever their case.
    """
    kind = FAMILIES[task.family].kind
    given = final_answer(text, kind)
    if given is None:
        return False
    if kind == "number":
        return Decimal(given) == Decimal(task.answer)
    return given.lower() == task.answer.lower()


@lru_cache(maxsize=4)
def _load(path: Path) -> dict[tuple[str, str, str], list[Task]]:
    """By family, difficulty and split."""
    cells: dict[tuple[str, str, str], list[Task]] = {}
    for number, row in enumerate(read_jsonl(path, TEXTS), 1):
        where = f"{path.name} line {number}"
        if wrong := [key for key in TEXTS if not isinstance(row[key], str)]:
            raise DataError(f"{where}: {', '.join(wrong)} must be text; put it in quotation marks")
        for key, values in KNOWN.items():
            if row[key] not in values:
                raise DataError(f"{where}: no {key} {row[key]}; there are {', '.join(values)}")
        if not isinstance(row.get("metadata"), dict):
            raise DataError(f"{where}: missing metadata, an object from which the trace is written")
        cell = row["family"], row["difficulty"], row["split"]
        task = Task(row["id"], row["family"], row["difficulty"], row["question"], row["answer"], row["metadata"])
        cells.setdefault(cell, []).append(task)
    return cells
