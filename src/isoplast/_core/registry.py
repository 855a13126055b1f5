"""Things by name: ours, those of installed packages, and anybody's by `package.module:Name`."""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata
from typing import Any, Generic, TypeVar

from isoplast._core.errors import IsoplastError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind by name.

    A name is found among those that were registered, then among the entry points of installed packages; a
    name with a colon is imported. Nothing is imported before somebody asks for it.

    Args:
        kind: what the classes are, for error messages ("method").
        base: the class that all of them derive from.
        group: entry points of this group are found too ("isoplast.methods").

    Example:
        >>> shapes = Registry("shape", object, "isoplast.doctest.shapes")
        >>> @shapes.register
        ... class Circle:
        ...     name = "circle"
        >>> shapes.find("circle").__name__, shapes.names()
        ('Circle', ['circle'])
    """

    def __init__(self, kind: str, base: type[Any], group: str) -> None:
        self.kind = kind
        self.base = base
        self.group = group
        self._known: dict[str, type[T]] = {}

    def register(self, found: type[T]) -> type[T]:
        """Class decorator: makes a class known under its `name` in this process.

        A worker of a study is another process, which knows it only if it imports the module that holds it:
        name such a class `package.module:Name` there, or offer it as an entry point.
        """
        self._known[found.name] = found  # type: ignore[attr-defined]
        return found

    def names(self, *, installed: bool = False) -> list[str]:
        """The registered names, sorted.

        Args:
            installed: whether to list the entry points of installed packages too.
        """
        points = [point.name for point in self._points()] if installed else []
        return sorted({*self._known, *points})

    def find(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            IsoplastError: nobody knows it (names the nearest), it cannot be imported, or it is another kind
                of thing.
        """
        if name in self._known:
            return self._known[name]
        if ":" in name:
            return self._checked(name, _imported(self.kind, name))
        for point in self._points():
            if point.name == name:
                return self._checked(name, _imported(self.kind, point.value))
        raise unknown(self.kind, name, self.names(installed=True))

    def reference(self, found: type[T]) -> str:
        """The name by which `find` gives this class, in any process.

        Raises:
            IsoplastError: no other process can import it.
        """
        known = getattr(found, "name", "")
        if self._known.get(known) is found and found.__module__.partition(".")[0] == "isoplast":
            return str(known)
        where = f"{found.__module__}:{found.__qualname__}"
        if found.__module__ == "__main__" or "<locals>" in found.__qualname__:
            raise IsoplastError(
                f"{self.kind} {found.__qualname__} is defined in {_place(found)}, where no other process "
                "finds it: put it at the top of a module of its own"
            )
        return where

    def _points(self) -> list[metadata.EntryPoint]:
        return list(metadata.entry_points(group=self.group))

    def _checked(self, name: str, found: Any) -> type[T]:
        if not (inspect.isclass(found) and issubclass(found, self.base)):
            raise IsoplastError(
                f"{self.kind} {name!r} is {_described(found)}: it must be a class derived from "
                f"{self.base.__module__.split('._')[0]}.{self.base.__name__}"
            )
        kind: Any = found
        return kind  # type: ignore[no-any-return]


def _imported(kind: str, reference: str) -> Any:
    module, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever somebody's module raises when it is imported
        reason = f"{type(error).__name__}: {error}"
        raise IsoplastError(
            f"{kind} {reference!r}: {module or 'no module'} cannot be imported ({reason}); write "
            "package.module:Name, with the package on PYTHONPATH or in a folder that the study's 'path' names"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise IsoplastError(f"{kind} {reference!r}: {module} has no {path!r}")
        found = getattr(found, part)
    return found


def _place(found: type) -> str:
    return "the script that was started" if found.__module__ == "__main__" else "a function"


def _described(found: Any) -> str:
    return f"the class {found.__name__}" if inspect.isclass(found) else f"an object of {type(found).__name__}"
