"""Writes the parts of the documentation that are made from the code: `python docs/generate.py`.

A part stands between `<!-- NAME: ... -->` and `<!-- end of NAME -->`; tests compare it with what this makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from isoplast.streams import streams_table
from isoplast.study import metrics_table

DOCS = Path(__file__).parent


def support_matrix() -> str:
    """What held of the claims about training stacks, as tests/stacks wrote it down."""
    sys.path.insert(0, str(DOCS.parent / "tests" / "stacks"))
    from support_matrix import table

    return str(table())


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "metrics": ("studies.md", metrics_table),
    "streams": ("streams.md", streams_table),
    "stacks": ("stacks.md", support_matrix),
}


def generated(name: str) -> tuple[Path, str, str]:
    """A page as it is and as it ought to be, with the part of this name made anew."""
    file, make = PARTS[name]
    page = DOCS / file
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{page} has no place for {name}")
    return page, text, pattern.sub(lambda found: f"{found[1]}{make()}\n{found[2]}", text)


if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        page, before, after = generated(part)
        if before != after:
            page.write_text(after, encoding="utf-8")
            print(f"{page}: {part} written")
