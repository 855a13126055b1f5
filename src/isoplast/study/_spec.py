"""What to run: one method on one stream with one seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch

from isoplast import methods, nn, streams
from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.settings import Settings, converted, options
from isoplast.methods import Method
from isoplast.study import _yaml


@dataclasses.dataclass(frozen=True)
class Switch:
    """From a task on another method goes on with the very same network, its optimizer state fresh.

    Args:
        task: the first task of the new method, counted from 0; at least 1.
        method: its name.
        hyper: its hyper-parameters; those left out keep their defaults.
    """

    task: int
    method: str
    hyper: Settings = ()

    def __post_init__(self) -> None:
        _set(self, task=whole("task of switch", self.task, 1), hyper=_hyper(self.method, self.hyper))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one stream with one seed: everything that decides its result.

    Settings of the network and the method that are left out are filled in with their defaults, so that a
    specification says all there is to say, and stays true when a default changes.

    Args:
        stream: name of the stream of tasks.
        data: name of the data set it is made from.
        samples: how many images of it; None is all.
        tasks: number of tasks, >= 1.
        epochs: passes over each task, >= 1.
        batch_size: images per optimizer step, >= 1; the last batch of an epoch may be smaller.
        net: name of the network.
        net_options: its settings by name (width, depth, activation, ...).
        method: name of the method.
        hyper: its hyper-parameters by name.
        lr: learning rate, > 0.
        seed: seed of the tasks, the initialisation, the data order and all noise; >= 0.
        device: where to train, "cpu" or "cuda", as torch writes it.
        switch: a change of method half-way.
        label: what people call this run's arm; no part of its identity. Empty: made from the method.

    Raises:
        IsoplastError: for a setting that is unknown or out of range, in one line.

    Example:
        >>> run = Run(method="adamo", hyper=(("isometry", 0.03),), net_options=(("width", 128),))
        >>> Run.from_mapping(run.to_mapping()) == run
        True
    """

    stream: str = "random-labels"
    data: str = "digits"
    samples: int | None = None
    tasks: int = 24
    epochs: int = 25
    batch_size: int = 64
    net: str = "mlp"
    net_options: Settings = ()
    method: str = "adamo"
    hyper: Settings = ()
    lr: float = 1e-3
    seed: int = 0
    device: str = "cpu"
    switch: Switch | None = None
    label: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        _known("stream", self.stream, streams.names())
        _known("data set", self.data, streams.data_names())
        for name in ("tasks", "epochs", "batch_size"):
            _set(self, **{name: whole(name, getattr(self, name), 1)})
        if self.samples is not None:
            _set(self, samples=whole("samples", self.samples, 1))
        _set(self, seed=whole("seed", self.seed, 0), lr=_rate(self.lr), device=_device(self.device))
        _set(self, net_options=_net_options(self.net, self.net_options))
        _set(self, hyper=_hyper(self.method, self.hyper))
        if self.switch is not None and self.switch.task >= self.tasks:
            raise IsoplastError(
                f"switch at task {self.switch.task} of {self.tasks}: it must come before the last task ends, "
                f"at 1 to {self.tasks - 1}"
            )
        if not isinstance(self.label, str):
            raise IsoplastError(f"label is {self.label!r}: it must be text, put it between quotes")
        _set(self, label=self.label or self._default_label())

    def _default_label(self) -> str:
        title = methods.get(self.method).info.title
        if self.switch is None:
            return title
        return f"{title}, then {methods.get(self.switch.method).info.title} from task {self.switch.task}"

    @property
    def id(self) -> str:
        """A readable name that no other specification has: the directory of its results."""
        parts = [self.stream, self.data, self.net, self.method]
        parts += [] if self.switch is None else ["then", self.switch.method]
        slug = re.sub(r"[^a-z0-9.]+", "-", "-".join([*parts, f"lr{self.lr:g}", f"s{self.seed}"]).lower())
        return f"{slug}-{hashlib.sha256(self.canonical().encode()).hexdigest()[:8]}"

    def canonical(self) -> str:
        """The specification as JSON that equal runs share to the byte; the label is not in it."""
        mapping = {key: value for key, value in self.to_mapping().items() if key != "label"}
        return json.dumps(mapping, sort_keys=True, separators=(",", ":"))

    def to_mapping(self) -> dict[str, Any]:
        """The specification as plain nested values, the way YAML files write it."""
        names = [field.name for field in dataclasses.fields(self)]
        mapping: dict[str, Any] = {name: getattr(self, name) for name in names}
        mapping["net"] = _named(self.net, mapping.pop("net_options"))
        mapping["method"] = _named(self.method, mapping.pop("hyper"))
        if self.switch is not None:
            mapping["switch"] = {
                "task": self.switch.task,
                "method": _named(self.switch.method, self.switch.hyper),
            }
        return {key: value for key, value in mapping.items() if value is not None}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Run:
        """The run that such nested values describe; what is left out keeps its default.

        Raises:
            IsoplastError: for an unknown key or a wrong value.
        """
        fields = {field.name for field in dataclasses.fields(cls)} - {"net_options", "hyper"}
        for key in mapping:
            if key not in fields:
                raise unknown("setting of a run", str(key), fields)
        values = dict(mapping)
        if "net" in values:
            values["net"], values["net_options"] = _split("net", values["net"])
        if "method" in values:
            values["method"], values["hyper"] = _split("method", values["method"])
        if values.get("switch") is not None:
            values["switch"] = _switch(values["switch"])
        return cls(**values)

    def to_yaml(self) -> str:
        """The specification as a YAML document."""
        return _yaml.dump_yaml(self.to_mapping())

    @classmethod
    def from_yaml(cls, text: str, source: str = "specification") -> Run:
        """The run that a YAML document describes."""
        mapping = _yaml.parse_yaml(text, source)
        if not isinstance(mapping, dict):
            raise IsoplastError(f"{source} must be a mapping of settings")
        return cls.from_mapping(mapping)

    def make_method(self, task: int = 0) -> Method:
        """The method in force during a task, as a fresh object."""
        switched = self.switch is not None and task >= self.switch.task
        source = self.switch if self.switch is not None and switched else self
        return methods.get(source.method, **dict(source.hyper))


