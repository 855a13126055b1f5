"""The books of a monitor: what each measure costs, and when the training has paid for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass
class Account:
    """A measure with its share of the budget.

    Attributes:
        guess: what it is taken to cost before it has run, in training steps.
        share: of the training time that it may take.
        spent: seconds so far.
        runs: how many those were for.
        at: training time at the last of them.
    """

    guess: float
    share: float = 0.0
    spent: float = 0.0
    runs: int = 0
    at: float = 0.0

    def due(self, steps: int, elapsed: float) -> bool:
        """Whether the training time so far pays for another run, and that since the last one for half of it.

        The first keeps the budget; the second keeps what a pause has saved from being spent all at once.
        """
        if not self.runs:
            return steps > self.first
        cost = self.spent / self.runs
        return self.spent + cost <= self.share * elapsed and cost <= 2 * self.share * (elapsed - self.at)

    @property
    def first(self) -> float:
        """The steps that pay for the first run, by the guess."""
        return self.guess / self.share

    def charge(self, seconds: float, elapsed: float) -> None:
        """Enter a run that took `seconds`."""
        self.spent += seconds
        self.runs += 1
        self.at = elapsed


def divide(budget: float, accounts: Iterable[Account]) -> None:
    """Give every measure its share: the root of what it is expected to cost.

    Equal shares would starve the expensive, shares like the costs would run all equally often.
    """
    accounts = list(accounts)
    whole = sum(math.sqrt(account.guess) for account in accounts)
    for account in accounts:
        account.share = budget * math.sqrt(account.guess) / whole
