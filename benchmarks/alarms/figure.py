"""ROC curves as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SIDE, _GAP, _TOP = 220, 70, 40
_LOOKS = (("#0072b2", ""), ("#d55e00", "6 3"), ("#009e73", "2 3"), ("#e69f00", "9 3 2 3"), ("#56b4e9", "1 2"))
Curve = Sequence[tuple[float, float]]


def curves(panels: Mapping[str, Mapping[str, Curve]]) -> str:
    """One panel for each kind that has curves: false alarms to the right, hits upwards."""
    drawn = {kind: numbers for kind, numbers in panels.items() if numbers}
    width = _GAP + len(drawn) * (_SIDE + _GAP)
    names = list(next(iter(drawn.values()), {}))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_SIDE + _TOP + 90}" '
        'font-family="sans-serif" font-size="12" role="img" aria-label="ROC curves by kind of network">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for place, (kind, numbers) in enumerate(drawn.items()):
        parts += _panel(_GAP + place * (_SIDE + _GAP), kind, numbers)
    for place, name in enumerate(names):
        color, dash = _LOOKS[place]
        x, y = 20 + place * 165, _SIDE + _TOP + 70
        parts.append(_line([(x, y), (x + 30, y)], color, dash))
        parts.append(f'<text x="{x + 36}" y="{y + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(left: float, title: str, numbers: Mapping[str, Curve]) -> list[str]:
    parts = [
        f'<text x="{left + _SIDE / 2}" y="{_TOP - 14}" text-anchor="middle">{title}</text>',
        f'<rect x="{left}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>',
        f'<text x="{left + _SIDE / 2}" y="{_TOP + _SIDE + 36}" text-anchor="middle">false alarms</text>',
        f'<text x="{left - 40}" y="{_TOP + _SIDE / 2}" text-anchor="middle" '
        f'transform="rotate(-90 {left - 40} {_TOP + _SIDE / 2})">hits</text>',
    ]
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * _SIDE, _TOP + (1 - tick) * _SIDE
        parts.append(f'<text x="{x}" y="{_TOP + _SIDE + 18}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    for (color, dash), curve in zip(_LOOKS, numbers.values(), strict=False):
        parts.append(_line([(left + x * _SIDE, _TOP + (1 - y) * _SIDE) for x, y in curve], color, dash))
    return parts


def _line(points: Curve, color: str, dash: str) -> str:
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    look = f'stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"'
    return f'<polyline points="{steps}" fill="none" {look}/>'
