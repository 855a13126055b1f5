"""How results turn into flat numbers and into tables: one way for all instruments."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import TypeVar

from isoplast._core.errors import unknown

V = TypeVar("V")


class Result:
    """A typed result: prints well, and `as_dict()` is flat.

    A subclass is a frozen dataclass; it implements `as_dict` and `__str__`.
    """

    def as_dict(self) -> dict[str, float]:
        """Return every number of the result under a name of its own."""
        raise NotImplementedError


class Layers(Mapping[str, V]):
    """Results by layer name, in the order of the network: a mapping.

    Args:
        items: the results by name.
    """

    def __init__(self, items: Mapping[str, V]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> V:
        if name not in self._items:
            raise KeyError(str(unknown("layer", name, self._items)))
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def format_number(value: float) -> str:
    """A number for reading: three significant digits.

    Example:
        >>> format_number(0.0123456), format_number(1234567.0), format_number(float("nan"))
        ('0.0123', '1.23e+06', 'nan')
    """
    if math.isnan(value) or math.isinf(value):
        return str(value)
    if value == int(value) and abs(value) < 1e5:
        return str(int(value))
    return f"{value:.3g}"


def wrapped(text: str, width: int = 80) -> str:
    """Text whose sentences are broken at words where a line would be too long; tables fit as they are.

    Example:
        >>> print(wrapped("one sentence that is too long", width=20))
        one sentence that is
            too long
    """
    return "\n".join(
        part
        for line in text.splitlines()
        for part in (textwrap.wrap(line, width, subsequent_indent="    ") if len(line) > width else [line])
    )
