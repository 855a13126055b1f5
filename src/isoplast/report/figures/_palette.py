"""One look for each curve: a colour for light and dark pages, a dash and a marker.

Nobody has to tell two curves apart by colour alone: dashes repeat after six curves, markers after seven,
colours after eight, so that the triple first repeats at curve 169.
"""

from __future__ import annotations

from dataclasses import dataclass

# Close to Okabe-Ito and Tol, shifted until every colour has a contrast of 3:1 with its page and the first
# four stay 15 apart in CIELAB with deuteranopia, protanopia and tritanopia (the tests measure both).
_LIGHT = ("#D55E00", "#9C2F73", "#0072B2", "#009E73", "#8A6D00", "#3E9BC9", "#555555", "#D0608F")
_DARK = ("#FF8A3D", "#E58AC8", "#4A9BE8", "#7FE3A0", "#D9C23B", "#A9DCF5", "#B5B5B5", "#FFB3C0")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down")

# The page's own colours.
SHADES = {
    "light": {
        "ink": "#1B1F24",
        "muted": "#59636E",
        "grid": "#E3E6EA",
        "paper": "#FFFFFF",
        "page": "#F5F6F8",
        "alarm": "#B3261E",
        "focus": "#0B57D0",
    },
    "dark": {
        "ink": "#E8EAED",
        "muted": "#A3ADB8",
        "grid": "#30363D",
        "paper": "#15181C",
        "page": "#0D0F12",
        "alarm": "#FF9B92",
        "focus": "#8AB4F8",
    },
}


@dataclass(frozen=True)
class Style:
    """How one curve is drawn, everywhere on the page and in every exported figure."""

    light: str
    dark: str
    dash: str
    marker: str


def style(index: int) -> Style:
    """The look of the method at this position in the study."""
    return Style(
        light=_LIGHT[index % len(_LIGHT)],
        dark=_DARK[index % len(_DARK)],
        dash=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[index % len(_MARKERS)],
    )


def light_to_dark() -> dict[str, str]:
    """Every colour a figure may hold on a light page, with its counterpart on a dark one."""
    shades = zip(SHADES["light"].values(), SHADES["dark"].values(), strict=True)
    return dict(zip(_LIGHT, _DARK, strict=True)) | dict(shades)
