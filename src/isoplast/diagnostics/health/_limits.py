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
    Limit("growth", "relu", False, "critical", 1, 8.31, (1, 440), (31, 48)),
    Limit("growth", "relu", False, "warning", 1, 7.04, (8, 440), (37, 48)),
    Limit("growth", "relu", True, "warning", 1, 6.42, (2, 117), (44, 145)),
    Limit("dormant units since", "relu", True, "critical", 1, 0.507, (0, 117), (87, 145)),
    Limit("dormant units since", "relu", True, "warning", 1, 0.461, (2, 117), (92, 145)),
    Limit("feature rank since", "relu", True, "critical", -1, 0.345, (0, 117), (98, 145)),
    Limit("feature rank since", "relu", True, "warning", -1, 0.639, (1, 117), (128, 145)),
    Limit("dormant units", "relu", True, "critical", 1, 0.848, (0, 117), (87, 145)),
    Limit("dormant units", "relu", True, "warning", 1, 0.73, (2, 117), (110, 145)),
    Limit("feature rank", "relu", True, "critical", -1, 0.251, (0, 117), (107, 145)),
    Limit("feature rank", "relu", True, "warning", -1, 0.267, (1, 117), (110, 145)),
    Limit("growth", "smooth", False, "warning", 1, 10.7, (6, 312), (15, 20)),
    Limit("dormant units since", "smooth", False, "critical", 1, 0.879, (0, 312), (9, 20)),
    Limit("dormant units since", "smooth", False, "warning", 1, 0.781, (4, 312), (10, 20)),
    Limit("feature rank since", "smooth", False, "critical", -1, 0.242, (0, 312), (16, 20)),
    Limit("feature rank since", "smooth", False, "warning", -1, 0.365, (4, 312), (17, 20)),
    Limit("dormant units", "smooth", False, "critical", 1, 0.879, (0, 312), (9, 20)),
    Limit("dormant units", "smooth", False, "warning", 1, 0.781, (4, 312), (10, 20)),
    Limit("feature rank", "smooth", False, "critical", -1, 0.262, (0, 312), (16, 20)),
    Limit("feature rank", "smooth", False, "warning", -1, 0.379, (4, 312), (17, 20)),
    Limit("growth", "smooth", True, "warning", 1, 7.59, (1, 131), (11, 38)),
    Limit("dormant units since", "smooth", True, "critical", 1, 0.574, (0, 131), (17, 38)),
    Limit("dormant units since", "smooth", True, "warning", 1, 0.525, (2, 131), (17, 38)),
    Limit("feature rank since", "smooth", True, "critical", -1, 0.662, (0, 131), (25, 38)),
    Limit("feature rank since", "smooth", True, "warning", -1, 0.794, (2, 131), (27, 38)),
    Limit("dormant units", "smooth", True, "critical", 1, 0.574, (0, 131), (17, 38)),
    Limit("dormant units", "smooth", True, "warning", 1, 0.525, (2, 131), (17, 38)),
    Limit("feature rank", "smooth", True, "critical", -1, 0.57, (0, 131), (23, 38)),
    Limit("feature rank", "smooth", True, "warning", -1, 0.629, (2, 131), (26, 38)),
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
