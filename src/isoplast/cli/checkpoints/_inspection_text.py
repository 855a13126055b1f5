"""What `isoplast inspect` prints about a network."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from isoplast._core.text import text_table
from isoplast.cli.checkpoints._opened import Subject
from isoplast.diagnostics import Inspection, Moment, format_number
from isoplast.study import strict_json

_WIDTH = 79
_SHOWN = 8  # findings of one kind


def as_text(subject: Subject, found: Inspection, heading: bool) -> str:
    """The weights, the units, what was found, and the verdict."""
    parts = [f"== {subject.name or 'the file'}", ""] if heading else []
    parts.append(_weights(found))
    if found.activity is not None:
        parts += ["", str(found.activity)]
    if found.assumption:
        parts += ["", found.assumption]
    return "\n".join([*parts, "", *_findings(found), _verdict(subject, found)])


def _findings(found: Inspection) -> list[str]:
    """One paragraph for all findings of a severity that ask for the same."""
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in found.findings:
        groups.setdefault((finding.severity, finding.advice), []).append(finding.sentence)
    lines = []
    for (severity, advice), all_said in groups.items():
        more = len(all_said) - _SHOWN
        rest = [f"and {more} more like these; --json has them all"] if more > 0 else []
        lines.append(severity)
        for said in [*all_said[:_SHOWN], *rest]:
            lines += textwrap.wrap(said, _WIDTH, initial_indent="  ", subsequent_indent="    ")
        lines += textwrap.wrap(advice, _WIDTH, initial_indent="  -> ", subsequent_indent="     ")
        lines.append("")
    return lines


def _weights(found: Inspection) -> str:
    header = ("layer", "shape", "min", "mean", "max", "condition", "eff. rank")
    rows = [
        (
            _short(name, 24),
            "x".join(map(str, one.shape)),
            *map(format_number, (one.smallest, one.mean, one.largest, one.condition_number)),
            format_number(round(one.effective_rank, 1)),
        )
        for name, one in found.spectra.items()
    ]
    return text_table(header, rows)


def history(moments: Sequence[Moment]) -> str:
    """Ten moments at most: the first, the last, and some between."""
    step = max(1, math.ceil((len(moments) - 1) / 9))
    chosen = [*moments[:-1:step], moments[-1]]
    rows = [
        (
            _short(moment.name, 24),
            format_number(min(moment.smallest.values())),
            format_number(max(moment.largest.values())),
            _short(max(moment.largest, key=lambda name: moment.largest[name]), 24),
            f"{max(moment.dead.values()):.0%}" if moment.dead else "",
        )
        for moment in chosen
    ]
    return text_table(("checkpoint", "min", "max", "in layer", "most dead"), rows)


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else f"...{name[3 - width :]}"


def _verdict(subject: Subject, found: Inspection) -> str:
    if found.broken:
        return "verdict: critical. Nothing repairs lost numbers: restore an earlier checkpoint."
    if found.critical:
        return "verdict: critical. What to do stands beside each finding."
    if found.half_dead:
        return f"verdict: none. Half or more of the units of {', '.join(found.half_dead[:2])} are dead."
    warnings = sum(finding.severity == "warning" for finding in found.findings)
    said = f", with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    unseen = "" if found.activity is not None else "; dead units show with --inputs only"
    part = (
        f" as far as it could be measured ({len(subject.unread)} weights could not)" if subject.unread else ""
    )
    return f"verdict: healthy{part}{said}{unseen}"


def as_json(subject: Subject, found: Inspection) -> dict[str, Any]:
    """All numbers, for machines."""
    activity = {} if found.activity is None else found.activity
    return strict_json(  # type: ignore[no-any-return]
        {
            "critical": found.critical,
            "healthy": found.healthy,
            "assumption": found.assumption,
            "not_measured": dict(subject.unread),
            "findings": [vars(finding) for finding in found.findings],
            "weights": {name: layer.as_dict() for name, layer in found.spectra.items()},
            "activity": {name: layer.as_dict() for name, layer in activity.items()},
        }
    )
