"""A stand-in for torchvision, of which timm's models and optimizers need the names alone."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import runpy
import sys
from types import ModuleType
from typing import Any, ClassVar


class _Names(type):
    """Classes whose attributes are their own names."""

    def __getattr__(cls, name: str) -> str:
        return name


class _Nothing(ModuleType):
    """A module in which every name is there."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Finder:
    """Finds torchvision and all its modules: its builds fit one build of torch each, and few machines."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Nothing(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def stand_in() -> None:
    """Let timm be imported where torchvision is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_Finder())  # type: ignore[arg-type]


if __name__ == "__main__":  # python timm_without_torchvision.py SCRIPT
    stand_in()
    runpy.run_path(sys.argv[1], run_name="__main__")
