"""The report as one HTML file: opens offline, asks nothing of the network, follows the reader's theme."""

from __future__ import annotations

from collections.abc import Sequence

from isoplast.report.data._arms import Arm, band_words
from isoplast.report.data._headline import headline
from isoplast.report.data._source import Source
from isoplast.report.figures import _plotly as figures
from isoplast.report.figures._charts import score_chart
from isoplast.report.html._document import document, legend, picker, plot, section
from isoplast.report.html._markup import Markup, tag
from isoplast.report.pages._configuration import configuration, provenance
from isoplast.report.pages._results import results_table, troubles


def render(source: Source, arms: Sequence[Arm]) -> str:
    """The page of a study as HTML text.

    Args:
        source: the study's runs and where they came from.
        arms: the same study cut into arms; at least one with a finished task.
    """
    plots: dict[str, str] = {}
    main = [
        _score(arms, plots),
        _results(source, arms),
        *_probes(arms, plots),
        *_singular_values(arms, plots),
        *_units(arms, plots),
        configuration(source, arms),
        provenance(source),
    ]
    body = [_header(source, arms), tag("main", main), _footer()]
    title = f"{source.name}: isoplast report"
    return document(title, body, plots, [arm.style for arm in arms])


def _header(source: Source, arms: Sequence[Arm]) -> Markup:
    name = tag("p", f"isoplast report: {source.name}", class_="name")
    about = [tag("p", source.about)] if source.about else []
    return tag("header", [name, tag("h1", headline(arms)), *about, tag("p", source.scope, class_="scope")])


def _footer() -> Markup:
    return tag("footer", tag("p", "Written by isoplast. AdamO: Rosseau, Müller and Nowé, arXiv:2606.09762."))


def _score(arms: Sequence[Arm], plots: dict[str, str]) -> Markup:
    title = f"{arms[0].metric.label.capitalize()} after each task"
    plots["score"] = figures.score_figure(arms).to_json()
    switching = any(arm.switches for arm in arms)
    words = band_words(arms) + (
        " The dashed vertical line marks where an arm goes on with another method, on the same network."
        if switching
        else ""
    )
    still = tag("noscript", Markup(score_chart(arms)))
    drawn = plot("score", "tall", f"{title}. {headline(arms)}")
    note = tag("figcaption", words)
    return section("score-heading", title, [_legend(arms), tag("figure", [drawn, still, note])])


def _results(source: Source, arms: Sequence[Arm]) -> Markup:
    return section("results-heading", "Results", [results_table(arms), *troubles(source, arms)])


_PROBES = {
    "plasticity_learned": "Plasticity probe",
    "ntk_participation_rank": "NTK participation rank",
    "ntk_condition_number": "NTK condition number",
    "jacobian_condition_number": "Jacobian condition number",
}


def _probes(arms: Sequence[Arm], plots: dict[str, str]) -> list[Markup]:
    measured = [metric for metric in _PROBES if any(metric in arm.probes for arm in arms)]
    if not measured:
        return []
    for metric in measured:
        plots[metric] = figures.probe_figure(arms, metric).to_json()
    drawn = [_small_figure(metric, _PROBES[metric], arms) for metric in measured]
    words = (
        "Measured on a copy of the network after each task. Probe: what share of the loss of an uninformed "
        "guess a short training on new random labels removes. Empirical NTK (centred logits): the "
        "participation rank says along how many directions learning is equally fast, the condition number "
        "how slow the worst one is. Jacobian: largest over smallest singular value from input to logits."
    )
    grid = tag("div", drawn, class_="grid")
    return [section("probes-heading", "Can it still learn?", [tag("p", words), _legend(arms), grid])]


def _singular_values(arms: Sequence[Arm], plots: dict[str, str]) -> list[Markup]:
    layers = figures.views(arms, "sigma_max")
    if not layers:
        return []
    drawn = []
    for metric, title in (("sigma_max", "Largest"), ("sigma_min", "Smallest")):
        plots[metric] = figures.singular_value_figure(arms, metric).to_json()
        drawn.append(_small_figure(metric, f"{title} singular value", arms))
    words = (
        "The largest and the smallest over all weight matrices, or of one matrix, on a log scale. A matrix "
        "whose singular values are all 1 preserves lengths: isometry. Along a singular value near 0 nothing "
        "gets through, neither signal nor gradient."
    )
    bar = _legend(arms, picker("Matrix", f"all {len(layers)} matrices", layers))
    grid = tag("div", drawn, class_="grid")
    return [section("singular-heading", "Singular values of the weights", [tag("p", words), bar, grid])]


def _units(arms: Sequence[Arm], plots: dict[str, str]) -> list[Markup]:
    layers = figures.views(arms, "dead")
    if not layers:
        return []
    drawn = []
    for metric, title in (("dead", "Dead units"), ("dormant", "Dormant units")):
        plots[metric] = figures.unit_figure(arms, metric).to_json()
        drawn.append(_small_figure(metric, title, arms))
    words = (
        "The share of hidden units: mean over the hidden layers, or of one layer. Dead: zero on every input "
        "of the task. Dormant: mean activity at most a tenth of its layer's average (arXiv:2302.12902)."
    )
    bar = _legend(arms, picker("Layer", f"all {len(layers)} hidden layers", layers))
    grid = tag("div", drawn, class_="grid")
    return [section("units-heading", "Dead and dormant units", [tag("p", words), bar, grid])]


def _small_figure(metric: str, title: str, arms: Sequence[Arm]) -> Markup:
    summary = figures.last_values(arms, metric)
    return tag("figure", [tag("h3", title), plot(metric, "short", f"{title} per task. {summary}")])


def _legend(arms: Sequence[Arm], *more: Markup) -> Markup:
    return legend([(index, arm.label, arm.style) for index, arm in enumerate(arms)], *more)
