"""Plotly figures of a study.

Every trace says in its `meta` which method's curve it is and which view (all layers, or one) it belongs to;
the page's script shows and hides traces by it. Colours here are for a light page; the script swaps them on a
dark one.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from isoplast.report.data._instruments import INSTRUMENTS
from isoplast.report.data._method_runs import SMALLEST_DRAWN, Array, MethodRuns, over_layers, over_seeds
from isoplast.report.figures._axes import Scale, share_scale
from isoplast.report.figures._charts import chances, scale_of_scores
from isoplast.report.figures._palette import SHADES

ALL = "all"
_LIGHT = SHADES["light"]
_HEIGHT = {"tall": 400, "short": 300}
# Of an instrument at most about so many tasks are drawn: a screen shows no more, and a page of 60 methods has
# thousands of curves.
_MOST_TASKS = 100


def score_figure(results: Sequence[MethodRuns]) -> go.Figure:
    """The score after each task: a line and band per method, the chance, marks where a method changes."""
    figure = blank_figure("tall")
    traces = []
    for index, result in enumerate(results):
        traces += _curve(index, result, result.tasks[result.trained], result.score[:, result.trained], ".3f")
    figure.add_traces(traces)
    scale = scale_of_scores(results)
    set_share_axis(figure, scale)
    _set_task_axis(figure, results, first=1)
    for chance, words in chances(results):
        if scale.holds(chance):
            # below the line there is room for a word only if it is not at the very bottom
            room = chance - scale.bottom > 0.07 * (scale.top - scale.bottom)
            reference(figure, chance, words, "below" if room else "above")
    _mark_switches(figure, results)
    return figure


def singular_value_figure(results: Sequence[MethodRuns], metric: str) -> go.Figure:
    """Largest (`sigma_max`) or smallest (`sigma_min`) singular value, log scale; a view per layer."""
    figure = blank_figure("short")
    drawn, traces = [1.0], []
    for view, index, result, values in _views(results, metric):
        picked = over_layers(metric, values) if view == ALL else values[:, :, 0]
        picked = np.maximum(picked, SMALLEST_DRAWN)
        traces += _curve(index, result, result.tasks, picked, ".3~g", view, _stride(results), log=True)
        drawn += picked[np.isfinite(picked)].tolist()
    figure.add_traces(traces)
    set_log_axis(figure, min(drawn), max(drawn))
    _set_task_axis(figure, results, first=0)
    reference(figure, 1.0, "isometry", "below" if metric == "sigma_max" else "above")
    _mark_switches(figure, results)
    return figure


def unit_figure(results: Sequence[MethodRuns], metric: str) -> go.Figure:
    """Fraction of dead or dormant units per task: mean over the hidden layers; a view per layer."""
    figure = blank_figure("short")
    highest, traces = 0.0, []
    for view, index, result, values in _views(results, metric):
        picked = over_layers(metric, values) if view == ALL else values[:, :, 0]
        traces += _curve(index, result, result.tasks, picked, ".1%", view, _stride(results))
        highest = max(highest, float(np.nanmax(picked, initial=0.0)))
    figure.add_traces(traces)
    set_share_axis(figure, share_scale(0.0, highest), percent=True)
    _set_task_axis(figure, results, first=0)
    _mark_switches(figure, results)
    return figure


def probe_figure(results: Sequence[MethodRuns], metric: str) -> go.Figure:
    """A measure of the whole network per task, on a linear or a log scale.

    An infinite condition number is drawn on a line of its own, above the largest finite one.
    """
    figure = blank_figure("short")
    every = np.concatenate([result.probes[metric].ravel() for result in results if metric in result.probes])
    drawn = every[np.isfinite(every)].tolist() or [1.0]
    infinite = bool(np.isposinf(every).any())
    top = 10.0 ** (math.floor(math.log10(max(*drawn, SMALLEST_DRAWN))) + 2) if infinite else max(drawn)
    log, traces = INSTRUMENTS[metric].log, []
    for index, result in enumerate(results):
        if metric in result.probes:
            values = np.where(np.isposinf(result.probes[metric]), top, result.probes[metric])
            digits, stride = ".3~g" if log else ".3f", _stride(results)
            traces += _curve(index, result, result.tasks, values, digits, stride=stride, log=log)
    figure.add_traces(traces)
    if not log:
        figure.update_yaxes(range=[min(-0.02, *drawn) * 1.05, max(0.2, *drawn) * 1.05], tickformat=".2f")
    else:
        set_log_axis(figure, max(min(drawn), SMALLEST_DRAWN), max(top, SMALLEST_DRAWN))
        if infinite:
            reference(figure, top, "infinite", "below")
    _set_task_axis(figure, results, first=0)
    _mark_switches(figure, results)
    return figure


def views(results: Sequence[MethodRuns], metric: str) -> list[str]:
    """The layers that at least one method has this metric for, in order of appearance."""
    return list(
        dict.fromkeys(
            name for result in results if metric in result.per_layer for name in result.names(metric)
        )
    )


def last_values(results: Sequence[MethodRuns], metric: str) -> str:
    """Where each method ends, over all layers, in words: for readers who do not see the figure."""
    said = []
    for result in results:
        if metric in result.probes:
            values = result.probes[metric]
            last = values[:, ~np.isnan(values).all(axis=0)][:, -1]
            last = last[~np.isnan(last)]
            mean = over_seeds(last, log=INSTRUMENTS[metric].log)[0]
            end = float(mean) if np.isfinite(last).all() else math.inf
            said.append(f"{result.label}: {'infinite' if math.isinf(end) else f'{end:.3g}'}")
    for view, _, result, values in _views(results, metric):
        if view == ALL:
            mean, _, _ = over_seeds(over_layers(metric, values), log=INSTRUMENTS[metric].log)
            known = mean[np.isfinite(mean)]
            said += [f"{result.label}: {known[-1]:.3g}"] if len(known) else []
    return f"After the last task, {'; '.join(said)}." if said else ""


def _views(results: Sequence[MethodRuns], metric: str) -> list[tuple[str, int, MethodRuns, Array]]:
    known = [
        (index, result, result.per_layer[metric])
        for index, result in enumerate(results)
        if metric in result.per_layer
    ]
    found = [(ALL, index, result, values) for index, result, values in known if values.size]
    for name in views(results, metric):
        for index, result, values in known:
            if name in result.names(metric):
                at = result.names(metric).index(name)
                found.append((name, index, result, values[:, :, at : at + 1]))
    return found


def blank_figure(size: str) -> go.Figure:
    """An empty figure in the page's style, "tall" or "short"."""
    axis = {
        "gridcolor": _LIGHT["grid"],
        "linecolor": _LIGHT["grid"],
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        "tickfont": {"color": _LIGHT["muted"], "size": 12},
    }
    return go.Figure(
        layout={
            "template": "none",
            "height": _HEIGHT[size],
            "margin": {"l": 8, "r": 8, "t": 30, "b": 8},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": _LIGHT["ink"]},
            "paper_bgcolor": _LIGHT["paper"],
            "plot_bgcolor": _LIGHT["paper"],
            "showlegend": False,
            "hovermode": "x unified",
            "hoverlabel": {
                "bgcolor": _LIGHT["paper"],
                "bordercolor": _LIGHT["muted"],
                "font": {"size": 12, "color": _LIGHT["ink"]},
                "namelength": 28,
            },
            "xaxis": axis | {"title": {"text": "tasks trained on", "font": {"size": 13}}},
            "yaxis": axis,
        }
    )


