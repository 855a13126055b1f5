"""Small pieces of HTML. Whatever comes from a user, a file or the data is escaped here, and only here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Markup:
    """Text that is HTML already."""

    text: str


Content = str | Markup
NONE = "–"
"""What a table says where there is nothing to say."""


def html(content: Content) -> str:
    """Markup as it is, anything else escaped."""
    return content.text if isinstance(content, Markup) else escape(content)


def tag(name: str, content: Content | Iterable[Content] = "", **attributes: str) -> Markup:
    """One element; `class_` and `aria_label` stand for the attributes class and aria-label.

    Example:
        >>> tag("p", "a < b", class_="note").text
        '<p class="note">a &lt; b</p>'
    """
    parts = [content] if isinstance(content, str | Markup) else content
    inner = "".join(html(part) for part in parts)
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"' for key, text in attributes.items()
    )
    return Markup(f"<{name}{said}>{inner}</{name}>")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Content]]) -> Markup:
    """A table that turns into one card per row on a phone: each cell repeats the name of its column.

    The roles say what the elements are anyway, because browsers forget it once CSS changes their display.
    """
    columns = [tag("th", name, scope="col", role="columnheader") for name in head]
    body = []
    for first, *rest in rows:
        cells = [tag("th", first, scope="row", role="rowheader")]
        for name, cell in zip(head[1:], rest, strict=True):
            cells.append(
                tag("td", cell, role="cell", data_label=name, class_="none" if cell == NONE else "some")
            )
        body.append(tag("tr", cells, role="row"))
    parts = [
        tag("caption", caption),
        tag("thead", tag("tr", columns, role="row"), role="rowgroup"),
        tag("tbody", body, role="rowgroup"),
    ]
    return tag("table", parts, role="table", class_="cards")


def pairs(title: str, rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and values under a heading, in as many columns as the page is wide."""
    items = [tag("div", [tag("dt", name), tag("dd", value)]) for name, value in rows]
    return tag("div", [tag("h3", title), tag("dl", items)], class_="pairs")
