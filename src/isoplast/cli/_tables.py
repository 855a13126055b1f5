"""Tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table


def plain_table(title: str | None = None) -> Table:
    """A table with a line below its head alone, as wide as the terminal."""
    return Table(
        title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, expand=True, pad_edge=False
    )
