"""Forward tokens: the currency in which every method pays, whatever it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


class Meter:
    """Counts tokens read by a model: one token read by both models of a pair is two.

    A prompt is charged once however often it is sampled from (it is prefilled once), a new token once per model.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.spent = 0

    @property
    def left(self) -> int:
        return max(0, self.budget - self.spent)

    def charge(self, tokens: int) -> None:
        """Spend. Nothing is refused here: who buys asks for the price first, of texts at their full length."""
        self.spent += tokens


def within(wanted: Iterable[T], price: Callable[[T], float], tokens: float) -> list[T]:
    """What can be paid for, one after the other: what is too dear for what is left is passed over."""
    bought = []
    for item in wanted:
        if (costs := price(item)) <= tokens:
            tokens -= costs
            bought.append(item)
    return bought
