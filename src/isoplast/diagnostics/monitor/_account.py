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
        spent: seconds so far, without the look at the start.
        runs: how many those were for.
        at: training time at the last of them.
        debt: seconds that the look at the start took, which costs several times what later ones do, and its
            part of what looks take beside the measures: a quarter of what comes in pays it off.
    """

    guess: float
    importance: float = 1.0
    share: float = 0.0
    spent: float = 0.0
    runs: int = 0
    at: float = 0.0
    debt: float = 0.0

    def due_at(self, steps: int, elapsed: float, length: int | None = None) -> float:
        """The step at which the training will have paid for another run, if it goes on as fast as so far.

        Where its length is known, the runs that it pays for in all are spread evenly, half an interval before
        the first. Else the time so far pays, and that since the last run for half of it: the first keeps the
        budget, the second keeps what a pause has saved from being spent all at once.

        Args:
            steps, elapsed: steps and seconds of training so far.
            length: steps of the whole training, if that is known.
        """
        if length is not None and steps <= length:
            planned = self.planned(steps, elapsed, length)
            return (self.runs + 0.5) * length / planned if self.runs < planned else math.inf
        if not self.runs:
            return self.first + 1  # the clock starts with the first step
        cost = self.spent / self.runs
        paid = (self.spent + cost) / self.share
        # Above four times the debt all of it has been paid off, below that a quarter of the income.
        paid = min(paid / 0.75, paid + self.debt / self.share)
        missing = max(paid, self.at + cost / (2 * self.share)) - elapsed
        return steps + missing / _a_step(steps, elapsed)

    def planned(self, steps: int, elapsed: float, length: int) -> int:
        """How many runs a training of known length pays for."""
        a_step = _a_step(steps, elapsed)
        cost = self.spent / self.runs / a_step if self.runs else self.guess
        income = self.share * length
        return int((income - min(self.debt / a_step, income / 4)) / cost) if cost else length

    @property
    def first(self) -> float:
        """The steps that pay for the first run, by the guess."""
        return self.guess / self.share

    def charge(self, seconds: float, elapsed: float) -> None:
        """Enter a run that took `seconds`."""
        self.spent += seconds
        self.runs += 1
        self.at = elapsed


def _a_step(steps: int, elapsed: float) -> float:
    """Seconds of a step; the clock starts with the first, and may not have moved."""
    return max(elapsed / max(steps - 1, 1), 1e-9)


def divide(budget: float, accounts: Iterable[Account]) -> None:
    """Give every measure its share: the root of what it is expected to cost, times its importance.

    Equal shares would starve the expensive, shares like the costs would run all equally often.
    """
    accounts = list(accounts)
    parts = [account.importance * math.sqrt(account.guess) for account in accounts]
    for account, part in zip(accounts, parts, strict=True):
        account.share = budget * part / sum(parts)
