"""Plotly figures of one network: its spectra, its units, and both over time.

As in `figures`, every trace says in its `meta` which curve it is and which view it belongs to.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from isoplast.diagnostics import Activity, Moment, WeightSpectra
from isoplast.report.data._method_runs import SMALLEST_DRAWN
from isoplast.report.figures._axes import share_scale
from isoplast.report.figures._palette import style
from isoplast.report.figures._plotly import (
    ALL,
    blank_figure,
    reference,
    set_log_axis,
    set_share_axis,
    short,
)

LARGEST, MEAN, SMALLEST, DEAD, DORMANT, ALWAYS_ON = range(6)
CURVES = ("largest", "mean", "smallest", "dead", "dormant", "always on")
_NAMED = 8  # so many names of layers fit under a figure on a phone
_POINTS = 160  # of a spectrum: as many as a figure has places for


def layers_figure(spectra: WeightSpectra) -> go.Figure:
    """Largest, mean and smallest singular value of every layer."""
    figure = blank_figure("tall")
    names = list(spectra)
    for curve, values in (
        (LARGEST, [one.largest for one in spectra.values()]),
        (MEAN, [one.mean for one in spectra.values()]),
        (SMALLEST, [one.smallest for one in spectra.values()]),
    ):
        _add(figure, curve, ALL, range(len(names)), values, names)
    _set_log(figure)
    _set_names(figure, names, "layers, from input to output")
    reference(figure, 1.0, "isometry", "above")
    return figure


def spectrum_figure(spectra: WeightSpectra) -> go.Figure:
    """All singular values of a layer, the largest first; a view per layer."""
    figure = blank_figure("tall")
    for place, (name, one) in enumerate(spectra.items()):
        values = one.singular_values.double().numpy()
        chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().astype(int))
        _add(figure, LARGEST, name, (chosen + 1).tolist(), values[chosen].tolist(), None, visible=place == 0)
    _set_log(figure)
    figure.update_xaxes(title_text="singular value number")
    reference(figure, 1.0, "isometry", "above")
    return figure


def units_figure(activity: Activity) -> go.Figure:
    """The shares of dead, dormant and always-on units of every layer."""
    figure = blank_figure("short")
    names = list(activity)
    for curve, values in (
        (DEAD, [one.dead for one in activity.values()]),
        (DORMANT, [one.dormant for one in activity.values()]),
        (ALWAYS_ON, [one.linearised for one in activity.values()]),
    ):
        _add(figure, curve, ALL, range(len(names)), values, names, ".1%")
    _set_share(figure)
    _set_names(figure, names, "layers, from input to output")
    return figure


def history_figure(moments: Sequence[Moment]) -> go.Figure:
    """The largest and the smallest singular value over time; a view per layer."""
    figure = blank_figure("short")
    for curve, of in (
        (LARGEST, [moment.largest for moment in moments]),
        (SMALLEST, [moment.smallest for moment in moments]),
    ):
        worst = max if curve == LARGEST else min
        _add_history(figure, curve, moments, of, worst, ".3~g")
    _set_log(figure)
    _set_names(figure, [moment.name for moment in moments], _span(moments))
    reference(figure, 1.0, "isometry", "above")
    return figure


def dead_figure(moments: Sequence[Moment]) -> go.Figure:
    """The share of dead units over time, of the layer with most: one closed layer closes the network."""
    figure = blank_figure("short")
    shares = [max(moment.dead.values()) if moment.dead else math.nan for moment in moments]
    _add(figure, DEAD, ALL, range(len(moments)), shares, [moment.name for moment in moments], ".1%")
    _set_share(figure)
    _set_names(figure, [moment.name for moment in moments], _span(moments))
    return figure


def _span(moments: Sequence[Moment]) -> str:
    return html.escape(f"from {moments[0].name} to {moments[-1].name}", quote=False)


def _add_history(
    figure: go.Figure,
    curve: int,
    moments: Sequence[Moment],
    of: Sequence[Mapping[str, float]],
    worst: object,
    digits: str,
) -> None:
    names = [moment.name for moment in moments]
    together = [worst(values.values()) for values in of]  # type: ignore[operator]
    _add(figure, curve, ALL, range(len(names)), together, names, digits)
    for layer in of[-1]:
        alone = [values.get(layer, math.nan) for values in of]
        _add(figure, curve, layer, range(len(names)), alone, names, digits)


def _add(
    figure: go.Figure,
    curve: int,
    view: str,
    x: Iterable[int],
    y: Sequence[float],
    names: Sequence[str] | None,
    digits: str = ".3~g",
    visible: bool | None = None,
) -> None:
    look = style(curve)
    floor = SMALLEST_DRAWN if digits == ".3~g" else 0.0
    values = short(np.maximum(np.asarray(y, dtype=np.float64), floor))
    figure.add_scatter(
        x=list(x),
        y=[value if math.isfinite(value) else None for value in values],
        meta={"curve": curve, "view": view},
        visible=view == ALL if visible is None else visible,
        name=CURVES[curve],
        text=None if names is None else [html.escape(name, quote=False) for name in names],
        mode="lines+markers",
        line={"color": look.light, "dash": look.dash, "width": 2.5},
        marker={"symbol": look.marker, "size": 7, "maxdisplayed": 24, "color": look.light},
        hovertemplate=f"%{{y:{digits}}}" + ("" if names is None else " (%{text})"),
    )


def _set_log(figure: go.Figure) -> None:
    drawn = [value for trace in figure.data for value in trace.y if value is not None]
    set_log_axis(figure, min([*drawn, 1.0]), max([*drawn, 1.0]))


def _set_share(figure: go.Figure) -> None:
    drawn = [value for trace in figure.data for value in trace.y if value is not None]
    set_share_axis(figure, share_scale(0.0, max(drawn, default=0.0)), percent=True)


def _set_names(figure: go.Figure, names: Sequence[str], title: str) -> None:
    """Names under the axis where they fit; else numbers, and the names where the pointer is."""
    pad = max(0.03 * (len(names) - 1), 0.25)
    few = len(names) <= _NAMED and max(map(len, names)) <= 16
    step = max(1, math.ceil(len(names) / _NAMED))
    places = list(range(0, len(names), step))
    figure.update_xaxes(
        range=[-pad, len(names) - 1 + pad],
        tickvals=places,
        ticktext=[html.escape(names[i], quote=False) if few else str(i + 1) for i in places],
        title_text=title,
    )
