"""Beyond which limits a number is critical or a warning, and how often networks of known future are there.

Written by `python benchmarks/calibrate_alarms.py analyse --write` from results/alarms/networks.csv.gz: fitted
on half of the families of networks, so that at most 1 % (critical) and 5 % (warning) of the looks at networks
that went on learning lie beyond; the rates are those of the other half. docs/alarms.md says how.
"""

from __future__ import annotations

from dataclasses import dataclass

from isoplast.diagnostics.health._finding import Severity


@dataclass(frozen=True)
class Limit:
    """A limit of one number.

    Attributes:
        number: its name.
        severity: what it is to be beyond.
        sign: 1 where the number grows as plasticity is lost, -1 where it falls.
        value: the limit.
        false: looks at networks that went on learning: how many lay beyond, of how many.
        hits: the same of looks at networks that had lost plasticity.
    """

    number: str
    severity: Severity
    sign: int
    value: float
    false: tuple[int, int]
    hits: tuple[int, int]

    def beyond(self, value: float) -> bool:
        """Whether a number is beyond the limit; NaN is not."""
        return self.sign * value > self.sign * self.value

    @property
    def rate(self) -> str:
        """How often networks of known future are beyond, in words."""
        (wrong, healthy), (right, lost) = self.false, self.hits
        return (
            f"seen in {wrong / healthy:.1%} of {healthy} looks at networks that went on learning, "
            f"in {right / lost:.0%} of {lost} at networks that had lost plasticity"
        )


# begin of what is written
LIMITS: tuple[Limit, ...] = (
    Limit("feature rank", "critical", -1, 0.3, (0, 27), (11, 17)),
    Limit("feature rank", "warning", -1, 0.45, (0, 27), (13, 17)),
    Limit("dormant units", "critical", 1, 0.66, (0, 27), (13, 17)),
    Limit("dormant units", "warning", 1, 0.5, (0, 27), (15, 17)),
    Limit("feature rank/highest", "warning", -1, 0.7, (0, 27), (14, 17)),
)
# end of what is written


def judged(number: str, value: float) -> Limit | None:
    """The worst limit that a number is beyond, or None."""
    found = [limit for limit in LIMITS if limit.number == number and limit.beyond(value)]
    return min(found, key=lambda limit: limit.severity != "critical", default=None)