def _set(instance: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _known(kind: str, name: object, names: list[str]) -> None:
    if name not in names:
        raise unknown(kind, str(name), names)


def whole(name: str, value: object, low: int) -> int:
    """The value if it is a whole number of at least `low`; raises IsoplastError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise IsoplastError(f"{name} is {value!r}: it must be a whole number >= {low}")
    return value


def _rate(value: object) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < float(value) < float("inf"):  # type: ignore[arg-type]
        raise IsoplastError(f"lr is {value!r}: the learning rate must be a finite number > 0")
    return float(value)  # type: ignore[arg-type]


def _device(value: object) -> str:
    try:
        return str(torch.device(str(value)))
    except RuntimeError:
        raise IsoplastError(f"device is {value!r}: give one that torch knows, 'cpu' or 'cuda'") from None


def _hyper(method: str, hyper: Settings) -> Settings:
    return methods.get(method, **dict(hyper)).settings()


def _net_options(net: str, given: Settings) -> Settings:
    kind = type(nn.spec(net))
    return options(nn.spec(net, **converted(kind, f"network {net}", dict(given))))


def _named(name: str, settings: Settings) -> dict[str, Any]:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in settings}
    return {"name": name, **plain}


def _split(kind: str, value: object) -> tuple[str, Settings]:
    """A name, or a mapping with the key `name` and settings, as (name, settings)."""
    if isinstance(value, str):
        return value, ()
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise IsoplastError(f"{kind} is {value!r}: give a name, or a mapping with 'name' and its settings")
    return value["name"], tuple((str(key), setting) for key, setting in value.items() if key != "name")


def _switch(value: object) -> Switch:
    if not isinstance(value, Mapping) or "task" not in value or "method" not in value:
        raise IsoplastError(f"switch is {value!r}: give a mapping with 'task' and 'method'")
    for key in value:
        if key not in ("task", "method"):
            raise unknown("setting of switch", str(key), ("task", "method"))
    name, hyper = _split("method", value["method"])
    return Switch(value["task"], name, hyper)
