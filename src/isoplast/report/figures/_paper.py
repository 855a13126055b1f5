"""Figures for papers: PDF, PNG and SVG by matplotlib, in the colours, dashes and markers of the page."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.report.data._instruments import INSTRUMENTS
from isoplast.report.data._method_runs import Array, MethodRuns, fine_print, over_layers, over_seeds
from isoplast.report.figures._charts import chances, complete_scores, profile_levels, sweeps, swept_lines
from isoplast.statistics import performance_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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
_TASKS = "tasks trained on"
_BAND = 5  # seeds from which on the band of a profile says anything
_WIDTH, _HEIGHT = 5.5, 3.2  # inches: the text of a usual conference template is 5.5 wide
_PANEL = 3.5, 1.9  # inches of one of several panels, two in a row
_LEGEND = 8  # points
_TEXT: dict[str, Any] = {"parse_math": False}  # $ is a dollar sign, whatever stands between two of them


def paper_figures(results: Sequence[MethodRuns]) -> Iterator[tuple[str, Figure]]:
    """Every figure that the results allow, each with the name of its file.

    `score`: after each task. `profile`: the share of all scores that are better than each (a performance
    profile; runs that are not finished yet do not count, and their number stands above it). `sensitivity`:
    against the strength of isometry, where the study sweeps it. `instruments`: all of them, a panel each. The
    others: each instrument alone, per task; of the weights the extreme or the mean over matrices, of units
    the mean over layers.

    Args:
        results: the methods of a study.
    """
    yield "score", score_figure(results)
    yield "profile", _profile(results)
    if sweeps(results):
        yield "sensitivity", _sensitivity(results)
    measured = _measured(results)
    if len(measured) > 1:
        yield "instruments", instruments_figure(results)
    for one in measured:
        figure, axes = _blank(one, INSTRUMENTS[one].label)
        yield one, _finished(figure, results, _draw_instrument(axes, results, one))


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
        curves: dict[str, Line2D] = {}
        for axes, one in zip(panels, measured, strict=False):
            axes.set_title(INSTRUMENTS[one].label, size=9)
            axes.set_gid(one)
            curves = _draw_instrument(axes, results, one) | curves
        for axes in panels[len(measured) :]:
            axes.remove()
        for axes in panels[len(measured) - 2 : len(measured)]:
            axes.set_xlabel(_TASKS)
            _whole_ticks(axes)
            axes.xaxis.set_tick_params(labelbottom=True)
    shown = {one.label: curves[one.label] for one in results if one.label in curves}
    return _finished(figure, results, shown)


def score_figure(results: Sequence[MethodRuns]) -> Figure:
    """The score after each task: a line and a band per method, chance, and where a method takes over."""
    label = results[0].metric.label

    def trained(one: MethodRuns) -> Array:
        return np.where(one.trained, one.score, np.nan)

    figure, axes = _blank(f"{label} after each task", label)
    curves = _draw(axes, results, trained)
    for chance, _ in chances(results):
        axes.axhline(chance, color="0.4", linestyle=":", linewidth=0.8)
        axes.annotate(
            "chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=8
        )
    for task in sorted({switch.task for one in results for switch in one.switches}):
        axes.axvline(task + 0.5, color="0.4", linestyle="--", linewidth=0.8)
    return _finished(figure, results, curves)


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


def _draw_instrument(axes: Axes, results: Sequence[MethodRuns], instrument: str) -> dict[str, Line2D]:
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
    return _draw(axes, results, lambda one: finite[one.label], log=log)


def _draw(
    axes: Axes,
    results: Sequence[MethodRuns],
    values: Callable[[MethodRuns], Array | None],
    log: bool = False,
) -> dict[str, Line2D]:
    """A line and a band per method; the lines by label."""
    curves = {}
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
        every = max(1, len(tasks) // 12)
        (curves[one.label],) = axes.plot(tasks, mean[known], label=one.label, markevery=every, **look)
        if len(one.seeds) > 1:
            axes.fill_between(tasks, low[known], high[known], color=look["color"], alpha=0.15, linewidth=0)
    return curves


def _profile(results: Sequence[MethodRuns]) -> Figure:
    side = "above" if results[0].sign > 0 else "below"
    figure, axes = _blank("profile", "share of tasks and seeds", x=f"{results[0].metric.label} {side}")
    scores = {one.label: complete_scores(one) for one in results}
    levels = profile_levels(results, 201)
    curves = {}
    for one in results:
        values = scores[one.label]
        if len(values):
            found = performance_profile(values, levels, higher_is_better=one.sign > 0)
            look = _look(one)
            (curves[one.label],) = axes.plot(levels, found.value, label=one.label, markevery=20, **look)
            if len(values) >= _BAND:
                axes.fill_between(levels, found.low, found.high, color=look["color"], alpha=0.15, linewidth=0)
    axes.set_ylim(-0.02, 1.02)
    unfinished = sum(len(one.seeds) - len(scores[one.label]) for one in results)
    runs = "1 run that is" if unfinished == 1 else f"{unfinished} runs that are"
    return _finished(figure, results, curves, f"without {runs} not finished" if unfinished else "")


def _sensitivity(results: Sequence[MethodRuns]) -> Figure:
    label = results[0].metric.label
    lines, levels = swept_lines(results)
    figure, axes = _blank("sensitivity", f"mean {label}", x="isometry strength λ")
    axes.set_xscale("log")
    curves = {}
    for line in lines:
        look = _of(line.style)
        (curves[line.label],) = axes.plot(line.x, line.y, label=line.label, **look)
        axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.15, linewidth=0)
    for value, name in levels:
        axes.axhline(value, color="0.4", linestyle=":", linewidth=0.8)
        place = ("axes fraction", "data")
        axes.annotate(name, (1, value), xycoords=place, ha="right", va="bottom", size=8, **_TEXT)
    return _finished(figure, results, curves)


def _blank(name: str, label: str, x: str = _TASKS) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # no window, and nothing global

    with _style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x, **_TEXT)
        axes.set_ylabel(label, **_TEXT)
        axes.set_gid(name)
        if x == _TASKS:
            _whole_ticks(axes)
    return figure, axes


def _whole_ticks(axes: Axes) -> None:
    """Ticks at whole tasks only, however few there are."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def _finished(
    figure: Figure, results: Sequence[MethodRuns], curves: Mapping[str, Line2D], note: str = ""
) -> Figure:
    """With the fine print above, and the legend below, where it covers no curve, and room for it.

    As many columns as the longest label leaves room for; where even one is too narrow, labels are wrapped.
    """
    words = ", ".join(filter(None, (fine_print(results), note)))
    with _style():
        if words:
            figure.suptitle(words, x=0.01, ha="left", size=_LEGEND, color="0.35", **_TEXT)
        em, width = _LEGEND / 72, figure.get_figwidth()
        labels = [" ".join(label.split()) for label in curves]  # in one line
        longest = max(map(_inches, labels), default=0.0)
        most = 3 if len(curves) > 4 else 2
        columns = max(1, min(most, int((width + em) / (longest + 5 * em))))  # line 2, gaps .8 and 2 em
        texts = [_wrapped(label, width - 4 * em) for label in labels]
        more = 0.2 * -(-len(texts) // columns) + 0.14 * sum(text.count("\n") for text in texts)
        more += 0.25 if words else 0.0
        figure.set_figheight(figure.get_figheight() + more)
        # Matplotlib leaves out a label that begins with "_", and reads $ as mathematics: words come later.
        names = ["label"] * len(texts)
        legend = figure.legend(
            [*curves.values()], names, loc="outside lower center", ncols=columns, fontsize=_LEGEND
        )
        for artist, text in zip(legend.get_texts(), texts, strict=True):
            artist.set_parse_math(False)
            artist.set_text(text)
    return figure


def _inches(label: str) -> float:
    """How wide a label of the legend is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_LEGEND)
    width, _, _ = text_to_path.get_text_width_height_descent(label, font, ismath=False)
    return float(width) / 72


def _wrapped(label: str, room: float) -> str:
    """A label in lines of at most `room` inches."""
    share = room / max(_inches(label), 1e-9)
    if share >= 1:
        return label
    return "\n".join(textwrap.wrap(label, max(8, int(0.9 * share * len(label)))))  # some lines are wider


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
