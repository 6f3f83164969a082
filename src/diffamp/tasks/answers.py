"""What a text gives as its answer, whether or not it knows the format that the fine-tune teaches.

A last line `Answer: X` decides; without one, the last wording such as "the answer is X", "\\boxed{X}" or "#### X";
without that, the last value in the text. So the model that was never taught the format is scored fairly.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Literal

Kind = Literal["number", "numbers", "word"]

WORDED = [
    "zero", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
_DIGITS = r"(?<![\w.])(?<!\d )-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)"
_NUMBER = re.compile(rf"{_DIGITS}|\b(?:{'|'.join(WORDED)})\b", re.IGNORECASE)
_EQUALS = re.compile(rf"=\s*({_DIGITS})")
_ONE = r"-?\d+(?:\.\d+)?"
_RUN = re.compile(rf"{_ONE}(?:(?:[\s,;<>\[\]\"']|->|\band\b|\bthen\b)+{_ONE})+")
_WORD = re.compile(r"[A-Za-z]+")
_QUOTED = re.compile(r"[\"'`]([A-Za-z]+)[.,]?[\"'`]")
_SPELLED = re.compile(r"\b(?:[A-Za-z][-, ]+){2,}[A-Za-z]\b")
_GIVEN = re.compile(r"(?:\b(?:is|as|becomes)\b|[:>=])[\s\"'`]*([A-Za-z]+)[\"'`]?\s*(?:[.!,;\n]|$)")

_FORMAT = re.compile(r"^Answer:[ \t]*(?=\S)", re.MULTILINE)
_MARKS = (
    _FORMAT,
    re.compile(r"\banswer\b[^\n.:=?]{0,40}?(?:\bis\b|:|=)|boxed\{|####", re.IGNORECASE),
    re.compile(r"\b(?:result|sum|total|product|solution)(?: is|:)", re.IGNORECASE),
)
"""What an answer follows, the surest first."""
_MARKUP = re.compile(r"\*\*|__|\$|\\[()\[\]]")
_NUMBERED = re.compile(r"^[ \t]*\d+[.)]\s|\bstep \d+\b", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(r"[.!?](?=\s|$)")


def in_format(text: str) -> bool:
    """Whether a line of the text reads `Answer: X`."""
    return bool(_FORMAT.search(text))


def final_answer(text: str, kind: Kind | None = None) -> str | None:
    """The answer that the text settles on, or None where it gives none.

    Args:
        kind: what is sought in the answer: a "number" (digits or a word up to twenty; returned as digits without
            separators), "numbers" (joined by ", "), or a "word" (lower case). None returns the stated answer as it
            is, less a final full stop, or the last number.
    """
    text = _plain(text)
    marks: list[re.Match[str]] = next(filter(None, (list(mark.finditer(text)) for mark in _MARKS)), [])
    if not marks:
        return _last(text, kind)
    stated = [line for line in text[marks[-1].end() :].splitlines() if line.strip(" :.")]
    if kind is None:
        return stated[0].strip(" :.}") if stated else None
    return next((value for line in stated if (value := _read(line, kind)) is not None), None)


def _plain(text: str) -> str:
    for fancy, ascii_ in {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2212": "-"}.items():
        text = text.replace(fancy, ascii_)
    return _MARKUP.sub("", text)


def _read(line: str, kind: Kind) -> str | None:
    """The value in a line that states an answer."""
    if kind == "numbers":
        return _run(line)
    if kind == "word":
        return _word(line) or next((word.lower() for word in _WORD.findall(line)), None)
    sentence = _SENTENCE.split(line)[0]
    sums = _EQUALS.findall(sentence)
    found = sums[-1:] or _NUMBER.findall(sentence)
    return _digits(found[0]) if found else None


def _last(text: str, kind: Kind | None) -> str | None:
    """The value at the end of a text that announces no answer."""
    text = _NUMBERED.sub(" ", text)
    if kind == "numbers":
        return _run(text)
    if kind == "word":
        return _word(text) or (text.strip(" .\n").lower() if _WORD.fullmatch(text.strip(" .\n")) else None)
    found = re.findall(_DIGITS, text) or _NUMBER.findall(text)
    return _digits(found[-1]) if found else None


def _digits(number: str) -> str:
    if number.lower() in WORDED:
        return str(WORDED.index(number.lower()))
    value = Decimal(number.replace(",", ""))
    return f"{value:f}" if value % 1 else str(int(value))


def _run(text: str) -> str | None:
    runs = _RUN.findall(text)
    return ", ".join(_digits(number) for number in re.findall(_ONE, runs[-1])) if runs else None


def _word(text: str) -> str | None:
    """The last word that ends a clause after "is" or a colon, the last one in quotes, or letters spelled one by one."""
    if words := _GIVEN.findall(text) or _QUOTED.findall(text):
        return words[-1].lower()
    spelled = _SPELLED.findall(text)
    return "".join(_WORD.findall(spelled[-1])).lower() if spelled else None
