"""Packages that only some environments need."""

from __future__ import annotations

import importlib
from typing import Any

from isoplast._core.errors import IsoplastError


def needed(module: str, purpose: str, extra: str = "rl") -> Any:
    """An imported module of another package.

    Args:
        module: its name.
        purpose: what needs it, for the message.
        extra: the extra of isoplast that brings it.

    Raises:
        IsoplastError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise IsoplastError(
            f"{purpose} needs {error.name}, which is not installed: pip install 'isoplast[{extra}]'"
        ) from None
