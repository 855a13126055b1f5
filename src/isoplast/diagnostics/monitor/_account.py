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
        importance: factor of its share.
        share: of the training time that it may take.
        spent: seconds so far.
        runs: how many those were for.
        at: training time at the last of them.
    """

    guess: float
    importance: float = 1.0
    share: float = 0.0
    spent: float = 0.0
    runs: int = 0
    at: float = 0.0

    def due(self, steps: int, elapsed: float, length: int | None = None) -> bool:
        """Whether the training pays for another run.

        Where its length is known, the runs that it pays for in all are spread evenly, half an interval before
        the first. Else the time so far pays, and that since the last run for half of it: the first keeps the
        budget, the second keeps what a pause has saved from being spent all at once.

        Args:
            steps, elapsed: steps and seconds of training so far.
            length: steps of the whole training, if that is known.
        """
        if length is not None and steps <= length:
            planned = self.planned(steps, elapsed, length)
            return self.runs < planned and steps >= (self.runs + 0.5) * length / planned
        if not self.runs:
            return steps > self.first
        cost = self.spent / self.runs
        return self.spent + cost <= self.share * elapsed and cost <= 2 * self.share * (elapsed - self.at)

    def planned(self, steps: int, elapsed: float, length: int) -> int:
        """How many runs a training of known length pays for."""
        a_step = elapsed / max(steps - 1, 1)  # the clock starts with the first
        cost = self.spent / self.runs / a_step if self.runs and a_step else self.guess
        return int(self.share * length / cost) if cost else length

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
    """Give every measure its share: the root of what it is expected to cost, times its importance.

    Equal shares would starve the expensive, shares like the costs would run all equally often.
    """
    accounts = list(accounts)
    parts = [account.importance * math.sqrt(account.guess) for account in accounts]
    for account, part in zip(accounts, parts, strict=True):
        account.share = budget * part / sum(parts)
