"""Arms can be told apart by people who see colours differently, on light and dark pages."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from isoplast.report.figures._palette import SHADES, light_to_dark, style

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "all cones": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(color: str) -> np.ndarray:
    value = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    dark, light = sorted(TO_XYZ[1] @ linear(color) for color in (one, other))
    return float((light + 0.05) / (dark + 0.05))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_stands_out_from_its_page(theme: str) -> None:
    # WCAG 2.1: 3:1 for lines, 4.5:1 for text
    paper = SHADES[theme]["paper"]
    assert all(contrast(getattr(style(index), theme), paper) >= 3 for index in range(8))
    assert all(contrast(SHADES[theme][text], paper) >= 4.5 for text in ("ink", "muted", "alarm"))
    assert all(
        contrast(SHADES[theme][text], SHADES[theme]["page"]) >= 4.5 for text in ("ink", "muted", "alarm")
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", list(VISION))
def test_the_first_four_colours_differ_for_everybody(theme: str, vision: str) -> None:
    # 2.3 in CIELAB is just noticeable side by side; 15 is a difference seen on thin lines far apart
    seen = [lab(np.array(VISION[vision]) @ linear(getattr(style(index), theme))) for index in range(4)]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) >= 15


def test_two_methods_never_share_colour_dash_and_marker() -> None:
    looks = [style(index) for index in range(168)]
    assert len(set(looks)) == 168


def test_swapping_themes_is_unambiguous() -> None:
    swap = light_to_dark()
    assert len(set(swap)) == 8 + len(SHADES["light"])
    assert all(light == light.upper() for light in swap)  # the page looks colours up in upper case
