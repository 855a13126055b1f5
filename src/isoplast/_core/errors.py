"""The errors a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IsoplastError(ValueError):
    """A wrong input: one line that names the value and says what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> IsoplastError:
    """The error for a name nobody knows: suggests the nearest one and lists them all.

    Example:
        >>> str(unknown("method", "admo", ["adam", "adamo"]))
        "unknown method 'admo': did you mean 'adamo'? Known: adam, adamo"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return IsoplastError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names)}")
