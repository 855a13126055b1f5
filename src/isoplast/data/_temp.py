"""Temporary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from isoplast._core.registry import Registry
from isoplast._core.settings import check_fields, converted
from isoplast.data._load import Dataset, load_data


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    name: ClassVar[str] = ""
    samples: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, f"data {self.name}")

    def load(self) -> Dataset:
        return load_data(self.name, samples=self.samples)


DATA: Registry[DataSpec] = Registry("data set", DataSpec, "isoplast.data")
for _n in ("digits", "mnist", "cifar10"):
    DATA.register(type(_n.title(), (DataSpec,), {"name": _n}))


def data_spec(name: str, **settings: Any) -> DataSpec:
    kind = DATA.find(name)
    return kind(**converted(kind, f"data {name}", settings))
