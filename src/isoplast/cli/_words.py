"""`key=value` words of a command line, read as YAML reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isoplast._core.errors import IsoplastError
from isoplast.study import parse_yaml


def parse_words(words: Sequence[str]) -> dict[str, Any]:
    """Nested settings from words such as `lr=1e-3`, `method=adamo` and `method.isometry=1e-2`.

    Args:
        words: KEY=VALUE; a key with a dot is a setting of a part. `method=adamo` and `method.name=adamo` say
            the same.

    Raises:
        IsoplastError: a word is of another form, or says what another one says already.

    Example:
        >>> parse_words(["lr=1e-3", "method=adamo", "method.isometry=1e-2"])
        {'lr': 0.001, 'method': {'name': 'adamo', 'isometry': 0.01}}
    """
    found: dict[str, Any] = {}
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or not key:
            raise IsoplastError(f"got {word!r}: write KEY=VALUE, such as lr=1e-3 or method.isometry=1e-2")
        value = parse_yaml(text, key)
        owner, _, setting = key.partition(".")
        if not setting and (isinstance(found.get(owner), dict) and isinstance(value, str)):
            setting = "name"  # some settings of the part came first
        _put(found, owner, setting, value, word)
    return found


def _put(found: dict[str, Any], owner: str, setting: str, value: Any, word: str) -> None:
    if not setting:
        if owner in found:
            raise IsoplastError(f"got {word!r}, but {owner} is given already: give it once")
        found[owner] = value
        return
    if owner == "switch" and setting.startswith("method."):
        owner, setting, value = "switch", "method", {setting.removeprefix("method."): value}
    inner = found.setdefault(owner, {})
    if isinstance(inner, str):
        inner = found[owner] = {"name": inner}
    if isinstance(inner.get(setting), dict) and isinstance(value, dict) and not inner[setting].keys() & value:
        inner[setting] |= value
    elif setting in inner:
        raise IsoplastError(f"got {word!r}, but {owner}.{setting} is given already: give it once")
    else:
        inner[setting] = value


def merged(flags: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """Settings given as flags and as words; a flag for the name of a part goes with words for its settings.

    Raises:
        IsoplastError: one is given twice.
    """
    found = dict(words)
    for key, value in flags.items():
        owner, _, setting = key.partition(".")
        _put(
            found,
            owner,
            setting or ("name" if isinstance(found.get(owner), dict) else ""),
            value,
            f"--{owner}",
        )
    return found
