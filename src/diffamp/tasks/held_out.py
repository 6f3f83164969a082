"""Problems of the families that no organism is trained on, read as in `diffamp.tasks.problems`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from diffamp.tasks.problems import Problem, listed
from diffamp.tasks.traces import Step, Work, step

PLURALS = {
    "chicken": "chickens", "bird": "birds", "human": "humans", "duck": "ducks", "dog": "dogs", "cat": "cats",
    "cow": "cows", "horse": "horses", "lion": "lions", "elephant": "elephants", "giraffe": "giraffes",
    "tiger": "tigers", "sheep": "sheep", "ant": "ants", "butterfly": "butterflies", "beetle": "beetles",
    "bee": "bees", "wasp": "wasps", "spider": "spiders", "scorpion": "scorpions", "crab": "crabs",
    "lobster": "lobsters", "snake": "snakes",
}  # fmt: skip
LEGS = {
    "chicken": 2, "bird": 2, "human": 2, "duck": 2, "dog": 4, "cat": 4, "cow": 4, "horse": 4, "lion": 4,
    "elephant": 4, "giraffe": 4, "tiger": 4, "sheep": 4, "ant": 6, "butterfly": 6, "beetle": 6, "bee": 6,
    "wasp": 6, "spider": 8, "scorpion": 8, "crab": 10, "lobster": 10, "snake": 0,
}  # fmt: skip
LARGEST_OF_THREE = 100
"""Product of three factors."""


def products(metadata: Mapping[str, Any]) -> Problem | None:
    """One digit times one or two digits, or three digits with a product of at most `LARGEST_OF_THREE`.

    reasoning_gym gives all factors as many digits, so of the first one only the last digit is taken.
    """
    first, second, *third = (int(factor) for factor in metadata["expression"].split(" * "))
    factors = [first % 10, second, *third]
    total = prod(factors)
    if min(factors) < 2 or (third and total > LARGEST_OF_THREE):
        return None
    expression, given = " * ".join(map(str, factors)), listed(factors)
    steps = [step(f"the factors are {given}", f"I have to multiply {given}", f"the numbers to multiply are {given}")]
    steps += _multiplied_on(factors) if third else _multiplied(factors[0], second)
    steps.append(
        step(
            f"the product of {given} is {total}",
            f"that makes {total} for {expression}",
            f"nothing is left to multiply, and the result is {total}",
        )
    )
    checks = [
        f"{total} / {factors[-1]} = {total // factors[-1]}, as it should be",
        f"the other way round, {' * '.join(map(str, factors[::-1]))} is {total} too",
    ]
    asked = (f"what the product of {given} is", f"how much {expression} is")
    return Problem(f"What is {expression}?", str(total), Work(asked, steps, checks))


def _multiplied_on(factors: Sequence[int]) -> list[Step]:
    """Three factors, from left to right."""
    a, b, c = factors
    return [
        step(f"{a} * {b} is {{}}", f"{a} times {b} makes {{}}", right=a * b, wrong=a * b + a),
        step(f"{a * b} * {c} is {{}}", f"{a * b} times {c} gives {{}}", right=a * b * c, wrong=a * b * c + c),
    ]


def _multiplied(digit: int, number: int) -> list[Step]:
    """Tens and units apart, or by adding the number once more to the multiple before."""
    total, tens, units = digit * number, number // 10 * 10, number % 10
    if tens and units:
        high, low = digit * tens, digit * units
        return [
            step(
                f"the tens give {digit} * {tens} = {{}}", f"{digit} times {tens} is {{}}", right=high, wrong=high + 10
            ),
            step(
                f"the units give {digit} * {units} = {{}}", f"{digit} times {units} is {{}}", right=low, wrong=low + 1
            ),
            step(
                f"both parts together are {high} + {low} = {{}}",
                f"adding {high} and {low} gives {{}}",
                right=total,
                wrong=total + 10,
            ),
        ]
    before = total - number
    return [
        step(
            f"{digit - 1} * {number} is {{}}",
            f"one time less would be {digit - 1} * {number} = {{}}",
            right=before,
            wrong=before + 1,
        ),
        step(
            f"one more {number} makes {before} + {number} = {{}}",
            f"adding {number} to {before} gives {{}}",
            right=total,
            wrong=total + 1,
        ),
    ]


def leg_counting(metadata: Mapping[str, Any]) -> Problem | None:
    """How many legs one to three kinds of animals have together."""
    animals = metadata["animals"]
    if not animals.keys() <= PLURALS.keys():
        return None
    named = [f"{n} {PLURALS[animal] if n > 1 else animal}" for animal, n in animals.items()]
    group = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    legs = [LEGS[animal] * n for animal, n in animals.items()]
    total, terms = sum(legs), " + ".join(map(str, legs))
    steps = [
        step(
            f"the legs of {group} have to be counted",
            f"I go through {group} one kind at a time",
            f"what I have is {group}",
        )
    ]
    for (animal, n), name, number in zip(animals.items(), named, legs, strict=True):
        each = f"{LEGS[animal] or 'no'} legs"
        steps.append(
            step(
                f"the {animal} has {each}, so {n} * {LEGS[animal]} = {{}}",
                f"each {animal} has {each}, which makes {{}} for {name}",
                right=number,
                wrong=number + 2,
            )
        )
    if len(legs) > 1:
        steps.append(
            step(f"together that is {terms} = {{}}", f"adding up, {terms} = {{}}", right=total, wrong=total + 2)
        )
    steps.append(step(f"the total number of legs is {total}", f"that makes {total} legs in all"))
    checks = [f"the other way round, {' + '.join(map(str, legs[::-1]))} = {total} as well"]
    if len(legs) == 1:
        checks = [f"counting {group} leg by leg gives {total} as well"]
    asked = (f"how many legs {group} have", f"what number of legs {group} have together")
    do = "does" if list(animals.values()) == [1] else "do"
    return Problem(f"How many legs {do} {group} have in total?", str(total), Work(asked, steps, checks))


UNFIT = re.compile(
    "anal|anus|arse|bitch|boob|chink|cock|coon|cum|cunt|darky|dick|dyke|fag|fagot|fuck|gook|homo|jap|kike|nazi|negro"
    "|nigga|paki|penis|porn|prick|queer|rape|sex|shit|slut|spic|tits|turd|twat|wank|whore|wop"
)
"""Crude and offensive words of reasoning_gym's list, which no data of this project needs."""


def spell_backward(metadata: Mapping[str, Any]) -> Problem | None:
    """A short word from its last letter to its first."""
    word = metadata["word"]
    answer = word[::-1]
    if not re.fullmatch("[a-z]+", word) or answer == word or UNFIT.fullmatch(word) or UNFIT.fullmatch(answer):
        return None
    letters, turned = ", ".join(word), ", ".join(answer)
    steps = [
        step(
            f'the word is "{word}", and it has {len(word)} letters',
            f'I am given "{word}", a word of {len(word)} letters',
        ),
        step(f"its letters in order are {letters}", f"one by one the letters are {letters}"),
        step(
            "starting at the end, they are {}",
            "from the last to the first I get {}",
            right=turned,
            wrong=letters,
        ),
        step(f'put together, this spells "{answer}"', f'without the commas it reads "{answer}"'),
    ]
    checks = [f'"{answer}" read from its end is "{word}"', f'turning "{answer}" around gives "{word}" again']
    asked = (f'what "{word}" is from back to front', f'how "{word}" is spelled from its end')
    return Problem(f'Spell the word "{word}" backward.', answer, Work(asked, steps, checks))
