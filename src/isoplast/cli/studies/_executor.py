"""The executor that a command line describes."""

from __future__ import annotations

from typing import Any

from isoplast._core.errors import IsoplastError
from isoplast.cli._words import merged
from isoplast.study import Executor, make_executor


def taken_executor(name: str, address: str | None, given: dict[str, Any]) -> Executor:
    """The executor of a name with its settings, which are taken out of the words.

    Args:
        name: what --executor says.
        address: what --address says, short for executor.address.
        given: the words, as `parse_words` returns them.
    """
    flags = {} if address is None else {"executor.address": address}
    settings = merged(flags, {"executor": given.pop("executor", {})})["executor"]
    if not isinstance(settings, dict):
        raise IsoplastError(f"got executor={settings}: write --executor {settings}")
    return make_executor(name, settings)
