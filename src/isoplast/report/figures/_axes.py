"""Axes that fit what they show, with ticks at round numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

_TICKS = 6  # intervals at most: on a phone more labels would touch


@dataclass(frozen=True)
class Scale:
    """An axis from the lowest to the highest tick, a tick every `step`."""

    bottom: float
    top: float
    step: float

    @property
    def ticks(self) -> list[float]:
        """The places of the ticks."""
        count = round((self.top - self.bottom) / self.step)
        return [round(self.bottom + index * self.step, 10) for index in range(count + 1)]

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis, up to rounding."""
        return self.bottom - 1e-9 <= value <= self.top + 1e-9

    @property
    def digits(self) -> int:
        """Behind the point, so many as tell the ticks apart."""
        return max(0, -math.floor(math.log10(self.step) + 1e-9))


def score_scale(low: float, high: float) -> Scale:
    """The axis for numbers of any size: about six steps of 1, 2 or 5 times a power of ten, none to spare.

    Example:
        >>> score_scale(0.02, 1.7).ticks
        [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    if high <= low:
        high = low + (abs(low) or 1.0) * 0.1
    power = 10.0 ** math.floor(math.log10(high - low))
    steps = (digit * power / 10 for digit in (1, 2, 5, 10, 20, 50))
    step = next(step for step in steps if high - low <= (_TICKS - 1) * step)
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step)


def share_scale(low: float, high: float, least: float = 0.05) -> Scale:
    """The axis for numbers between 0 and 1 that reach from `low` to `high`.

    Args:
        low, high: the smallest and the largest number.
        least: the axis is no shorter: differences of a thousandth are not to look large.

    Example:
        >>> share_scale(0.11, 0.93).ticks
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        >>> share_scale(0.962, 0.988).ticks
        [0.95, 0.96, 0.97, 0.98, 0.99, 1.0]
    """
    low, high = min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)
    air = max(least - (high - low), 0.0) / 2
    low, high = max(low - air, 0.0), min(high + air, 1.0)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if high - low <= (_TICKS - 1) * step + 1e-9)
    bottom = math.floor(low / step + 1e-9) * step
    return Scale(bottom, min(math.ceil(high / step - 1e-9) * step, 1.0), step)
