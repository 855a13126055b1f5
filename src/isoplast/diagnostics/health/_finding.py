"""What an inspection says: findings with their severity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning", "note"]
RANKS: dict[str, int] = {"critical": 0, "warning": 1, "note": 2}
"""Of severities, the worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that an inspection found.

    Attributes:
        severity: "critical" and "warning" for what networks that go on learning hardly ever show, or for
            facts that keep a network from learning; "note" for a number without a verdict.
        where: the layer, or "network".
        what: one sentence with the number.
        advice: one sentence; empty where there is none.
        rate: how often the same was seen in networks whose future is known; empty for facts and notes.
        wavers: whether it comes and goes at a change of task, so that only what stays counts.
    """

    severity: Severity
    where: str
    what: str
    advice: str = ""
    rate: str = ""
    wavers: bool = False

    @property
    def sentence(self) -> str:
        """Where, what, and how often that was seen."""
        return f"{self.where}: {self.what}{f' ({self.rate})' if self.rate else ''}"

    def __str__(self) -> str:
        return f"{self.severity}: {self.sentence}{f'; {self.advice}' if self.advice else ''}"


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the worst first, each group in the order of the network."""
    return sorted(findings, key=lambda finding: RANKS[finding.severity])


def has_critical(findings: Iterable[Finding]) -> bool:
    """Whether any finding is critical."""
    return any(finding.severity == "critical" for finding in findings)
