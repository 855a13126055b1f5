"""Figures for papers: PDF, PNG and SVG by matplotlib, in the colours, dashes and markers of the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.report.data._instruments import INSTRUMENTS
from isoplast.report.data._isometry import isometry
from isoplast.report.data._method_runs import Array, MethodRuns, over_layers, over_seeds
from isoplast.report.figures._charts import chances, swept_lines
from isoplast.statistics import performance_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
_DASHES: dict[str, Any] = {
    **{"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (9, 3))},
    "longdashdot": (0, (9, 3, 1.5, 3)),
}
_MARKERS = {
    **{"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "x", "cross": "P"},
    "triangle-down": "v",
}
_SETTINGS = {
    **{"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True},
    **{"grid.alpha": 0.3, "legend.frameon": False, "svg.fonttype": "none", "pdf.fonttype": 42},
    **{"svg.hashsalt": "isoplast", "figure.constrained_layout.use": True},
}
_BAND = 5  # seeds from which on the band of a profile says anything
_WIDTH, _HEIGHT = 5.5, 3.2  # inches: the text of a usual conference template is 5.5 wide
_PANEL = 3.5, 1.9  # inches of one of several panels, two in a row


def paper_figures(results: Sequence[MethodRuns]) -> Iterator[tuple[str, Figure]]:
    """Every figure that the results allow, each with the name of its file.

    `score`: after each task. `profile`: the share of all scores that are better than each (a performance
    profile, of the runs that are complete). `sensitivity`: against the strength of isometry, where the study
    sweeps it. `instruments`: all of them, a panel each. The others: each instrument alone, per task; of the
    weights the extreme or the mean over matrices, of units the mean over layers.

    Args:
        results: the methods of a study.
    """
    yield "score", score_figure(results)
    yield "profile", _profile(results)
    if len({one.strength for one in map(isometry, results) if one is not None}) > 1:
        yield "sensitivity", _sensitivity(results)
    measured = _measured(results)
    if len(measured) > 1:
        yield "instruments", instruments_figure(results)
    for one in measured:
        figure, axes = _blank(one, INSTRUMENTS[one].label)
        _draw_instrument(axes, results, one)
        yield one, _finished(figure, axes, len(results))


def instruments_figure(results: Sequence[MethodRuns]) -> Figure:
    """Every instrument that was read, a panel each.

    Raises:
        IsoplastError: none was.
    """
    from matplotlib.figure import Figure

    measured = _measured(results)
    if not measured:
        raise IsoplastError("no instrument was read in this study: give it some, such as [weights, ntk]")
    rows = -(-len(measured) // 2)
    with _style():
        figure = Figure(figsize=(2 * _PANEL[0], rows * _PANEL[1]), layout="constrained")
        panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
        for axes, one in zip(panels, measured, strict=False):
            axes.set_title(INSTRUMENTS[one].label, size=9)
            axes.set_gid(one)
            _draw_instrument(axes, results, one)
        for axes in panels[len(measured) :]:
            axes.remove()
        for axes in panels[len(measured) - 2 : len(measured)]:
            axes.set_xlabel("tasks trained on")
            axes.xaxis.set_tick_params(labelbottom=True)
        lines, labels = panels[0].get_legend_handles_labels()
        figure.set_figheight(rows * _PANEL[1] + 0.2 * -(-len(labels) // 3))
        figure.legend(lines, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def score_figure(results: Sequence[MethodRuns]) -> Figure:
    """The score after each task: a line and a band per method, chance, and where a method takes over."""
    label = results[0].metric.label

    def trained(one: MethodRuns) -> Array:
        return np.where(one.trained, one.score, np.nan)

    figure, axes = _blank(f"{label} after each task", label)
    _draw(axes, results, trained)
    for chance, _ in chances(results):
        axes.axhline(chance, color="0.4", linestyle=":", linewidth=0.8)
        axes.annotate(
            "chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=8
        )
    for task in sorted({switch.task for one in results for switch in one.switches}):
        axes.axvline(task + 0.5, color="0.4", linestyle="--", linewidth=0.8)
    return _finished(figure, axes, len(results))


def written(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a file; the same bits every time.

    Args:
        figure: the figure.
        kind: one of `FORMATS`.
    """
    with _style():
        buffer = io.BytesIO()
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(buffer, format=kind, dpi=200, metadata=stamp)
    return buffer.getvalue()


