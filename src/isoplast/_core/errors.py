"""The errors a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from isoplast._core.text import LONGEST, escaped, one_line

# Of the known names so many characters are listed, so that the rest of a message has its place.
_LISTED = LONGEST - 150


class IsoplastError(ValueError):
    """A wrong input: one line that names the value and says what to do.

    The command line prints the message without a traceback and exits with status 2. A message is one line of
    at most 400 characters without control characters, whatever file or word it quotes.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def unknown(kind: str, name: str, known: Iterable[str]) -> IsoplastError:
    """The error for a name nobody knows: suggests the nearest one and lists them all.

    Example:
        >>> str(unknown("method", "admo", ["adam", "adamo"]))
        "unknown method 'admo': did you mean 'adamo'? Known: adam, adamo"
    """
    name = one_line(str(name), 80)
    names = sorted(map(escaped, known))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return IsoplastError(f"unknown {kind} {name!r}: {hint}Known: {_listed(names)}")


def reason_of(error: Exception) -> str:
    """What an error says, in one line; of one that is not ours its kind as well.

    Example:
        >>> reason_of(IsoplastError("no inputs")), reason_of(KeyError("logits"))
        ('no inputs', "KeyError: 'logits'")
    """
    text = str(error).strip().partition("\n")[0]  # messages of torch have a line for each of its frames
    return one_line(
        text if isinstance(error, IsoplastError) else f"{type(error).__name__}: {text}".rstrip(": ")
    )


def _listed(names: list[str]) -> str:
    """The names, or as many of them as have their place and the number of the others."""
    for count in range(len(names), 0, -1):
        more = f" and {len(names) - count} more" if count < len(names) else ""
        said = ", ".join(names[:count]) + more
        if len(said) <= _LISTED:
            return said
    return f"{len(names)} names"
