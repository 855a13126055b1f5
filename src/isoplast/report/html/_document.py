"""What every page is made of: one HTML file that opens offline and follows the reader's theme."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

from plotly.offline import get_plotlyjs

from isoplast.report.figures import _strokes as strokes
from isoplast.report.figures._palette import SHADES, Style, light_to_dark
from isoplast.report.figures._plotly import ALL
from isoplast.report.html._markup import Content, Markup, html, tag

# The policy forbids every request, whatever the inlined scripts might try; blob: is for saving a figure.
_DOCUMENT = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$css</style>
</head>
<body>
$body
$data
<script>$plotly</script>
<script>$script</script>
</body>
</html>
""")


def document(title: str, body: Sequence[Markup], plots: Mapping[str, str], looks: Sequence[Style]) -> str:
    """The page as HTML text.

    Args:
        title: of the page.
        body: its elements in order.
        plots: figures of plotly as JSON, by the names that `plot` was given.
        looks: of the curves: number i is drawn with class `stroke<i>` in legends.
    """
    data = {**plots, "colors": json.dumps(light_to_dark())}
    return _DOCUMENT.substitute(
        title=html(title),
        css=_colors(looks) + _asset("page.css"),
        body="\n".join(part.text for part in body),
        data="\n".join(_json(name, text) for name, text in data.items()),
        plotly=get_plotlyjs(),
        script=_asset("page.js"),
    )


def section(name: str, title: str, content: Sequence[Content]) -> Markup:
    """A titled part of the page."""
    return tag("section", [tag("h2", title, id=name), *content], aria_labelledby=name)


def plot(name: str, size: str, summary: str) -> Markup:
    """The place of a figure, with what it shows in words for readers who do not see it."""
    return tag("div", class_=f"plot {size}", role="img", aria_label=summary, data_figure=f"figure-{name}")


def legend(curves: Sequence[tuple[int, str, Style]], *more: Markup, what: str = "Arms shown") -> Markup:
    """One button per curve that shows or hides it in every figure: the legend, and usable by keyboard."""
    buttons = [
        tag(
            "button",
            [Markup(strokes.swatch(index, look)), tag("span", label)],
            type="button",
            class_="arm",
            aria_pressed="true",
            data_arm=str(index),
        )
        for index, label, look in curves
    ]
    return tag("div", [*buttons, *more], class_="bar", role="group", aria_label=what)


def picker(name: str, every: str | None, layers: Sequence[str]) -> Markup:
    """A choice of the layer that the figures of a section show; `every` names the view of all together."""
    options = [] if every is None else [tag("option", every, value=ALL)]
    options += [tag("option", layer, value=layer) for layer in layers]
    return tag("label", [name, tag("select", options)], class_="pick")


def _json(name: str, text: str) -> str:
    # "<" cannot end the script element when it is written as an escape
    safe = text.replace("<", "\\u003c")
    identity = name if name == "colors" else f"figure-{name}"
    return f'<script type="application/json" id="{identity}">{safe}</script>'


def _asset(name: str) -> str:
    return files("isoplast.report.html").joinpath(name).read_text(encoding="utf-8")


def _colors(looks: Sequence[Style]) -> str:
    """The page's colours as custom properties, and the curves' as classes, for both themes."""

    def theme(name: str) -> str:
        properties = "".join(f"--{key}:{color};" for key, color in SHADES[name].items())
        return f":root{{{properties}}}{strokes.classes(looks, name)}"

    return f"{theme('light')}@media(prefers-color-scheme:dark){{{theme('dark')}}}\n"