def _values(name: str, one: MethodRuns) -> Array | None:
    """What an instrument read, (seeds, T); None where it did not."""
    layers = one.per_layer.get(name)
    if layers is None:
        return one.probes.get(name)
    return over_layers(name, layers) if layers.shape[2] else None


def _measured(results: Sequence[MethodRuns]) -> list[str]:
    """The instruments that were read in any run."""
    return [name for name in INSTRUMENTS if any(name in {**one.per_layer, **one.probes} for one in results)]


def _draw_instrument(axes: Axes, results: Sequence[MethodRuns], instrument: str) -> None:
    found = {one.label: _values(instrument, one) for one in results}
    every = np.concatenate([one.ravel() for one in found.values() if one is not None])
    top = 10.0 * max(every[np.isfinite(every)], default=1.0)  # where infinite values are drawn
    log = INSTRUMENTS[instrument].log
    if log:
        axes.set_yscale("log")
        if np.isposinf(every).any():
            axes.axhline(top, color="0.4", linestyle=":", linewidth=0.8)
            axes.annotate(
                "infinite", (1, top), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=8
            )
    finite = {
        label: None if one is None else np.where(np.isposinf(one), top, one) for label, one in found.items()
    }
    _draw(axes, results, lambda one: finite[one.label], log=log)


def _draw(
    axes: Axes,
    results: Sequence[MethodRuns],
    values: Callable[[MethodRuns], Array | None],
    log: bool = False,
) -> None:
    for one in results:
        found = values(one)
        if found is None:
            continue
        mean, low, high = over_seeds(found, log=log)
        known = np.isfinite(mean)
        if not known.any():
            continue
        tasks = one.tasks[known] + 1
        look = _look(one)
        axes.plot(tasks, mean[known], label=one.label, markevery=max(1, len(tasks) // 12), **look)
        if len(one.seeds) > 1:
            axes.fill_between(tasks, low[known], high[known], color=look["color"], alpha=0.15, linewidth=0)


def _profile(results: Sequence[MethodRuns]) -> Figure:
    label = results[0].metric.label
    figure, axes = _blank("profile", "share of tasks and seeds", x=f"{label} above")
    if results[0].sign < 0:
        axes.set_xlabel(f"{label} below")
    scores = {one.label: one.score[:, one.trained] for one in results}
    every = np.concatenate([values[np.isfinite(values)] for values in scores.values()])
    levels = np.linspace(every.min(), every.max(), 201)
    for one in results:
        values = scores[one.label]
        complete = values[np.isfinite(values).all(axis=1)]
        if len(complete):
            found = performance_profile(complete, levels, higher_is_better=one.sign > 0)
            look = _look(one)
            axes.plot(levels, found.value, label=one.label, markevery=20, **look)
            if len(complete) >= _BAND:
                axes.fill_between(levels, found.low, found.high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set_ylim(-0.02, 1.02)
    return _finished(figure, axes, len(results))


def _sensitivity(results: Sequence[MethodRuns]) -> Figure:
    label = results[0].metric.label
    lines, levels = swept_lines(results)
    figure, axes = _blank("sensitivity", f"mean {label}", x="isometry strength λ")
    axes.set_xscale("log")
    for line in lines:
        look = _of(line.style)
        axes.plot(line.x, line.y, label=line.label, **look)
        axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.15, linewidth=0)
    for value, name in levels:
        axes.axhline(value, color="0.4", linestyle=":", linewidth=0.8)
        axes.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=8)
    return _finished(figure, axes, len(lines))


def _blank(name: str, label: str, x: str = "tasks trained on") -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # no window, and nothing global

    with _style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x)
        axes.set_ylabel(label)
        axes.set_gid(name)
    return figure, axes


def _finished(figure: Figure, axes: Axes, count: int) -> Figure:
    """With the legend below, where it covers no curve, and room for it."""
    columns = 3 if count > 4 else 2
    with _style():
        figure.set_figheight(_HEIGHT + 0.2 * -(-count // columns))
        figure.legend(loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _look(one: MethodRuns) -> dict[str, Any]:
    return _of(one.style)


def _of(style: Any) -> dict[str, Any]:
    return {
        **{"color": style.light, "linestyle": _DASHES[style.dash], "marker": _MARKERS[style.marker]},
        **{"markersize": 3.5, "linewidth": 1.3},
    }


def _style() -> AbstractContextManager[None]:
    from matplotlib import rc_context

    return rc_context(cast(Any, _SETTINGS))
