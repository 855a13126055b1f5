"""The page of `isoplast inspect`: one network, what was found in it, and the plots behind that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isoplast.diagnostics import Activity, Inspection, Moment, format_number
from isoplast.report.figures import _inspection as figures
from isoplast.report.figures._palette import style
from isoplast.report.html import _document as html

_CURVES = [html.Curve(index, name, style(index)) for index, name in enumerate(figures.CURVES)]
_WEIGHTS = _CURVES[: figures.DEAD]
_UNITS = _CURVES[figures.DEAD :]


def inspection_page(
    name: str, about: Sequence[str], found: Inspection, moments: Sequence[Moment] = ()
) -> str:
    """One self-contained page about a network, as HTML text.

    Args:
        name: of the file.
        about: lines that say what was opened.
        found: what was found in it.
        moments: its history, the oldest first.
    """
    drawn: dict[str, str] = {}
    activity = [] if found.activity is None else [_activity(found.activity)]
    return html.render(
        "inspection.html",
        drawn,
        [curve.look for curve in _CURVES],
        title=f"{name}: isoplast inspect",
        headline=_headline(found),
        name=name,
        about="; ".join(line for line in (*about, found.assumption) if line),
        findings=_findings(found),
        unseen="Dead units show on inputs only: none were given." if found.activity is None else "",
        groups=[*_spectra(found, drawn), *_units(found, drawn), *_history(moments, drawn)],
        tables=[_numbers(found), *activity],
    )


@dataclass(frozen=True)
class _Findings:
    """Findings that share an advice."""

    severity: str
    advice: str
    lines: list[str]


def _headline(found: Inspection) -> str:
    if found.critical:
        critical = [f"{one.where}: {one.what}" for one in found.findings if one.severity == "critical"]
        more = [f"and {len(critical) - 2} more"] if len(critical) > 2 else []
        return f"Critical: {'; '.join([*critical[:2], *more])}."
    if found.half_dead:
        return f"No verdict: half or more of the units of {', '.join(found.half_dead[:2])} are dead."
    warnings = sum(finding.severity == "warning" for finding in found.findings)
    if warnings:
        return f"Healthy, with {warnings} warning{'s' if warnings > 1 else ''}."
    return "Healthy: nothing found that keeps this network from learning."


def _findings(found: Inspection) -> list[_Findings]:
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in found.findings:
        groups.setdefault((finding.severity, finding.advice), []).append(finding.sentence)
    return [_Findings(severity, advice, said) for (severity, advice), said in groups.items()]


def _spectra(found: Inspection, drawn: dict[str, str]) -> list[html.Section]:
    spectra = found.spectra
    drawn["layers"] = figures.layers_figure(spectra).to_json()
    drawn["spectrum"] = figures.spectrum_figure(spectra).to_json()
    words = (
        "A matrix whose singular values are all 1 preserves lengths: isometry. Along a singular value near 0 "
        "nothing gets through, neither signal nor gradient; one far above the rest drowns all others."
    )
    said = "Largest, mean and smallest singular value of every layer; the numbers are in the table below."
    every = html.Plot("layers", "tall", said)
    one = html.Plot("spectrum", "tall", "All singular values of the chosen layer, the largest first.")
    return [
        html.Section("layers", "Singular values by layer", words, [every], curves=_WEIGHTS),
        html.Section("spectrum", "The spectrum of a layer", "", [one], layers=list(spectra), picked="Layer"),
    ]


def _units(found: Inspection, drawn: dict[str, str]) -> list[html.Section]:
    if found.activity is None:
        return []
    drawn["units"] = figures.units_figure(found.activity).to_json()
    words = (
        "Dead: zero on every input. Dormant: mean activity at most a tenth of the layer's average "
        "(arXiv:2302.12902). Always on: positive on every input, where a ReLU is the identity."
    )
    said = "; ".join(f"{name}: {one.dead:.0%} dead" for name, one in found.activity.items())
    place = html.Plot("units", "short", f"Share of units by layer. {said}.")
    return [html.Section("units", "Hidden units", words, [place], curves=_UNITS)]


def _history(moments: Sequence[Moment], drawn: dict[str, str]) -> list[html.Section]:
    if len(moments) < 2:
        return []
    drawn["history"] = figures.history_figure(moments).to_json()
    first, last = moments[0], moments[-1]
    ends = [f"{format_number(max(one.largest.values()))} at {one.name}" for one in (first, last)]
    said = f"Singular values over time; the largest goes from {ends[0]} to {ends[1]}."
    layers = list(last.largest)
    found = [
        html.Section(
            *("history", "Singular values over time", "", [html.Plot("history", "short", said)]),
            curves=[_WEIGHTS[figures.LARGEST], _WEIGHTS[figures.SMALLEST]],
            layers=layers,
            picked="Layer",
            every=f"all {len(layers)} layers",
        )
    ]
    if any(moment.dead for moment in moments):
        drawn["dead"] = figures.dead_figure(moments).to_json()
        place = html.Plot("dead", "short", "Share of dead units of the worst layer, over time.")
        words = "Of the layer that has most of them: one closed layer closes the network."
        found.append(html.Section("dead", "Dead units over time", words, [place]))
    return found


def _numbers(found: Inspection) -> html.Table:
    head = ("layer", "shape", "smallest", "mean", "largest", "condition number", "effective rank", "norm")
    rows = [
        (
            name,
            "x".join(map(str, one.shape)),
            *map(format_number, (one.smallest, one.mean, one.largest, one.condition_number)),
            f"{format_number(round(one.effective_rank, 1))} of {one.singular_values.shape[-1]}",
            format_number(one.norm),
        )
        for name, one in found.spectra.items()
    ]
    return html.Table("Singular values of the weights", head, rows)


def _activity(activity: Activity) -> html.Table:
    head = ("layer", "units", "dead", "dormant", "saturated", "always on", "rank of features")
    rows = [
        (
            name,
            str(one.units),
            *(f"{share:.1%}" for share in (one.dead, one.dormant, one.saturated, one.linearised)),
            format_number(one.feature_rank),
        )
        for name, one in activity.items()
    ]
    return html.Table("Hidden units on the inputs", head, rows)