def _curve(
    index: int,
    result: MethodRuns,
    tasks: npt.NDArray[np.int64],
    values: Array,
    digits: str,
    view: str = ALL,
    stride: int = 1,
    log: bool = False,
) -> list[dict[str, Any]]:
    """The mean over seeds of `values` (seeds, tasks), over a band where there is more than one seed.

    Of every `stride` tasks the first that has a value is drawn, and the last of all.
    """
    there = np.flatnonzero(np.isfinite(values).any(axis=0))
    places = np.unique([*there[:: -(-len(there) * stride // len(tasks)) or 1], *there[-1:]]).astype(int)
    mean, low, high = over_seeds(values[:, places], log=log)
    known = np.isfinite(mean)
    x = _smallest(tasks[places][known] + 1)
    shared = {"type": "scatter", "meta": {"curve": index, "view": view}, "visible": view == ALL}
    line = {
        **shared,
        **_evenly(x),
        "y": _packed(mean[known]),
        "name": html.escape(result.label, quote=False),
        "mode": "lines+markers",
        "line": {"color": result.style.light, "dash": result.style.dash, "width": 2.5},
        "marker": {
            "symbol": result.style.marker,
            "size": 7,
            "maxdisplayed": 13,
            "color": result.style.light,
        },
        "hovertemplate": f"%{{y:{digits}}}",
    }
    if len(result.seeds) == 1 or view != ALL:
        return [line]
    band = {
        **shared,
        "x": np.concatenate([x, x[::-1]]),
        "y": _packed(np.concatenate([high[known], low[known][::-1]])),
        "mode": "lines",
        "fill": "toself",
        "fillcolor": result.style.light + "26",
        "line": {"width": 0, "color": result.style.light},
        "hoverinfo": "skip",
    }
    return [band, line]


def _stride(results: Sequence[MethodRuns]) -> int:
    """One of how many tasks of an instrument is drawn."""
    return -(-max(len(result.tasks) for result in results) // _MOST_TASKS)


def _smallest(x: npt.NDArray[np.int64]) -> npt.NDArray[np.integer]:
    """Whole numbers >= 0 in as few bytes as they need."""
    return x.astype(np.min_scalar_type(int(x.max(initial=0))))


def _evenly(x: npt.NDArray[np.integer]) -> dict[str, Any]:
    """How a trace is told of its x: by their distance where it is the same everywhere."""
    steps = np.unique(np.diff(x.astype(np.int64)))
    return {"x0": int(x[0]), "dx": int(steps[0])} if len(steps) == 1 else {"x": x}


def _packed(values: Array) -> npt.NDArray[np.float32]:
    """Numbers that the page holds in four bytes."""
    most = float(np.finfo(np.float32).max)
    return np.clip(values, -most, most).astype(np.float32)


def short(values: Array) -> list[float]:
    """Four significant digits: all that a screen shows, at a third of the page's weight."""
    return [float(f"{value:.4g}") for value in values]


def _last_task(results: Sequence[MethodRuns]) -> int:
    return max(int(result.tasks.max()) for result in results) + 1


def _set_task_axis(figure: go.Figure, results: Sequence[MethodRuns], first: int) -> None:
    last = _last_task(results)
    pad = max(0.02 * (last - first), 0.2)
    figure.update_xaxes(range=[first - pad, last + pad], title_standoff=6)
    if last <= 10:
        figure.update_xaxes(dtick=1)
    if first == 0:
        drawn = f"; one in {stride} is drawn" if (stride := _stride(results)) > 1 else ""
        figure.update_xaxes(title_text=f"tasks trained on (0: untrained{drawn})")


def set_share_axis(figure: go.Figure, scale: Scale, percent: bool = False) -> None:
    """A linear axis with room for the markers at both ends."""
    air = 0.03 * (scale.top - scale.bottom)
    digits = f".{max(scale.digits - 2, 0)}%" if percent else f".{scale.digits}f"
    figure.update_yaxes(range=[scale.bottom - air, scale.top + air], tickvals=scale.ticks, tickformat=digits)


def set_log_axis(figure: go.Figure, low: float, high: float) -> None:
    """A log axis over at least a decade, labelled at powers of ten or, if these are few, at 1, 2 and 5.

    Plotly's own labels would print exponents and the digits between decades too small to read on a phone.
    """
    bottom, top = math.log10(low), math.log10(high)
    room = max(0.1 * (top - bottom), (1 - (top - bottom)) / 2)
    bottom, top = bottom - room, top + room
    step, digits = math.ceil((top - bottom) / 7), (1, 2, 5) if top - bottom < 2 else (1,)
    powers = range(step * math.floor(bottom / step), math.ceil(top) + 1, step)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    figure.update_yaxes(
        type="log", range=[bottom, top], tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
    )


def reference(figure: go.Figure, y: float, words: str, side: str) -> None:
    """A thin dotted line across, named above or below its right end, wherever curves are less likely."""
    figure.add_hline(y=y, line={"color": _LIGHT["muted"], "width": 1.5, "dash": "2px,3px"})
    figure.add_annotation(
        text=words,
        font={"size": 12, "color": _LIGHT["muted"]},
        showarrow=False,
        x=1,
        xref="paper",
        xanchor="right",
        # plotly places shapes on a log axis by the value, annotations by its exponent
        y=math.log10(y) if figure.layout.yaxis.type == "log" else y,
        yanchor="bottom" if side == "above" else "top",
    )


def _mark_switches(figure: go.Figure, results: Sequence[MethodRuns]) -> None:
    """A vertical line between the last task of the old method and the first of the new one."""
    last = _last_task(results)
    found: dict[tuple[int, str], list[MethodRuns]] = {}
    for result in results:
        for switch in result.switches:
            found.setdefault((switch.task, f"{switch.old} → {switch.new}"), []).append(result)
    for (task, words), switching in found.items():
        color = switching[0].style.light if len(switching) == 1 else _LIGHT["muted"]
        figure.add_vline(
            x=task + 0.5,
            line={"color": color, "width": 1.5, "dash": "6px,4px"},
            annotation={
                "text": html.escape(words, quote=False),
                "font": {"size": 12, "color": color},
                "y": 1,
                "yanchor": "bottom",
                "xanchor": "center"
                if 0.15 < task / last < 0.85
                else "left"
                if task / last < 0.5
                else "right",
            },
        )
