"""What a sink is: something that is sent every row of a run, by name."""

from __future__ import annotations

import dataclasses
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from isoplast._core.errors import IsoplastError
from isoplast._core.registry import Registry
from isoplast._core.settings import check_fields
from isoplast._core.sinks import Record, Write
from isoplast.study._metrics import metric

AXIS = "run/tasks"  # the step of a row: how many tasks are finished, 0 for the untrained network


@dataclasses.dataclass(frozen=True)
class SentRun:
    """The run whose numbers are sent.

    Args:
        id: names its directory.
        study: what it belongs to: the study's name, or that of the directory of the results.
        label: what people call its setting.
        seed: of the run.
        settings: its specification, the way YAML writes it.
    """

    id: str
    study: str
    label: str
    seed: int
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Sink(ABC):
    """Where numbers go besides a run's directory; its fields are its settings.

    Attributes:
        name: what a study calls it, and the folder that it writes in.
        package: the module that must be there, "" for none.
    """

    name: ClassVar[str] = ""
    package: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __post_init__(self) -> None:
        check_fields(self, f"sink {self.name}")

    @abstractmethod
    def open(self, source: SentRun, folder: Path) -> AbstractContextManager[Write]:
        """A context that yields what is called with every row, as (number of finished tasks, numbers).

        Every start of a run begins with the first row again, in an empty folder, so nothing is there twice.
        The context is left with the exception that ends a run early.

        Args:
            source: the run.
            folder: an empty folder in the run's directory, the sink's own.
        """

    def check(self) -> None:
        """Raise IsoplastError if the package is not installed."""
        if self.package and importlib.util.find_spec(self.package) is None:
            raise IsoplastError(f'sink {self.name} needs {self.package}: pip install "isoplast[sinks]"')


SINKS: Registry[Sink] = Registry("sink", Sink, "isoplast.sinks")


def numbers(row: Mapping[str, Any]) -> Record:
    """The numbers of a row by names in groups: "score/accuracy", "sigma_max/layers.0".

    One number for a task stands in the group of what measures it, those for matrices and activations each
    under its name. Texts, quantiles and learning curves are left out.
    """
    found: dict[str, float] = {}
    owners = {"matrix": row.get("layers", ()), "activation": row.get("units", ())}
    for name, value in row.items():
        one = metric(name)
        if value is None or one.kind == "text" or name == "task":
            continue
        if one.per == "task":
            found[f"{one.source}/{name}"] = float(value)
        elif one.per in owners:
            pairs = zip(owners[one.per], value, strict=True)
            found |= {f"{name}/{owner}": float(each) for owner, each in pairs if each is not None}
    return found
