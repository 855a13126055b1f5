"""Beyond which limits a number is critical or a warning, and how often networks of known future are there.

Written by `python benchmarks/calibrate_alarms.py analyse --write` from results/alarms/networks.csv.gz: fitted
on half of the families of networks, so that at most 1 % (critical) and 5 % (warning) of the looks at networks
that went on learning lie beyond; the rates are those of the other half. docs/alarms.md says how.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from isoplast.diagnostics.health._finding import Severity

Kind = Literal["relu", "smooth", "normalised", "recurrent"]
"""Networks that need limits of their own: of piecewise linear units without normalisations, of other units
without, with normalisations, and with recurrent layers."""


@dataclass(frozen=True)
class Limit:
    """A limit of one number.

    Attributes:
        number: its name.
        kind: of the networks it is for.
        severity: what it is to be beyond.
        sign: 1 where the number grows as plasticity is lost, -1 where it falls.
        value: the limit.
        false: looks at networks that went on learning: how many lay beyond, of how many.
        hits: the same of looks at networks that had lost plasticity.
    """

    number: str
    kind: Kind
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
    Limit("growth", "relu", "critical", 1, 4.23, (0, 169), (90, 132)),
    Limit("growth", "relu", "warning", 1, 3.74, (5, 169), (97, 132)),
    Limit("dormant units", "relu", "critical", 1, 0.459, (1, 169), (85, 132)),
    Limit("dormant units", "relu", "warning", 1, 0.421, (4, 169), (92, 132)),
    Limit("feature rank", "relu", "critical", -1, 0.666, (0, 169), (119, 132)),
    Limit("feature rank", "relu", "warning", -1, 0.666, (0, 169), (119, 132)),
    Limit("dormant units", "smooth", "critical", 1, 0.793, (1, 147), (11, 33)),
    Limit("dormant units", "smooth", "warning", 1, 0.64, (4, 147), (14, 33)),
    Limit("feature rank", "smooth", "critical", -1, 0.609, (1, 147), (22, 33)),
    Limit("feature rank", "smooth", "warning", -1, 0.721, (4, 147), (24, 33)),
)
# end of what is written


def judged(number: str, kind: Kind, value: float) -> Limit | None:
    """The worst limit of a kind of networks that a number is beyond, or None."""
    found = [one for one in LIMITS if (one.number, one.kind) == (number, kind) and one.beyond(value)]
    return min(found, key=lambda limit: limit.severity != "critical", default=None)
