"""`isoplast methods`: what there is, where it comes from, what it controls, what it costs."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import get_args

from isoplast import methods
from isoplast.cli.methods._formulas import readable
from isoplast.methods import Family, Method

_WIDTH = 79
_HEADING = re.compile(r"[A-Z]\w+:")
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_ITEM = re.compile(r" {4}\w+: ")


def listing() -> str:
    """All methods by family: name, title, source, what it controls, cost and defaults."""
    kinds = [methods.get(name) for name in methods.names()]
    parts = []
    for family in get_args(Family):
        own = [_entry(method) for method in kinds if method.info.family == family]
        if own:
            parts.append("\n\n".join([family.upper(), *own]))
    ending = textwrap.fill(
        "Combine with +, as in `isoplast run --method adamo+layernorm`. "
        "`isoplast methods NAME` explains one and its settings.",
        _WIDTH,
    )
    return "\n\n".join([*parts, ending])


def details(name: str) -> str:
    """One method, or a combination: its entry and, of every part, the documentation.

    Raises:
        IsoplastError: for an unknown name, suggesting the nearest.
    """
    method = methods.get(name)
    parts = [methods.get(part) for part in name.split("+")]
    documents = [_narrow(readable(inspect.getdoc(type(part)) or "")) for part in parts]
    return "\n\n".join([_entry(method), *documents])


def markdown_table(family: Family) -> str:
    """The methods of a family as a table of the documentation, from their metadata alone."""
    rows = [
        "| method | controls | defaults | a step costs, beyond Adam's | needs task boundaries | source |",
        "|---|---|---|---|---|---|",
    ]
    for name in methods.names():
        method = methods.get(name)
        info = method.info
        if info.family == family:
            defaults = ", ".join(f"`{field}` {_short(value)}" for field, value in method.settings())
            boundaries = "yes" if info.needs_task_boundaries else "no"
            source = _ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", info.source)
            cells = (f"`{name}`", info.controls, defaults, info.cost, boundaries, source)
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _narrow(document: str) -> str:
    """The documentation with its lines refilled; every formula keeps a line of its own."""
    filled: list[str] = []
    for block in document.split("\n\n"):
        # A new item begins with a heading, a setting ("    every: ...") or behind one of them.
        items: list[str] = []
        formula = block.startswith("    ")
        for line in block.splitlines():
            if formula or not items or _ITEM.match(line) or _HEADING.fullmatch(items[-1]):
                items.append(line)
            else:
                items[-1] += " " + line.strip()
        filled.append("\n".join(map(_refilled, items)))
    return "\n\n".join(filled)


def _refilled(item: str) -> str:
    margin = item[: len(item) - len(item.lstrip())]
    deeper = margin + "    " if _ITEM.match(item) else margin
    return textwrap.fill(
        item.strip(), _WIDTH, initial_indent=margin, subsequent_indent=deeper, break_on_hyphens=False
    )


def _entry(method: Method) -> str:
    info = method.info
    lines = [
        f"{method.name}: {info.title}",
        _indented(info.source),
        _indented(f"controls {info.controls}"),
        _indented(f"costs {info.cost}"),
    ]
    if info.needs_task_boundaries:
        lines.append(_indented("needs task boundaries"))
    if info.example:
        lines.append(_indented(f"use it as {info.example}"))
    settings = ", ".join(f"{field}={_short(value)}" for field, value in method.settings())
    lines.append(_indented(settings or "no settings"))
    return "\n".join(lines)


def _indented(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
