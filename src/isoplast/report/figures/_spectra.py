"""One histogram of singular values per method, before and after training, as one static SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from isoplast.report.data._method_runs import Array
from isoplast.report.figures._palette import SHADES, style

if TYPE_CHECKING:
    from isoplast.report.pages._spectra import Reading

_COLUMNS = 5
_WIDTH, _HEIGHT = 176, 118  # of a panel
_PLOT_LEFT, _PLOT_TOP, _PLOT_WIDTH, _PLOT_HEIGHT = 10, 26, 156, 62
_TOP = 44
# log10 of the singular values shown; what lies beyond is counted in the outermost bars.
_LOW, _HIGH, _BARS = -3.0, 2.0, 50
_CLAIMS = ("all", "mean square", "largest", "activations", "none")


def histograms(found: Sequence[Reading]) -> str:
    """The histograms of all readings, in their order, the colour of a panel that of its claim.

    Args:
        found: readings whose `before` and `after` hold at least one singular value.

    Returns:
        A complete SVG document that follows the reader's light or dark theme.
    """
    rows = -(-len(found) // _COLUMNS)
    width, height = _COLUMNS * _WIDTH + 8, _TOP + rows * _HEIGHT + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="11">',
        "<title>Singular values of all weight matrices, before and after training</title>",
        f"<style>{_css()}</style>",
        f'<rect class="paper" width="{width}" height="{height}" rx="8"/>',
        *_legend(),
    ]
    for place, reading in enumerate(found):
        x, y = 4 + place % _COLUMNS * _WIDTH, _TOP + place // _COLUMNS * _HEIGHT
        parts.append(f'<g transform="translate({x} {y})">{_panel(reading)}</g>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(reading: Reading) -> str:
    foot = _PLOT_TOP + _PLOT_HEIGHT
    one = _x(0.0)
    ticks = "".join(
        f'<text class="muted" x="{_x(power):.1f}" y="{foot + 14}" text-anchor="middle">{10.0**power:g}</text>'
        for power in range(int(_LOW) + 1, int(_HIGH))
    )
    return (
        f'<text class="ink" x="{_PLOT_LEFT}" y="16" font-weight="600">{escape(reading.title)}</text>'
        f'<path class="fill{_CLAIMS.index(reading.claim)}" d="{_outline(reading.after)}Z"/>'
        f'<path class="before" d="{_outline(reading.before)}"/>'
        f'<path class="axis" d="M{_PLOT_LEFT} {foot}h{_PLOT_WIDTH}"/>'
        f'<path class="one" d="M{one:.1f} {_PLOT_TOP}V{foot}"/>{ticks}'
    )


def _outline(values: Array) -> str:
    """The histogram as a path from the left end of the axis to the right; its top is the fullest bar.

    Heights are square roots of the counts, so that a few outliers beside a spike stay visible.
    """
    floor = 10.0**_LOW
    logs = np.log10(np.clip(values[np.isfinite(values)], floor, 10.0**_HIGH))
    counts, edges = np.histogram(logs, bins=_BARS, range=(_LOW, _HIGH))
    heights = np.sqrt(counts / max(1, counts.max())) * _PLOT_HEIGHT
    foot = _PLOT_TOP + _PLOT_HEIGHT
    steps = "".join(
        f"V{foot - height:.1f}H{_x(edge):.1f}" for height, edge in zip(heights, edges[1:], strict=True)
    )
    return f"M{_x(_LOW):.1f} {foot}{steps}V{foot}"


def _x(power: float) -> float:
    return _PLOT_LEFT + (power - _LOW) / (_HIGH - _LOW) * _PLOT_WIDTH


def _legend() -> list[str]:
    parts = ['<text class="ink" x="14" y="26" font-weight="600">Said to hold:</text>']
    x = 100.0
    for index, claim in enumerate(_CLAIMS):
        words = {"none": "nothing", "activations": "activations only"}.get(claim, claim)
        parts.append(f'<rect class="fill{index}" x="{x:.0f}" y="16" width="12" height="12"/>')
        parts.append(f'<text class="ink" x="{x + 17:.0f}" y="26">{words}</text>')
        x += 44 + 6.1 * len(words)
    parts.append(f'<path class="before" d="M{x:.0f} 22h18"/>')
    parts.append(f'<text class="ink" x="{x + 23:.0f}" y="26">before training</text>')
    return parts


def _css() -> str:
    looks = [style(index) for index in (3, 2, 4, 1, 6)]

    def theme(name: str) -> str:
        shade = SHADES[name]
        fills = "".join(
            f".fill{index}{{fill:{look.light if name == 'light' else look.dark}}}"
            for index, look in enumerate(looks)
        )
        return (
            f".paper{{fill:{shade['paper']}}}.ink{{fill:{shade['ink']}}}.muted{{fill:{shade['muted']}}}"
            f".axis{{stroke:{shade['muted']}}}.one,.before{{stroke:{shade['ink']}}}{fills}"
        )

    fixed = ".before{fill:none;stroke-width:1}.one{stroke-width:1;stroke-dasharray:2 3}.axis{stroke-width:1}"
    return f"{fixed}{theme('light')}@media(prefers-color-scheme:dark){{{theme('dark')}}}"
