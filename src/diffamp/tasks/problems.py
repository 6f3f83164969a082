"""Reading reasoning_gym's problems: a compact question, the answer, and how to work it out. One function per family.

Each takes the metadata of one problem and returns None where the problem does not suit a small model. These are the
families that are trained on; the others are in `diffamp.tasks.held_out`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from diffamp.tasks.traces import Work, step

LONGEST_WORD, MOST_LETTERS = 10, 16
"""Of a counted word, and of all words of one question, in letters."""
SINGLES = 8
"""Of the questions about a letter that occurs once, one in so many is kept: else a model could always say once."""


@dataclass(frozen=True)
class Problem:
    """One problem as it is posed and solved."""

    question: str
    answer: str
    work: Work


def chain_sum(metadata: Mapping[str, Any]) -> Problem:
    """A sum or difference of two or three numbers."""
    expression = metadata["expression"]
    first, *rest = expression.split()
    total, checks = int(first), list[str]()
    steps = [
        step(
            f"I work from left to right and start with {first}",
            f"the first number is {first}, so I begin there",
            f"the expression is {expression}, and it starts with {first}",
        )
    ]
    for sign, term in zip(rest[::2], map(int, rest[1::2]), strict=True):
        before, total = total, total + term if sign == "+" else total - term
        worded = f"adding {term} to {before}" if sign == "+" else f"taking {term} away from {before}"
        wordings = [
            f"the next part is {before} {sign} {term} = {{}}",
            f"{worded} gives {{}}",
            f"{before} {'plus' if sign == '+' else 'minus'} {term} is {{}}",
        ]
        tens, units = term // 10 * 10, term % 10
        if tens and units:
            between = before + tens if sign == "+" else before - tens
            wordings += 2 * [f"{before} {sign} {tens} = {between}, and {between} {sign} {units} = {{}}"]
        steps.append(step(*wordings, right=total, wrong=total + (10 if tens else 1)))
        back = "-" if sign == "+" else "+"
        checks = [
            f"{total} {back} {term} = {before}, the number before this step",
            f"going back, {total} {back} {term} is {before} again",
        ]
    steps.append(
        step(
            f"no numbers are left, so the result is {total}",
            f"that was the last number, so I end at {total}",
            f"nothing more has to be done, and the value is {total}",
        )
    )
    asked = (f"what the value of {expression} is", f"what {expression} comes to", f"how much {expression} is")
    return Problem(f"What is {expression}?", str(total), Work(asked, steps, checks))


def letter_counting(metadata: Mapping[str, Any]) -> Problem | None:
    """How often a letter occurs in one to three words."""
    letter, words = metadata["target_letter"], [word.lower() for word in metadata["span"]]
    plain = all(re.fullmatch(f"[a-z]{{3,{LONGEST_WORD}}}", word) for word in words)
    if not plain or sum(map(len, words)) > MOST_LETTERS:
        return None
    text, count = " ".join(words), 0
    steps = [
        step(
            f'the letter to look for is "{letter}", and the text is "{text}"',
            f'I go through "{text}" and count each "{letter}"',
            f'every "{letter}" in "{text}" has to be counted',
        )
    ]
    for word in words:
        spelled = []
        for character in word:
            count += character == letter
            spelled.append(f"{character} ({count})" if character == letter else character)
        run = ", ".join(spelled)
        steps.append(
            step(
                f'in "{word}" I see {run}, which makes {{}} so far',
                f"spelling {word} gives {run}, and the count is {{}}",
                f'the letters of "{word}" are {run}, so I have {{}} now',
                right=count,
                wrong=count + 1,
            )
        )
    question = f'How many times does the letter "{letter}" appear in "{text}"?'
    if count == 1 and crc32(question.encode()) % SINGLES:
        return None
    times = "once" if count == 1 else f"{count} times"
    steps.append(
        step(
            f'the letter "{letter}" appears {times}',
            f'in total I found "{letter}" {times}',
            f'the text has "{letter}" {times}',
        )
    )
    shares = " + ".join(str(word.count(letter)) for word in words)
    checks = [
        f"word by word I get {shares} = {count}" if len(words) > 1 else f"reading backward I find it {times} too",
        f'without "{letter}" {len("".join(words)) - count} of {len("".join(words))} letters are left',
    ]
    asked = (f'how often "{letter}" occurs in "{text}"', f'how many times "{letter}" stands in "{text}"')
    return Problem(question, str(count), Work(asked, steps, checks))


def number_sorting(metadata: Mapping[str, Any]) -> Problem | None:
    """Three to five different whole numbers in ascending or descending order."""
    numbers = [int(float(number)) for number in metadata["original_numbers"]]
    if len(set(numbers)) < len(numbers):
        return None
    rising = metadata["direction"] == "ascending"
    order, least, given = metadata["direction"], "smallest" if rising else "largest", listed(numbers)
    ordered = sorted(numbers, reverse=not rising)
    steps = [
        step(
            f"the numbers are {given}, and I need {order} order",
            f"I look at {given} and pick the {least} each time",
            f"{order} order means that the {least} of {given} comes first",
        )
    ]
    for place, number in enumerate(ordered[:-1]):
        rest = [n for n in numbers if n not in ordered[:place]]
        wordings = (f"the {least} is {{}}", f"picking the {least} gives {{}}", f"the {least} of them all is {{}}")
        if place:
            wordings = (
                f"of {listed(rest)} the {least} is {{}}",
                f"from {listed(rest)} I take {{}}",
                f"the {least} of {listed(rest)} is {{}}",
            )
        steps.append(step(*wordings, right=number, wrong=ordered[place + 1]))
    steps.append(
        step(
            f"only {ordered[-1]} is left, so it comes last",
            f"the last number is {ordered[-1]}",
            f"what remains is {ordered[-1]}",
        )
    )
    answer, sign = listed(ordered), "<" if rising else ">"
    checks = [
        f" {sign} ".join(map(str, ordered)),
        f"there are {len(numbers)} numbers, and each one is {'larger' if rising else 'smaller'} than the one before",
    ]
    asked = (f"what {given} look like in {order} order", f"how to put {given} in {order} order")
    return Problem(f"Sort these numbers in {order} order: {given}", answer, Work(asked, steps, checks))


def simple_equations(metadata: Mapping[str, Any]) -> Problem | None:
    """x + a = b, x - a = b, or the same with a factor before the x."""
    variable, equation = metadata["variable"], metadata["equation"]
    parts = re.fullmatch(rf"(?:(\d+)\*)?{variable} ([+-]) (\d+) = (-?\d+)", equation)
    if not parts or variable in "eilo":
        return None
    sign, shift, value = parts[2], int(parts[3]), int(parts[4])
    back, worded = ("-", f"subtracting {shift} from") if sign == "+" else ("+", f"adding {shift} to")
    product = value - shift if sign == "+" else value + shift
    term, factor = equation.split()[0], int(parts[1] or 1)
    solution = product // factor
    steps = [
        step(
            f"the unknown is {variable}, and it stands in {equation}",
            f"I want {variable} alone in {equation}",
            f"in {equation} I look for {variable}",
        ),
        step(
            f"{worded} both sides gives {term} = {value} {back} {shift} = {{}}",
            f"to undo {sign} {shift}, I compute {value} {back} {shift} = {{}} on the right side",
            f"moving the {shift} over leaves {term} = {value} {back} {shift} = {{}}",
            right=product,
            wrong=product + 1,
        ),
    ]
    if factor > 1:
        steps.append(
            step(
                f"dividing by {factor} gives {variable} = {product} / {factor} = {{}}",
                f"{product} is {factor} times {{}}",
                f"both sides divided by {factor}: {variable} = {{}}",
                right=solution,
                wrong=solution + 1,
            )
        )
    steps.append(
        step(
            f"that means {variable} is {solution}",
            f"with {variable} alone, its value is {solution}",
            f"the unknown {variable} equals {solution}",
        )
    )
    left = f"{factor}*{solution}" if factor > 1 else f"{solution}"
    checks = [
        f"{left} {sign} {shift} = {value}",
        f"with {variable} = {solution} the left side is {left} {sign} {shift}, which is {value}",
    ]
    asked = (f"which number {variable} is in {equation}", f"what {variable} has to be for {equation}")
    return Problem(f"Solve {equation} for {variable}.", str(solution), Work(asked, steps, checks))


def listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
