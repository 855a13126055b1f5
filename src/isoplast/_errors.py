"""Where errors were before 0.1; `isoplast.IsoplastError` is the name to use. Goes with 0.2."""

from isoplast._core.errors import IsoplastError, unknown

__all__ = ["IsoplastError", "unknown"]
