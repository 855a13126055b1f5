"""The page of `isoplast inspect`: one network, what was found in it, and the plots behind that."""

from __future__ import annotations

from collections.abc import Sequence

from isoplast.diagnostics import Activity, Inspection, Moment, format_number
from isoplast.report.figures import _inspection as figures
from isoplast.report.figures._palette import style
from isoplast.report.html._document import document, legend, picker, plot, section
from isoplast.report.html._markup import Markup, table, tag

_CURVES = [(index, name, style(index)) for index, name in enumerate(figures.CURVES)]
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
    plots: dict[str, str] = {}
    main = [
        _findings(found),
        _spectra(found, plots),
        *_units(found, plots),
        *_history(moments, plots),
        _numbers(found),
    ]
    scope = tag("p", "; ".join(line for line in (*about, found.assumption) if line), class_="scope")
    named = tag("p", f"isoplast inspect: {name}", class_="name")
    header = tag("header", [named, tag("h1", _headline(found)), scope])
    footer = tag("footer", tag("p", "Written by isoplast inspect. Limits and rates: docs/alarms.md; arXiv:2606.09762."))
    looks = [look for _, _, look in _CURVES]
    return document(f"{name}: isoplast inspect", [header, tag("main", main), footer], plots, looks)


def _headline(found: Inspection) -> str:
    if not found.healthy:
        critical = [f"{one.where}: {one.what}" for one in found.findings if one.severity == "critical"]
        more = [f"and {len(critical) - 2} more"] if len(critical) > 2 else []
        return f"Critical: {'; '.join([*critical[:2], *more])}."
    warnings = sum(finding.severity == "warning" for finding in found.findings)
    if warnings:
        return f"Healthy, with {warnings} warning{'s' if warnings > 1 else ''}."
    return "Healthy: nothing found that keeps this network from learning."


def _findings(found: Inspection) -> Markup:
    groups: dict[tuple[str, str], list[str]] = {}
    for finding in found.findings:
        groups.setdefault((finding.severity, finding.advice), []).append(finding.sentence)
    content: list[Markup] = []
    for (severity, advice), said in groups.items():
        items = tag("ul", [tag("li", one) for one in said])
        parts = [tag("strong", severity.capitalize()), items, tag("span", f"{advice[:1].upper()}{advice[1:]}.")]
        content.append(tag("div", parts, class_="warning" if severity != "note" else "note"))
    unseen = "Dead units show on inputs only: none were given." if found.activity is None else ""
    words = [tag("p", "Nothing.")] if not content else []
    return section("findings-heading", "What was found", [*words, *content, tag("p", unseen, class_="note")])


def _spectra(found: Inspection, plots: dict[str, str]) -> Markup:
    spectra = found.spectra
    plots["layers"] = figures.layers_figure(spectra).to_json()
    plots["spectrum"] = figures.spectrum_figure(spectra).to_json()
    words = (
        "A matrix whose singular values are all 1 preserves lengths: isometry. Along a singular value near 0 "
        "nothing gets through, neither signal nor gradient; one far above the rest drowns all others."
    )
    said = "Largest, mean and smallest singular value of every layer; the numbers are in the table below."
    figure = tag("figure", plot("layers", "tall", said))
    every = section("layers-heading", "Singular values by layer", [tag("p", words), legend(_WEIGHTS), figure])
    bar = tag("div", [picker("Layer", None, list(spectra))], class_="bar")
    one = tag(
        "figure", plot("spectrum", "tall", "All singular values of the chosen layer, the largest first.")
    )
    return Markup(every.text + section("spectrum-heading", "The spectrum of a layer", [bar, one]).text)


def _units(found: Inspection, plots: dict[str, str]) -> list[Markup]:
    if found.activity is None:
        return []
    plots["units"] = figures.units_figure(found.activity).to_json()
    words = (
        "Dead: zero on every input. Dormant: mean activity at most a tenth of the layer's average "
        "(arXiv:2302.12902). Always on: positive on every input, where a ReLU is the identity."
    )
    said = "; ".join(f"{name}: {one.dead:.0%} dead" for name, one in found.activity.items())
    figure = tag("figure", plot("units", "short", f"Share of units by layer. {said}."))
    return [section("units-heading", "Hidden units", [tag("p", words), legend(_UNITS), figure])]


def _history(moments: Sequence[Moment], plots: dict[str, str]) -> list[Markup]:
    if len(moments) < 2:
        return []
    plots["history"] = figures.history_figure(moments).to_json()
    first, last = moments[0], moments[-1]
    ends = [f"{format_number(max(one.largest.values()))} at {one.name}" for one in (first, last)]
    said = f"Singular values over time; the largest goes from {ends[0]} to {ends[1]}."
    shown = [_WEIGHTS[figures.LARGEST], _WEIGHTS[figures.SMALLEST]]
    bar = legend(shown, picker("Layer", f"all {len(last.largest)} layers", list(last.largest)))
    figure = tag("figure", plot("history", "short", said))
    found = [section("history-heading", "Singular values over time", [bar, figure])]
    if any(moment.dead for moment in moments):
        plots["dead"] = figures.dead_figure(moments).to_json()
        figure = tag("figure", plot("dead", "short", "Share of dead units of the worst layer, over time."))
        words = tag("p", "Of the layer that has most of them: one closed layer closes the network.")
        found.append(section("dead-heading", "Dead units over time", [words, figure]))
    return found


def _numbers(found: Inspection) -> Markup:
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
    parts = [table("Singular values of the weights", head, rows)]
    if found.activity is not None:
        parts.append(_activity(found.activity))
    return section("numbers-heading", "The numbers", parts)


def _activity(activity: Activity) -> Markup:
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
    return table("Hidden units on the inputs", head, rows)
