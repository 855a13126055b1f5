"""Lines and markers of the curves as pieces of SVG; their colours are classes that the page defines."""

from __future__ import annotations

from collections.abc import Sequence

from isoplast.report.figures._palette import Style

# Plotly knows the same names; the shapes are drawn around the origin.
_DASHES = {
    "solid": "none",
    "dash": "9 5",
    "dot": "2 4",
    "dashdot": "9 4 2 4",
    "longdash": "15 5",
    "longdashdot": "15 5 2 5",
}
_MARKERS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "square": "M-3.6-3.6h7.2v7.2h-7.2Z",
    "diamond": "M0-5L5 0L0 5L-5 0Z",
    "triangle-up": "M0-5L4.8 3.6H-4.8Z",
    "triangle-down": "M0 5L4.8-3.6H-4.8Z",
    "x": "M-4-2.6L-2.6-4L0-1.4L2.6-4L4-2.6L1.4 0L4 2.6L2.6 4L0 1.4L-2.6 4L-4 2.6L-1.4 0Z",
    "cross": "M-1.2-4.6h2.4v3.4h3.4v2.4h-3.4v3.4h-2.4v-3.4h-3.4v-2.4h3.4Z",
}


def line(index: int, look: Style, path: str) -> str:
    """The stroke of curve number `index` along an SVG path."""
    return f'<path class="line stroke{index}" stroke-dasharray="{_DASHES[look.dash]}" d="{path}"/>'


def marker(index: int, look: Style, x: str, y: str) -> str:
    """The marker of curve number `index` at a point."""
    return f'<path class="fill{index}" transform="translate({x} {y})" d="{_MARKERS[look.marker]}"/>'


def swatch(index: int, look: Style) -> str:
    """A small sample of a curve, for a legend in HTML."""
    sample = line(index, look, "M1 0H37") + marker(index, look, "19", "0")
    return f'<svg width="38" height="14" viewBox="0 -7 38 14" aria-hidden="true">{sample}</svg>'


def classes(looks: Sequence[Style], theme: str) -> str:
    """CSS: the colours of the curves on a light or dark page."""
    colors = [look.light if theme == "light" else look.dark for look in looks]
    return "".join(f".stroke{i}{{stroke:{color}}}.fill{i}{{fill:{color}}}" for i, color in enumerate(colors))
