"""What to run: one method on one problem with one seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import shown
from isoplast.methods import Method
from isoplast.streams import Problem
from isoplast.study import _yaml
from isoplast.study._parts import Part, make, part
from isoplast.study.run._instruments import INSTRUMENTS

# Settings of a part that may be written beside the parts: tasks: 24 is stream: {tasks: 24}.
SHORTHANDS = {"samples": "data", "tasks": "stream", "epochs": "learner", "batch_size": "learner"}
PARTS = ("stream", "data", "net", "method", "learner")
_DEFAULT_DATA = "digits"
_LARGEST_RATE = torch.finfo(torch.float32).max


@dataclasses.dataclass(frozen=True)
class Switch:
    """From a task on another method goes on with the very same network, its optimizer state fresh.

    Args:
        task: the first task of the new method, counted from 0; at least 1.
        method: its name, a mapping with its name and settings, or an object.
    """

    task: int
    method: Part

    def __post_init__(self) -> None:
        _set(self, task=whole("task of switch", self.task, 1), method=part("method", self.method))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one problem with one seed: everything that decides its result.

    A part is given as a name, as a mapping with `name` and settings, or as an object. Settings that are left
    out are filled in with their defaults, so that a specification says all there is to say, and stays true
    when a default changes.

    Args:
        stream: the sequence of tasks.
        data: the data set it is made from; None where the stream makes its own.
        net: the network.
        method: the method.
        learner: what trains the network on a task; None: the one for the stream's kind of tasks.
        lr: learning rate, > 0.
        seed: seed of the tasks, the initialisation, the data order and all noise; >= 0.
        device: where to train, "cpu" or "cuda", as torch writes it.
        instruments: what is measured at the boundaries between tasks, some of
            `isoplast.study.INSTRUMENTS`; True: all; False: the scores alone.
        instruments_every: after every how many tasks they measure, >= 1: of 4, the untrained network and the
            network after the tasks 3, 7, 11, ... and after the last one. The scores are there for every task.
        switch: a change of method half-way.
        label: what people call this setting; no part of its identity. Empty: made from the method.
        path: folders in which modules are found that the parts are named from; no part of its identity.

    Raises:
        IsoplastError: for a setting that is unknown or out of range, in one line.

    Example:
        >>> run = Run(method={"name": "adamo", "isometry": 0.03}, net={"name": "mlp", "width": 128})
        >>> Run.from_mapping(run.to_mapping()) == run
        True
    """

    stream: Part = "random-labels"  # type: ignore[assignment]
    data: Part | None = None
    net: Part = "mlp"  # type: ignore[assignment]
    method: Part = "adamo"  # type: ignore[assignment]
    learner: Part = None  # type: ignore[assignment]
    lr: float = 1e-3
    seed: int = 0
    device: str = "cpu"
    instruments: tuple[str, ...] = INSTRUMENTS
    instruments_every: int = 1
    switch: Switch | None = None
    label: str = dataclasses.field(default="", compare=False)
    path: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        _set(self, stream=part("stream", _named(self.stream, Run.stream)))
        problem: Problem = make("stream", self.stream)
        _set(self, data=_data(problem, self.data))
        _set(self, net=part("net", _named(self.net, Run.net)))
        _set(self, method=part("method", _named(self.method, Run.method)))
        _set(self, learner=part("learner", _named(self.learner, problem.learner)))
        _set(self, seed=whole("seed", self.seed, 0), lr=_rate(self.lr), device=_device(self.device))
        _set(self, instruments=_instruments(self.instruments))
        _set(self, instruments_every=whole("instruments_every", self.instruments_every, 1))
        if self.switch is not None and self.switch.task >= problem.tasks:
            raise IsoplastError(
                f"switch at task {self.switch.task} of {problem.tasks}: it must come before the last task "
                f"ends, at 1 to {problem.tasks - 1}"
            )
        if not isinstance(self.label, str):
            raise IsoplastError(f"label is {self.label!r}: it must be text, put it between quotes")
        _set(self, label=self.label or self._default_label(), path=_path(self.path))
        make("learner", self.learner).check(problem)

    def _default_label(self) -> str:
        title = self.make_method().info.title
        if self.switch is None:
            return title
        return f"{title}, then {self.make_method(self.switch.task).info.title} from task {self.switch.task}"

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return self.problem().tasks

    @property
    def id(self) -> str:
        """A readable name that no other specification has: the directory of its results."""
        parts = [self.stream.name, *([self.data.name] if self.data else []), self.net.name, self.method.name]
        parts += [] if self.switch is None else ["then", self.switch.method.name]
        slug = re.sub(r"[^a-z0-9.]+", "-", "-".join([*parts, f"lr{self.lr:g}", f"s{self.seed}"]).lower())
        # A name of 255 bytes is the longest that file systems take.
        return f"{slug[:200]}-{hashlib.sha256(self.canonical().encode()).hexdigest()[:8]}"

    def canonical(self) -> str:
        """The specification as JSON that equal runs share to the byte; label and path are not in it."""
        mapping = {key: value for key, value in self.to_mapping().items() if key not in ("label", "path")}
        return json.dumps(mapping, sort_keys=True, separators=(",", ":"))

    def to_mapping(self) -> dict[str, Any]:
        """The specification as nested values, the way YAML files write it."""
        mapping: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Part):
                mapping[field.name] = value.to_mapping()
            elif isinstance(value, Switch):
                mapping[field.name] = {"task": value.task, "method": value.method.to_mapping()}
            elif value is not None and value != ():
                mapping[field.name] = list(value) if isinstance(value, tuple) else value
        if self.instruments == INSTRUMENTS:
            del mapping["instruments"]
        if self.instruments_every == 1:
            del mapping["instruments_every"]
        return mapping | ({"instruments": False} if not self.instruments else {})

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Run:
        """The run that such nested values describe; what is left out keeps its default.

        Raises:
            IsoplastError: for an unknown key or a wrong value.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        values = expanded(mapping)
        for key in values:
            if key not in fields:
                raise unknown("setting of a run", str(key), [*fields, *SHORTHANDS])
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

    def problem(self) -> Problem:
        """The settings of the sequence of tasks, as an object."""
        found: Problem = make("stream", self.stream)
        return found

    def make_method(self, task: int = 0) -> Method:
        """The method in force during a task, as a fresh object."""
        switched = self.switch is not None and task >= self.switch.task
        found: Method = make(
            "method", self.switch.method if self.switch is not None and switched else self.method
        )
        return found


def expanded(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings of a run with shorthands put where they belong, and `stream: {data: ...}` beside it.

    Raises:
        IsoplastError: a setting is given twice, in both ways.
    """
    values = {str(key): value for key, value in mapping.items()}
    if isinstance(values.get("stream"), Mapping) and "data" in values["stream"]:
        if "data" in values:
            raise IsoplastError("data is given twice, beside the stream and in it: give it once")
        values["stream"] = {key: value for key, value in values["stream"].items() if key != "data"}
        values["data"] = mapping["stream"]["data"]
    for key, owner in SHORTHANDS.items():
        if values.get(key) is None:
            values.pop(key, None)
            continue
        inner = as_mapping(owner, values.get(owner))
        if key in inner:
            raise IsoplastError(f"{key} is given twice, as {key} and as {owner}.{key}: give it once")
        values[owner] = {**inner, key: values.pop(key)}
    return values


