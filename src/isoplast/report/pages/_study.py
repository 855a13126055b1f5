"""The report as one HTML file: opens offline, asks nothing of the network, follows the reader's theme."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from isoplast.report.data._headline import headline
from isoplast.report.data._instruments import PROBES
from isoplast.report.data._method_runs import Array, MethodRuns, band_words, fine_print
from isoplast.report.data._source import Source
from isoplast.report.figures import _plotly as figures
from isoplast.report.figures._charts import chances, complete_scores, scale_of_scores, score_chart, sweeps
from isoplast.report.figures._plotly_overview import profile_figure, sensitivity_figure
from isoplast.report.html import _document as html
from isoplast.report.pages._configuration import configuration, provenance
from isoplast.report.pages._results import results_table, troubles
from isoplast.report.pages._tables import ranking_table
from isoplast.study import Ranking

_MANY, _FEW = 8, 5  # of more methods than the first, the page begins with the best so many


def render(source: Source, results: Sequence[MethodRuns], rankings: Mapping[str, Ranking]) -> str:
    """The page of a study as HTML text.

    Args:
        source: the study's runs and where they came from.
        results: the same study by method; at least one with a finished task.
        rankings: of the methods, by problem.
    """
    drawn: dict[str, str] = {"score": figures.score_figure(results).to_json()}
    curves = _curves(results, rankings)
    title = f"{results[0].metric.label.capitalize()} after each task"
    groups = (_distribution, _sensitivity, _probes, _singular_values, _units)
    return html.render(
        "study.html",
        drawn,
        [result.style for result in results],
        title=f"{source.name}: isoplast report",
        headline=headline(results),
        source=source,
        curves=curves,
        score=html.Plot("score", "tall", f"{title}. {headline(results)}", title),
        score_note=_score_note(results, curves),
        still=Markup(score_chart(results)),
        rankings=[ranking_table(*item) for item in rankings.items()] if len(results) > 1 else [],
        results=results_table(results),
        troubles=troubles(source, results),
        groups=[section for group in groups if (section := group(results, drawn)) is not None],
        **configuration(source, results),
        **provenance(source),
    )


def _curves(results: Sequence[MethodRuns], rankings: Mapping[str, Ranking]) -> list[html.Curve]:
    """The legend, the best first; of many methods the page begins with the best few and the baseline."""
    order = {result.label: index for index, result in enumerate(results)}
    tables = [one.table["method"].to_list() for one in rankings.values() if one.table is not None]
    places = itertools.chain.from_iterable(itertools.zip_longest(*tables))
    labels = list(dict.fromkeys([*(label for label in places if label in order), *order]))
    few = {*labels[:_FEW], *(one.baseline for one in rankings.values())}
    return [
        html.Curve(
            order[label],
            label,
            results[order[label]].style,
            shown=len(labels) <= _MANY or label in few,
        )
        for label in labels
    ]


def _score_note(results: Sequence[MethodRuns], curves: Sequence[html.Curve]) -> str:
    words = [_sentence(fine_print(results)), band_words(results)]
    shown = sum(curve.shown for curve in curves)
    if shown < len(curves):
        words.append(f"Shown are the best of {len(curves)} and the baseline; buttons show the others.")
    if any(result.switches for result in results):
        words.append("The dashed vertical line marks where another method takes over, on the same network.")
    scale = scale_of_scores(results)
    if not all(scale.holds(chance) for chance, _ in chances(results)):
        words.append("The axis fits the curves; chance lies outside of it.")
    return " ".join(filter(None, words))


def _distribution(results: Sequence[MethodRuns], drawn: dict[str, str]) -> html.Section | None:
    whole = [complete_scores(result) for result in results]
    every = np.concatenate([values.ravel() for values in whole])
    if len(np.unique(every)) < 2 or len({result.metric for result in results}) > 1:
        return None
    drawn["profile"] = profile_figure(results).to_json()
    side, label = "above" if results[0].sign > 0 else "below", results[0].metric.label
    words = f"On which share of all tasks and seeds the {label} of a method lies {side} a level."
    left = sum(len(result.seeds) - len(values) for result, values in zip(results, whole, strict=True))
    if left:
        words += f" Left out, as they are not finished: {left} runs."
    medians = zip(results, whole, strict=True)
    halves = [f"{one.label}: {np.median(values):.3g}" for one, values in medians if values.size]
    said = f"{words} Half of them lie {side}: {'; '.join(halves)}."
    figure = html.Plot("profile", "short", said, "Share of tasks and seeds")
    words = f"{words} {_sentence(fine_print(results))}"
    return html.Section("profile", "Performance profile", words, [figure])


def _sensitivity(results: Sequence[MethodRuns], drawn: dict[str, str]) -> html.Section | None:
    if not sweeps(results):
        return None
    drawn["sensitivity"] = sensitivity_figure(results).to_json()
    words = (
        f"Mean {results[0].metric.label} over all tasks against the isometry strength, a line for each "
        "learning rate; methods without a strength are levels."
    )
    figure = html.Plot("sensitivity", "short", words, "Strength and learning rate")
    words = f"{words} {_sentence(fine_print(results))}"
    return html.Section("sensitivity", "Sensitivity", words, [figure], by_method=False)


def _probes(results: Sequence[MethodRuns], drawn: dict[str, str]) -> html.Section | None:
    measured = [metric for metric in PROBES if any(metric in result.probes for result in results)]
    if not measured:
        return None
    for metric in measured:
        drawn[metric] = figures.probe_figure(results, metric).to_json()
    words = (
        "Measured on a copy of the network after each task. Probe: what share of the loss of an uninformed "
        "guess a short training on new random labels removes. Empirical NTK (centred logits): the "
        "participation rank says along how many directions learning is equally fast, the condition number "
        "how slow the worst one is. Jacobian: largest over smallest singular value from input to logits. On "
        "log scales mean and band are of the logarithms."
    )
    if "policy_churn" in measured:
        words += (
            " Churn: how much the last update of a task changes policy (KL divergence, in nats) and value "
            "(root mean square) on observations that it was not trained on."
        )
    if "greedy_churn" in measured:
        words += (
            " Churn with DQN: on what share of observations of the replay the optimizer steps after a task's "
            "last rollout change the greedy action, and how far they move the values (root mean square)."
        )
    words += _looks(results, lambda one: list(one.probes.values()))
    places = [_plot(metric, _heading(PROBES[metric].label), results) for metric in measured]
    return html.Section("probes", "Can it still learn?", words, places)


def _heading(label: str) -> str:
    return label[:1].upper() + label[1:]


def _sentence(words: str) -> str:
    return f"{_heading(words)}." if words else ""


def _singular_values(results: Sequence[MethodRuns], drawn: dict[str, str]) -> html.Section | None:
    layers = figures.views(results, "sigma_max")
    if not layers:
        return None
    places = []
    for metric, title in (("sigma_max", "Largest"), ("sigma_min", "Smallest")):
        drawn[metric] = figures.singular_value_figure(results, metric).to_json()
        places.append(_plot(metric, f"{title} singular value", results))
    words = (
        "The largest and the smallest over all weight matrices, or of one matrix, on a log scale, with mean "
        "and band of the logarithms. A matrix whose singular values are all 1 preserves lengths: isometry. "
        "Along a singular value near 0 nothing gets through, neither signal nor gradient."
    )
    words += _looks(results, lambda one: _largest(one, "sigma_max"))
    every = f"all {len(layers)} matrices"
    title = "Singular values of the weights"
    return html.Section("singular", title, words, places, layers=layers, picked="Matrix", every=every)


def _units(results: Sequence[MethodRuns], drawn: dict[str, str]) -> html.Section | None:
    layers = figures.views(results, "dead")
    if not layers:
        return None
    places = []
    for metric, title in (("dead", "Dead units"), ("dormant", "Dormant units")):
        drawn[metric] = figures.unit_figure(results, metric).to_json()
        places.append(_plot(metric, title, results))
    words = (
        "The share of hidden units: mean over the hidden layers, or of one layer. Dead: zero on every input "
        "of the task. Dormant: mean activity at most a tenth of its layer's average (arXiv:2302.12902)."
    )
    words += _looks(results, lambda one: _largest(one, "dead"))
    every = f"all {len(layers)} hidden layers"
    title = "Dead and dormant units"
    return html.Section("units", title, words, places, layers=layers, picked="Layer", every=every)


def _largest(result: MethodRuns, metric: str) -> list[Array]:
    """The largest over the layers, (seeds, T); nothing where it was not measured."""
    found = result.per_layer.get(metric)
    return [] if found is None or not found.shape[2] else [found.max(axis=2)]


def _looks(results: Sequence[MethodRuns], values: Callable[[MethodRuns], list[Array]]) -> str:
    """After how many tasks the instruments looked, where that was not after every one."""
    counts = set()
    for result in results:
        trained = np.flatnonzero(result.trained)
        for array in values(result)[:1]:
            looked = int(np.isfinite(array[:, trained]).any(axis=0).sum())
            counts |= {f"{looked} of {len(trained)}"} if looked < len(trained) else set()
    return f" Measured after {', '.join(sorted(counts))} tasks only." if counts else ""


def _plot(metric: str, title: str, results: Sequence[MethodRuns]) -> html.Plot:
    return html.Plot(metric, "short", f"{title} per task. {figures.last_values(results, metric)}", title)
