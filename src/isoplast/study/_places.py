"""Where in a study's file stands what an error is about.

An error says what is wrong with a value, whatever part of a run has checked it, and not where it was written.
That is found when it is needed: by leaving settings out, one at a time, until the error is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

from isoplast._core.errors import IsoplastError
from isoplast._core.text import shown
from isoplast.study._yaml import line_of

KeyPath: TypeAlias = tuple[Any, ...]
"""Keys of nested mappings, and places in lists."""

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Place:
    """A path in a document, or in what overrides it."""

    path: KeyPath
    overrides: bool = False


class PlacedError(IsoplastError):
    """An error that is about the value at a place."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.place = place


def placed(
    settings: Mapping[str, Any],
    attempt: Callable[[Mapping[str, Any]], Result],
    where: Callable[[KeyPath], Place] = Place,
) -> Result:
    """What `attempt` makes of settings.

    Args:
        settings: nested mappings and lists.
        attempt: raises IsoplastError for settings that are wrong.
        where: the place of a path in the settings.

    Raises:
        PlacedError: `attempt` has raised; with the place of the setting at fault.
    """
    try:
        return attempt(settings)
    except PlacedError:
        raise
    except IsoplastError as error:
        found = PlacedError(str(error), where(_fault(settings, attempt, str(error))))
    raise found


@contextlib.contextmanager
def named(source: str, text: str, overrides: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Put the name of a document in front of an error, and the line of what it is about."""
    try:
        yield
    except PlacedError as error:
        where = _where(error.place, text, overrides or {})
        raise IsoplastError(f"{source}{where}: {error}") from None
    except IsoplastError as error:
        raise IsoplastError(f"{source}: {error}") from None


def _where(place: Place, text: str, overrides: Mapping[str, Any]) -> str:
    if place.overrides:
        path = tuple(itertools.takewhile(lambda key: isinstance(key, str), place.path))
        return f", overridden by {'.'.join(path)}={shown(value_at(overrides, path))}"
    line = line_of(text, place.path)
    return "" if line is None else f", line {line}"


def value_at(settings: Any, path: KeyPath) -> Any:
    """The value at a path; raises LookupError where there is none."""
    for key in path:
        if not isinstance(settings, dict | list):
            raise LookupError(key)
        settings = settings[key]
    return settings


def _fault(
    settings: Mapping[str, Any], attempt: Callable[[Mapping[str, Any]], object], message: str
) -> KeyPath:
    """The path of the setting that makes `attempt` fail; () if no single one does.

    It is the deepest one without which nothing is wrong, or, where another setting is wrong as well, the
    error is another one. Of several (two that exclude each other) it is one that the message names, and of
    those the last.
    """

    def inside(path: KeyPath) -> dict[KeyPath, str]:
        """What is said without each of the values that the one at a path holds."""
        keys = _keys(value_at(settings, path))
        return {(*path, key): _said(attempt, _without(settings, (*path, key))) for key in keys}

    about = {path for path in _paths(settings) if _names(message, path[-1], value_at(settings, path))}
    found: list[KeyPath] = []
    top = level = said = inside(())
    while level and not found:
        found = [path for path, words in level.items() if not words]
        found = found or [path for path, words in level.items() if words != message and path in about]
        if not found:
            level = {path: words for outer in level for path, words in inside(outer).items()}
            said = said | level
    if not found:
        # Without a setting that must be there the error is always another one.
        other = [path for path, words in top.items() if words != message]
        found = [path for path in said if path in about] or (other if len(other) == 1 else [])
    path: KeyPath = ()
    while found:
        path = max(reversed(found), key=about.__contains__)
        gone, level = said[path], inside(path)
        said = said | level
        # Without one end of a range, or the name of a network that has settings, something else is wrong.
        found = [one for one, words in level.items() if words in (gone, "")] or [
            one for one, words in level.items() if words != message and one in about
        ]
    return path


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _paths(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """The paths of the values in mappings, however deep."""
    for key in _keys(value):
        if isinstance(value, dict):
            yield (*path, key)
        yield from _paths(value[key], (*path, key))


def _said(attempt: Callable[[Mapping[str, Any]], object], settings: Mapping[str, Any]) -> str:
    try:
        attempt(settings)
    except Exception as error:  # whatever somebody's part raises without a setting
        return str(error) or type(error).__name__
    return ""


def _names(message: str, key: object, value: object) -> bool:
    """Whether a message is about a setting: after the colon it lists what would be right."""
    said = message.partition(": ")[0]
    return re.search(rf"(?<!\w){re.escape(str(key))}(?!\w)", said) is not None or (
        isinstance(value, str) and repr(value) in said
    )


def _without(settings: Any, path: KeyPath) -> Any:
    key, rest = path[0], path[1:]
    changed = settings.copy()
    if rest:
        changed[key] = _without(changed[key], rest)
    else:
        del changed[key]
    return changed
