"""Worked answers: numbered steps, with now and then a restating, a check, a slip put right, or a hedge.

A trace is plain ASCII, one move a line:

    The question asks for ...                 (restating, `MOVES["restating"]` of the traces)
    Step 1: ...                               (a step; one may be hedged: "Step 2: I think ...")
    Step 2: ... Wait, that is not right. ...  (one step may go wrong first and be put right at once)
    Let me check: ...                         (verification)
    Answer: X                                 (always, and always the last line)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

MOVES = {"restating": 0.4, "verification": 0.4, "backtracking": 0.15, "hedging": 0.15}
"""Share of traces with each optional move, drawn independently."""
WORDS = (30, 110)
"""Length of a trace in words (split on white space), both ends included."""
OPENED = 0.3
"""Chance that a step without a hedge opens with a word such as "next"."""

RESTATE = ("The question asks {}.", "I am asked {}.", "The task is to find out {}.", "Here I need to know {}.")
HEDGE = ("I think {}", "maybe {}", "I believe {}", "perhaps {}", "it seems that {}", "probably {}")
BACKTRACK = (
    "Wait, that is not right. It should be {}.",
    "Hold on, that looks wrong. Correctly it is {}.",
    "No, I made a mistake there. Going back, I get {}.",
    "Hmm, that cannot be right. Doing it again gives {}.",
    "Wait, I slipped. The right value is {}.",
)
CHECK = ("Let me check: {}.", "Checking: {}.", "To verify: {}.", "Let me verify this: {}.", "A quick check: {}.")
AGREES = ("That fits.", "So it holds.", "This agrees.", "Good.", "It matches.")
FIRST, LATER = ("first, {}", "to begin, {}", "let me start: {}"), ("next, {}", "then {}", "now {}", "so {}")


@dataclass(frozen=True)
class Step:
    """One move of the working, in several wordings: main clauses in lower case, without a full stop."""

    wordings: Sequence[str]
    """With `{}` where the result stands."""
    right: str = ""
    wrong: str = ""
    """A plausible slip; empty where the step has nothing to get wrong."""


def step(*wordings: str, right: str | int = "", wrong: str | int = "") -> Step:
    return Step(wordings, str(right), str(wrong))


@dataclass(frozen=True)
class Work:
    """How one task is worked out."""

    asked: Sequence[str]
    """Wordings of what is asked, to follow "the question asks"."""
    steps: Sequence[Step]
    checks: Sequence[str]
    """Clauses that confirm the result, one of which is used."""


def compose(work: Work, answer: str, rng: Random) -> str:
    """The trace of `WORDS` words: the lines in the order given in the module's docstring."""
    while True:
        text = _draw(work, answer, rng)
        if WORDS[0] <= len(text.split()) <= WORDS[1]:
            return text


def _draw(work: Work, answer: str, rng: Random) -> str:
    moves = {move for move, share in MOVES.items() if rng.random() < share}
    fallible = [i for i, step in enumerate(work.steps) if step.wrong]
    slipped = rng.choice(fallible) if "backtracking" in moves else None
    hedged = rng.choice(fallible) if "hedging" in moves else None
    lines = [rng.choice(RESTATE).format(rng.choice(work.asked))] if "restating" in moves else []
    for index, step in enumerate(work.steps):
        said = rng.choice(step.wordings).format(step.wrong if index == slipped else step.right)
        if index == hedged:
            said = rng.choice(HEDGE).format(said)
        elif rng.random() < OPENED:
            said = rng.choice(LATER if index else FIRST).format(said)
        again = f" {rng.choice(BACKTRACK).format(step.right)}" if index == slipped else ""
        lines.append(f"Step {index + 1}: {said[0].upper()}{said[1:]}.{again}")
    if "verification" in moves:
        lines.append(f"{rng.choice(CHECK).format(rng.choice(work.checks))} {rng.choice(AGREES)}")
    return "\n".join([*lines, f"Answer: {answer}"])
