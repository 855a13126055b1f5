"""Interactive figures of a whole study: how its scores are distributed, and what a strength does to them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from isoplast.report.data._method_runs import Array, MethodRuns
from isoplast.report.figures._axes import share_scale
from isoplast.report.figures._charts import complete_scores, profile_levels, scale_of_lines, swept_lines
from isoplast.report.figures._palette import Style
from isoplast.report.figures._plotly import ALL, blank_figure, reference, set_share_axis, short
from isoplast.statistics import performance_profile

_LEVELS = 61


def profile_figure(results: Sequence[MethodRuns]) -> go.Figure:
    """Of each method the share of tasks and seeds whose score is better than each level."""
    figure = blank_figure("short")
    levels = profile_levels(results, _LEVELS)
    for index, result in enumerate(results):
        values = complete_scores(result)
        if len(values):
            found = performance_profile(values, levels, higher_is_better=result.sign > 0).value
            figure.add_trace(_line(result.label, result.style, levels, found, {"curve": index, "view": ALL}))
    side = "above" if results[0].sign > 0 else "below"
    figure.update_xaxes(title_text=f"{results[0].metric.label} {side}", title_standoff=6)
    set_share_axis(figure, share_scale(0.0, 1.0), percent=True)
    return figure


def sensitivity_figure(results: Sequence[MethodRuns]) -> go.Figure:
    """The mean score over tasks against the strength, a line for each learning rate, others as levels.

    Raises:
        IsoplastError: no method has a strength.
    """
    figure = blank_figure("short")
    lines, levels = swept_lines(results)
    for line in lines:
        figure.add_trace(_line(line.label, line.style, line.x, line.y, {"curve": -1, "view": ALL}))
    strengths = np.unique(np.concatenate([line.x for line in lines]))
    figure.update_xaxes(type="log", title_text="isometry strength λ", title_standoff=6)
    if len(strengths) <= 10:
        figure.update_xaxes(tickvals=strengths.tolist(), ticktext=[f"{value:g}" for value in strengths])
    set_share_axis(figure, scale_of_lines(results, lines, levels))
    for value, name in levels[:3]:
        reference(figure, value, html.escape(name, quote=False), "above")
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.3})
    return figure


def _line(label: str, style: Style, x: Array, y: Array, meta: dict[str, Any]) -> go.Scatter:
    return go.Scatter(
        x=short(x),
        y=short(y),
        name=html.escape(label, quote=False),
        mode="lines" if len(x) > 13 else "lines+markers",
        line={"color": style.light, "dash": style.dash, "width": 2.5},
        marker={"symbol": style.marker, "size": 7, "color": style.light},
        hovertemplate="%{y:.3f}",
        meta=meta,
    )
