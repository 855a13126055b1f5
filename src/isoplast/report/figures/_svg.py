"""A static line chart as SVG text, for documents: made without a browser, light and dark, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from isoplast.report.data._method_runs import Array
from isoplast.report.figures import _strokes as strokes
from isoplast.report.figures._axes import Scale
from isoplast.report.figures._palette import SHADES, Style

_WIDTH, _PLOT_HEIGHT = 760, 330
_LEFT, _RIGHT, _TOP = 62, 22, 62
_FONT = 14
# Average advance of a sans-serif glyph in em, for wrapping the legend: errs on the wide side.
_GLYPH = 0.56
_POINTS_WITH_MARKER = 13


@dataclass(frozen=True)
class Line:
    """One curve: a name, points in order of x, and the edges of its band (equal to y for none)."""

    label: str
    style: Style
    x: Array
    y: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Axes:
    """The frame around the curves. `references` are named horizontal lines, `marks` named vertical ones."""

    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    references: tuple[tuple[float, str], ...] = ()
    marks: tuple[tuple[float, str], ...] = ()


def line_chart(lines: Sequence[Line], axes: Axes, y: Scale) -> str:
    """The chart as a complete SVG document that follows the reader's light or dark theme.

    Args:
        lines: the curves.
        axes: what stands beside them.
        y: the vertical axis; reference lines outside it are left out.

    Example:
        >>> axes = Axes("Accuracy after each task", "task", "accuracy")
        >>> path.write_text(line_chart(lines, axes, share_scale(0.1, 0.9)))
    """
    plot = _Plot(lines, axes, y)
    legend, height = _legend(lines, _TOP + _PLOT_HEIGHT + 66)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="{_FONT}">',
        f"<title>{escape(axes.title)}</title>",
        f"<style>{_css(lines)}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}" rx="8"/>',
        f'<text class="ink" x="{_LEFT}" y="28" font-size="17" font-weight="600">{escape(axes.title)}</text>',
        *plot.frame(),
        *plot.curves(),
        *legend,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Plot:
    """Data coordinates to pixels, and what is drawn in them."""

    def __init__(self, lines: Sequence[Line], axes: Axes, vertical: Scale) -> None:
        self.lines, self.axes, self.vertical = lines, axes, vertical
        every = np.concatenate([line.x for line in lines])
        self.low, self.high = self._scale(float(every.min())), self._scale(float(every.max()))
        if self.low == self.high:
            self.low, self.high = self.low - 0.5, self.high + 0.5

    def _scale(self, value: float) -> float:
        return math.log10(value) if self.axes.log_x else value

    def x(self, value: float) -> str:
        # 12 px of air, so that a marker on the first point does not sit on the axis
        share = (self._scale(value) - self.low) / (self.high - self.low)
        return f"{_LEFT + 12 + share * (_WIDTH - _LEFT - _RIGHT - 24):.1f}"

    def y(self, value: float) -> str:
        bottom, top = self.vertical.bottom, self.vertical.top
        share = (min(max(value, bottom), top) - bottom) / (top - bottom)
        return f"{_TOP + (1 - share) * _PLOT_HEIGHT:.1f}"

    def frame(self) -> list[str]:
        """Grid, tick labels, axis names, reference lines and marks."""
        right, foot = _WIDTH - _RIGHT, _TOP + _PLOT_HEIGHT
        parts = []
        for tick in self.vertical.ticks:
            parts.append(f'<path class="grid" d="M{_LEFT} {self.y(tick)}H{right}"/>')
            parts.append(_text(_LEFT - 8, float(self.y(tick)) + 5, f"{tick:.{self.vertical.digits}f}", "end"))
        parts += [_text(self.x(tick), foot + 20, f"{tick:g}", "middle") for tick in self._ticks()]
        parts.append(_text(_LEFT, _TOP - 14, self.axes.y_label, "start"))
        parts.append(_text((_LEFT + right) / 2, foot + 42, self.axes.x_label, "middle"))
        inside = [one for one in self.axes.references if self.vertical.holds(one[0])]
        for rank, (value, words) in enumerate(sorted(inside)):
            # the lowest, which is chance, is named below its line: curves lie above it
            shift = 16 if rank == 0 and foot - float(self.y(value)) > 20 else -5
            parts.append(f'<path class="reference" d="M{_LEFT} {self.y(value)}H{right}"/>')
            parts.append(_text(right - 4, float(self.y(value)) + shift, words, "end"))
        for value, words in self.axes.marks:
            parts.append(f'<path class="mark" d="M{self.x(value)} {_TOP}V{foot}"/>')
            parts.append(_text(self.x(value), _TOP - 6, words, "middle"))
        return parts

    def _ticks(self) -> list[float]:
        if self.axes.log_x:
            return sorted({float(value) for line in self.lines for value in line.x})
        first, last = math.ceil(self.low), math.floor(self.high)
        step = next(
            step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if (last - first) / step <= 12
        )
        return list(range(step * math.ceil(first / step), last + 1, step))

    def curves(self) -> list[str]:
        """Bands first, so that no band covers a line."""
        bands = [self._band(i, line) for i, line in enumerate(self.lines) if (line.low < line.high).any()]
        return bands + [part for i, line in enumerate(self.lines) for part in self._line(i, line)]

    def _band(self, index: int, line: Line) -> str:
        edge = [*zip(line.x, line.high, strict=True), *zip(line.x[::-1], line.low[::-1], strict=True)]
        return f'<path class="band fill{index}" d="M{self._path(edge)}Z"/>'

    def _line(self, index: int, line: Line) -> list[str]:
        points = list(zip(line.x, line.y, strict=True))
        every = math.ceil(len(points) / _POINTS_WITH_MARKER)
        markers = [strokes.marker(index, line.style, self.x(x), self.y(y)) for x, y in points[::every]]
        return [strokes.line(index, line.style, f"M{self._path(points)}"), *markers]

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return "L".join(f"{self.x(x)} {self.y(y)}" for x, y in points)


def _legend(lines: Sequence[Line], top: float) -> tuple[list[str], int]:
    """The legend in as many rows as it needs, and the height of the drawing."""
    parts: list[str] = []
    x, y = float(_LEFT), top
    for index, line in enumerate(lines):
        width = 46 + len(line.label) * _FONT * _GLYPH + 20
        if x + width > _WIDTH and x > _LEFT:
            x, y = float(_LEFT), y + 24
        parts.append(strokes.line(index, line.style, f"M{x:.0f} {y - 5}h36"))
        parts.append(strokes.marker(index, line.style, f"{x + 18:.0f}", f"{y - 5}"))
        parts.append(f'<text class="ink" x="{x + 44:.0f}" y="{y}">{escape(line.label)}</text>')
        x += width
    return parts, int(y + 22)


def _text(x: float | str, y: float, words: str, anchor: str) -> str:
    return f'<text class="muted" x="{x}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _css(lines: Sequence[Line]) -> str:
    def theme(name: str) -> str:
        shade = SHADES[name]
        return (
            f".paper{{fill:{shade['paper']}}}.ink{{fill:{shade['ink']}}}.muted{{fill:{shade['muted']}}}"
            f".grid{{stroke:{shade['grid']}}}.reference,.mark{{stroke:{shade['muted']}}}"
            + strokes.classes([line.style for line in lines], name)
        )

    fixed = (
        ".line{fill:none;stroke-width:2.5;stroke-linejoin:round}.band{opacity:.15}"
        ".reference{stroke-width:1.5;stroke-dasharray:2 3}.mark{stroke-width:1.5;stroke-dasharray:6 4}"
    )
    return f"{fixed}{theme('light')}@media(prefers-color-scheme:dark){{{theme('dark')}}}"
