"""Numbers as people read them: times, sizes, counts."""

from __future__ import annotations

import time


def duration(seconds: float) -> str:
    """A time to two places.

    Example:
        >>> duration(0.513), duration(75), duration(4000), duration(200_000)
        ('0.51 s', '1 min 15 s', '1 h 7 min', '2 d 8 h')
    """
    if seconds < 1:
        return f"{seconds:.2g} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for unit, size, part, small in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        whole, rest = divmod(round(seconds / small) * small, size)
        if whole:
            return f"{whole} {unit} {rest // small} {part}" if rest else f"{whole} {unit}"
    return f"{seconds:.0f} s"


def ago(moment: float) -> str:
    """How long ago a moment was, in seconds since the epoch: its largest unit.

    Example:
        >>> ago(time.time() - 7300)
        '2 h ago'
    """
    passed = time.time() - moment
    if passed < 5:
        return "now"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if passed >= size:
            return f"{passed // size:.0f} {unit} ago"
    raise AssertionError(passed)


def size(count: float) -> str:
    """Bytes.

    Example:
        >>> size(512), size(3_400_000)
        ('512 B', '3.4 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.2g} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def thousands(number: float) -> str:
    """A whole number with gaps.

    Example:
        >>> thousands(12500)
        '12 500'
    """
    return f"{number:,.0f}".replace(",", " ")
