"""isoplast keeps neural networks able to learn.

:class:`AdamO` in place of Adam, or :func:`attach` for any other optimizer, keeps weight matrices isometric.
It implements "Preserving Plasticity in Continual Learning via Dynamical Isometry" (arXiv:2606.09762).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoplast._core.errors import IsoplastError
    from isoplast.diagnostics import Monitor, diagnose
    from isoplast.nn import MaxMin
    from isoplast.optim import AdamO, attach, isometry_penalty, orthogonalize_, param_groups

__version__ = "0.1.0"

# Looked up when they are asked for: torch takes seconds, which `isoplast --version` need not wait for.
_FACE = {
    "AdamO": "optim",
    "IsoplastError": "_core.errors",
    "MaxMin": "nn",
    "Monitor": "diagnostics",
    "attach": "optim",
    "diagnose": "diagnostics",
    "isometry_penalty": "optim",
    "orthogonalize_": "optim",
    "param_groups": "optim",
}
_PACKAGES = (
    "data",
    "diagnostics",
    "isometry",
    "methods",
    "model",
    "nn",
    "optim",
    "report",
    "streams",
    "study",
)

__all__ = [
    "AdamO",
    "IsoplastError",
    "MaxMin",
    "Monitor",
    "__version__",
    "attach",
    "diagnose",
    "isometry_penalty",
    "orthogonalize_",
    "param_groups",
]


def __getattr__(name: str) -> Any:
    if name in _FACE:
        found = getattr(importlib.import_module(f"isoplast.{_FACE[name]}"), name)
        globals()[name] = found
        return found
    if name in _PACKAGES:
        return importlib.import_module(f"isoplast.{name}")
    raise AttributeError(f"module 'isoplast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE, *_PACKAGES})
