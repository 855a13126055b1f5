"""Pages from templates: one HTML file each, which opens offline and follows the reader's theme.

Templates escape whatever they are given but `Markup`, which is our own drawings, styles and scripts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from isoplast.report.figures import _strokes as strokes
from isoplast.report.figures._palette import SHADES, Style, light_to_dark

NONE = "–"
"""What a table says where there is nothing to say."""


class Alarming(str):
    """A cell of a table that needs attention."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """A table: its caption, the names of its columns, and rows of as many cells."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Plot:
    """The place of a figure.

    Args:
        name: of the figure's data.
        size: "tall" or "short".
        summary: what it shows in words, for readers who do not see it.
        title: above it, where several stand side by side.
    """

    name: str
    size: str
    summary: str
    title: str = ""


@dataclass(frozen=True)
class Curve:
    """An entry of a legend: the number, label and look of the curves that it shows and hides.

    `shown` says with which of both the page begins.
    """

    index: int
    label: str
    look: Style
    shown: bool = True

    @property
    def swatch(self) -> Markup:
        """A small sample of the curve."""
        return Markup(strokes.swatch(self.index, self.look))


@dataclass(frozen=True)
class Section:
    """A part of a page with figures.

    Args:
        name: of its heading.
        title: its heading.
        words: what the figures show.
        figures: their places.
        curves: the entries of its legend.
        layers: of which the figures can show each; none where they show one thing only.
        picked: what is picked, "Layer".
        every: what all layers together are called; "" where there is no such view.
        by_method: whether its curves are those of the legend.
    """

    name: str
    title: str
    words: str
    figures: Sequence[Plot]
    curves: Sequence[Curve] = ()
    layers: Sequence[str] = ()
    picked: str = ""
    every: str = ""
    by_method: bool = True


def render(template: str, figures: Mapping[str, str], looks: Iterable[Style], **values: Any) -> str:
    """A page as HTML text.

    Args:
        template: its file.
        figures: of plotly as JSON, by name.
        looks: of the curves: number i is drawn with class `stroke<i>` in legends.
        values: what the template asks for; `title` and `headline` among them.
    """
    data = {f"figure-{name}": text for name, text in figures.items()}
    return (
        _environment()
        .get_template(template)
        .render(
            css=Markup(_colors(list(looks)) + _asset("page.css")),
            data={**data, "colors": json.dumps(light_to_dark())},
            plotly=Markup(get_plotlyjs()),
            script=Markup(_asset("page.js")),
            none_said=NONE,
            **values,
        )
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("isoplast.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["json_text"] = _json_text
    environment.tests["alarming"] = lambda cell: isinstance(cell, Alarming)
    return environment


def _json_text(text: str) -> Markup:
    """JSON inside a script element: "<" cannot end the element when it is written as an escape."""
    return Markup(text.replace("<", "\\u003c"))


def _asset(name: str) -> str:
    return files("isoplast.report.html").joinpath(name).read_text(encoding="utf-8")


def _colors(looks: Sequence[Style]) -> str:
    """The page's colours as custom properties, and the curves' as classes, for both themes."""

    def theme(name: str) -> str:
        properties = "".join(f"--{key}:{color};" for key, color in SHADES[name].items())
        return f":root{{{properties}}}{strokes.classes(looks, name)}"

    return f"{theme('light')}@media(prefers-color-scheme:dark){{{theme('dark')}}}\n"
