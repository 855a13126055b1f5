"""Text for one line and for tables: whatever a file, a folder or a user named can be printed as it stands."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

LONGEST = 400
"""Characters of the longest message."""

# Of a message that is too long the end stays as well: it says what to do.
_END = 150


def escaped(text: str) -> str:
    r"""Text without control characters: those and other invisible ones are written as Python writes them.

    A name in a checkpoint may hold a newline, or the sequence that renames a terminal's window or clears it.
    So may marks of direction reverse what is read, and surrogates cannot be printed at all.

    Example:
        >>> print(escaped("layer\n1 \x1b[2J"))
        layer\n1 \x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def one_line(text: str, longest: int = LONGEST) -> str:
    """Text as one line of at most so many characters, its middle left out where it is longer.

    Example:
        >>> one_line("x" * 1000 + ": write it out", longest=200)[-20:]
        'xxxxxx: write it out'
    """
    if len(text) > longest:  # before escaping: a text may hold megabytes, of which few are shown
        text = text[:longest] + " ... " + text[-longest:]
    text = escaped(text)
    if len(text) <= longest:
        return text
    end = min(_END, longest // 2)
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


class _Short(reprlib.Repr):
    """The repr of a value, whatever its size and however deep it is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 8
        self.maxlevel = 4

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 1000:  # Python refuses to write one of 4300 digits
            return f"a whole number of {x.bit_length()} bits"
        return super().repr_int(x, level)


_SHORT = _Short()


def shown(value: object) -> str:
    """A value as a message shows it: its repr, shortened where it is long.

    Example:
        >>> shown(0.1), shown(list(range(1000)))
        ('0.1', '[0, 1, 2, 3, 4, 5, 6, 7, ...]')
    """
    return escaped(_SHORT.repr(value))


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True, width: int | None = None
) -> str:
    """Rows as aligned text, one line each: whatever the cells hold is escaped.

    Args:
        header: the names of the columns.
        rows: as many cells each.
        right: whether all columns but the first stand to the right, as numbers do.
        width: characters in a line; where one would be longer the first column, names of layers, loses its
            beginning (but keeps 8 characters). None is no limit.

    Example:
        >>> print(text_table(("layer", "max"), [("blocks.0.attention.query", "1.2")], width=20))
        layer            max
        ...ention.query  1.2
    """
    lines = [[escaped(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if width is not None:
        room = max(width - sum(widths[1:]) - 2 * len(widths[1:]), 8)
        for line in lines[1:]:
            line[0] = line[0] if len(line[0]) <= room else f"...{line[0][3 - room :]}"
        widths[0] = max(len(line[0]) for line in lines)
    aligned = []
    for line in lines:
        pairs = zip(line, widths, strict=True)
        padded = [cell.rjust(size) if right else cell.ljust(size) for cell, size in pairs]
        padded[0] = line[0].ljust(widths[0])
        aligned.append("  ".join(padded).rstrip())
    return "\n".join(aligned)
