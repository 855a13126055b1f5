"""What is tried: the values of settings."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import shown

_LARGEST = sys.float_info.max

Values = dict[str, Any]
"""Settings by name: a point of the space."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """The values of a setting that are tried.

    Args:
        name: of the setting: `lr`, or a setting of the method ("isometry", "adamo.isometry").
        values: those of a grid, at least one; () for a range.
        low, high: ends of a range, low < high.
        log: whether the range is searched on a log scale; then low > 0.
        whole: whether only the whole numbers of the range are tried.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False
    whole: bool = False

    @classmethod
    def parse(cls, name: str, values: object) -> Axis:
        """The axis that a file describes: a list of values, or `{low: 1e-3, high: 1e-1, log: true}`.

        Raises:
            IsoplastError: it is something else, holds a value twice, is empty, or has no finite ends.
        """
        if isinstance(values, list) and values:
            if len({repr(value) for value in values}) < len(values):
                raise IsoplastError(f"tune.space.{name} holds a value twice: {values}")
            return cls(name, tuple(values))
        if not isinstance(values, dict):
            raise IsoplastError(f"tune.space.{name} is {values!r}: give a list of values, or low and high")
        for key in values:
            if key not in ("low", "high", "log"):
                raise unknown(f"key of tune.space.{name}", str(key), ("low", "high", "log"))
        low, high, log = values.get("low"), values.get("high"), values.get("log", False)
        numbers = [one for one in (low, high) if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(numbers) < 2 or not isinstance(log, bool):
            raise IsoplastError(f"tune.space.{name} is {values!r}: write low: 1e-3, high: 1e-1, log: true")
        if not all(-_LARGEST <= one <= _LARGEST for one in (*numbers, numbers[1] - numbers[0])):
            raise IsoplastError(
                f"tune.space.{name} goes from {shown(low)} to {shown(high)}: give finite numbers"
            )
        if not numbers[0] < numbers[1] or (log and numbers[0] <= 0):
            raise IsoplastError(
                f"tune.space.{name} goes from {low} to {high}: low must be below high"
                + (", and above 0 on a log scale" if log else "")
            )
        return cls(name, (), numbers[0], numbers[1], log)

    @property
    def written(self) -> tuple[Any, ...]:
        """The values that the file holds: those of a list, or the ends of a range."""
        return self.values or (self.low, self.high)

    def at_edge(self, value: Any) -> str:
        """At which edge of the axis a value lies, in words; "" if at none.

        Of a range the outer twentieths are edges.
        """
        if self.values:
            numbers = [one for one in self.values if type(one) in (int, float)]
            if len(numbers) < 2 or len(numbers) < len(self.values):
                return ""
            return "lowest" if value == min(numbers) else "highest" if value == max(numbers) else ""
        scale: Callable[[float], float] = math.log if self.log else float
        place = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return "lowest" if place < 0.05 else "highest" if place > 0.95 else ""


def in_words(values: Values) -> str:
    """A point as text.

    Example:
        >>> in_words({"lr": 0.001, "isometry": 0.1})
        'lr 0.001, isometry 0.1'
    """
    return ", ".join(f"{name} {value}" for name, value in values.items())
