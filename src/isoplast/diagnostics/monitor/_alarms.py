"""What a monitor has found, what of it is new, and what has been said."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

from isoplast.diagnostics.health._decide import decide
from isoplast.diagnostics.health._evidence import Evidence
from isoplast.diagnostics.health._finding import RANKS, Finding

_NOTE = RANKS["note"]


class PlasticityWarning(UserWarning):
    """A network is losing its ability to learn, or a method against that does nothing."""


class Alarms:
    """The evidence of a training so far, and the findings in it.

    Attributes:
        evidence: all that is known.
        findings: (step, finding), each once until it goes away, and once more if it becomes worse.
    """

    def __init__(self) -> None:
        self.evidence = Evidence()
        self.findings: list[tuple[int, Finding]] = []
        self._seen: set[str] = set()
        self._confirmed: set[str] = set()
        self._known: dict[tuple[str, str, str], int] = {}
        self._untold: list[tuple[type[Warning], str]] = []

    def judge(self, step: int, *, units: bool, asked: bool) -> None:
        """Note what the evidence shows; what wavers only if two looks in a row do, or somebody asked.

        Right after a change of task units fall silent that come back within the task; the limits were
        measured at ends of tasks.

        Args:
            step: of the training.
            units: whether this look saw what units do.
            asked: whether the user asked for it.
        """
        found = decide(self.evidence)
        beyond = {_words(one) for one in found if one.wavers}
        if asked or units:
            self._confirmed = beyond if asked else beyond & self._seen
            self._seen = beyond
        self.note("numbers", [one for one in found if not one.wavers or _words(one) in self._confirmed], step)

    def note(self, source: str, findings: Iterable[Finding], step: int) -> None:
        """Keep what is new or worse, forget what this source does not find any more."""
        before = self._known
        self._known = {key: rank for key, rank in before.items() if key[0] != source}
        for finding in findings:
            # What has a rate is about the worst layer, whichever it is.
            key = (source, "" if finding.rate else finding.where, _words(finding))
            rank = RANKS[finding.severity]
            if rank < before.get(key, _NOTE + 1):
                self.findings.append((step, finding))
                if rank < _NOTE:
                    self._untold.append((PlasticityWarning, f"step {step}: {finding}"))
            self._known[key] = min(rank, before.get(key, rank))

    def say(self, message: str) -> None:
        """Keep a warning about the monitor itself."""
        self._untold.append((UserWarning, message))

    def tell(self, aloud: bool) -> None:
        """Warn of what is new, at the line that called the monitor's `step` or `measure`."""
        untold, self._untold = self._untold, []
        for category, message in untold if aloud else ():
            warnings.warn(message, category, stacklevel=3)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain numbers and strings."""
        initial = self.evidence.initial
        return {
            "findings": [(step, vars(finding).copy()) for step, finding in self.findings],
            "known": [[*key, rank] for key, rank in self._known.items()],
            "initial": None if initial is None else dict(initial),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where others stopped."""
        self.evidence = self.evidence.with_(initial=state["initial"])
        self.findings = [(step, Finding(**fields)) for step, fields in state["findings"]]
        self._known = {(source, where, words): rank for source, where, words, rank in state["known"]}


def _words(finding: Finding) -> str:
    """What a finding says without its numbers or a conclusion: with others it is the same finding."""
    return re.sub(r"[\d.]+(e[+-]?\d+)?|inf", "", finding.what).partition(":")[0]