def as_mapping(kind: str, value: object) -> dict[str, Any]:
    """A part as the mapping that it stands for; empty where nothing is said."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Part):
        return value.to_mapping()
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    raise IsoplastError(f"{kind} is {value!r}: give a name, or a mapping with 'name' and its settings")


def _named(value: object, default: object) -> object:
    """What names a part: a mapping that leaves the name out is about the default one."""
    if value is None:
        return default
    if isinstance(value, Mapping) and "name" not in value:
        return {"name": default, **value}
    return value


def _set(instance: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _data(problem: Problem, value: object) -> Part | None:
    if problem.takes_data:
        return part("data", _named(value, _DEFAULT_DATA))
    if value is not None:
        raise IsoplastError(f"stream {problem.name} makes its own data: leave 'data' out")
    return None


def whole(name: str, value: object, low: int) -> int:
    """The value if it is a whole number of at least `low`; raises IsoplastError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise IsoplastError(f"{name} is {value!r}: it must be a whole number >= {low}")
    if value >= 2**63:
        raise IsoplastError(f"{name} is {value}: it must be below 2^63")
    return value


def _rate(value: object) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 < value < float("inf"):  # type: ignore[operator]
        raise IsoplastError(f"lr is {shown(value)}: the learning rate must be a finite number > 0")
    if value > _LARGEST_RATE:  # type: ignore[operator]
        raise IsoplastError(f"lr is {shown(value)}: the largest number that float32 can hold is 3.4e38")
    return float(value)  # type: ignore[arg-type]


def _device(value: object) -> str:
    try:
        return str(torch.device(str(value)))
    except RuntimeError:
        raise IsoplastError(f"device is {value!r}: give one that torch knows, 'cpu' or 'cuda'") from None


def _instruments(value: object) -> tuple[str, ...]:
    """In the order of `INSTRUMENTS`, however they were written."""
    if isinstance(value, bool):
        return INSTRUMENTS if value else ()
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, Sequence):
        raise IsoplastError(f"instruments is {value!r}: give a list of some of {', '.join(INSTRUMENTS)}")
    for name in given:
        if name not in INSTRUMENTS:
            raise unknown("instrument", str(name), INSTRUMENTS)
    return tuple(name for name in INSTRUMENTS if name in given)


def _path(value: object) -> tuple[str, ...]:
    given = (value,) if isinstance(value, str | Path) else value
    if not isinstance(given, Sequence) or not all(isinstance(one, str | Path) for one in given):
        raise IsoplastError(f"path is {value!r}: give a folder, or a list of folders")
    return tuple(str(Path(one)) for one in given)


def _switch(value: object) -> Switch:
    if isinstance(value, Switch):
        return value
    if not isinstance(value, Mapping) or "task" not in value or "method" not in value:
        raise IsoplastError(f"switch is {value!r}: give a mapping with 'task' and 'method'")
    for key in value:
        if key not in ("task", "method"):
            raise unknown("setting of switch", str(key), ("task", "method"))
    return Switch(value["task"], value["method"])
