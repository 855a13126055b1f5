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
        memorises: whether it is for networks that give neighbouring inputs different answers: those need all
            directions that they have, where others learn on with few.
        severity: what it is to be beyond.
        sign: 1 where the number grows as plasticity is lost, -1 where it falls.
        value: the limit.
        false: looks at networks that went on learning: how many lay beyond, of how many.
        hits: the same of looks at networks that had lost plasticity.
    """

    number: str
    kind: Kind
    memorises: bool
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
    Limit("growth", "relu", False, "critical", 1, 7.08, (0, 371), (37, 48)),
    Limit("growth", "relu", False, "warning", 1, 6.39, (7, 371), (40, 48)),
    Limit("dormant units since", "relu", False, "critical", 1, 0.827, (0, 414), (33, 48)),
    Limit("dormant units since", "relu", False, "warning", 1, 0.695, (8, 414), (38, 48)),
    Limit("feature rank since", "relu", False, "critical", -1, 0.0889, (0, 414), (38, 48)),
    Limit("feature rank since", "relu", False, "warning", -1, 0.314, (6, 414), (41, 48)),
    Limit("dormant units", "relu", False, "warning", 1, 0.957, (4, 414), (34, 48)),
    Limit("feature rank", "relu", False, "critical", -1, 0.0072, (0, 414), (21, 48)),
    Limit("feature rank", "relu", False, "warning", -1, 0.0746, (3, 414), (38, 48)),
    Limit("growth", "relu", True, "critical", 1, 3.49, (0, 59), (103, 145)),
    Limit("growth", "relu", True, "warning", 1, 3.32, (0, 59), (109, 145)),
    Limit("dormant units since", "relu", True, "critical", 1, 0.454, (0, 95), (93, 145)),
    Limit("dormant units since", "relu", True, "warning", 1, 0.437, (1, 95), (95, 145)),
    Limit("feature rank since", "relu", True, "critical", -1, 0.664, (0, 95), (130, 145)),
    Limit("feature rank since", "relu", True, "warning", -1, 0.694, (0, 95), (132, 145)),
    Limit("dormant units", "relu", True, "critical", 1, 0.66, (0, 95), (116, 145)),
    Limit("dormant units", "relu", True, "warning", 1, 0.66, (0, 95), (116, 145)),
    Limit("feature rank", "relu", True, "critical", -1, 0.322, (0, 95), (113, 145)),
    Limit("feature rank", "relu", True, "warning", -1, 0.322, (0, 95), (113, 145)),
    Limit("growth", "smooth", False, "warning", 1, 13.8, (5, 283), (13, 18)),
    Limit("dormant units since", "smooth", False, "critical", 1, 0.754, (0, 305), (10, 20)),
    Limit("dormant units since", "smooth", False, "warning", 1, 0.521, (2, 305), (11, 20)),
    Limit("feature rank since", "smooth", False, "critical", -1, 0.386, (1, 305), (17, 20)),
    Limit("feature rank since", "smooth", False, "warning", -1, 0.643, (4, 305), (17, 20)),
    Limit("dormant units", "smooth", False, "critical", 1, 0.755, (0, 305), (10, 20)),
    Limit("dormant units", "smooth", False, "warning", 1, 0.521, (2, 305), (11, 20)),
    Limit("feature rank", "smooth", False, "critical", -1, 0.335, (1, 305), (17, 20)),
    Limit("feature rank", "smooth", False, "warning", -1, 0.515, (5, 305), (17, 20)),
    Limit("growth", "smooth", True, "critical", 1, 9.01, (0, 83), (8, 38)),
    Limit("growth", "smooth", True, "warning", 1, 8.68, (1, 83), (8, 38)),
    Limit("dormant units since", "smooth", True, "warning", 1, 0.376, (2, 116), (19, 38)),
    Limit("dormant units", "smooth", True, "warning", 1, 0.384, (2, 116), (19, 38)),
    Limit("feature rank", "smooth", True, "critical", -1, 0.422, (0, 116), (19, 38)),
    Limit("feature rank", "smooth", True, "warning", -1, 0.531, (2, 116), (23, 38)),
)
# end of what is written


def judged(
    number: str, kind: Kind, memorises: bool, value: float, severity: Severity | None = None
) -> Limit | None:
    """The worst limit of a kind of networks, or the one of a severity, that a number is beyond, or None."""
    found = [
        one
        for one in LIMITS
        if (one.number, one.kind, one.memorises) == (number, kind, memorises)
        and severity in (None, one.severity)
        and one.beyond(value)
    ]
    return min(found, key=lambda limit: limit.severity != "critical", default=None)
