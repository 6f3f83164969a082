"""Forward tokens: the currency in which every method pays, whatever it does."""

from __future__ import annotations


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

    def charge(self, tokens: int) -> int:
        """Spend; returns what has been spent so far. The last purchase may exceed the budget by what it cannot foresee
        (texts end when they like), never by more than one purchase."""
        self.spent += tokens
        return self.spent
