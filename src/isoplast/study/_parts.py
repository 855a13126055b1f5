"""The parts of a run by name: what it trains on, what it trains, how, and where its numbers go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from isoplast import data, methods, nn, streams
from isoplast._core.errors import IsoplastError
from isoplast._core.settings import Settings, converted, settings_of, takes_list
from isoplast.study.run._learner import LEARNERS, LearnerSpec
from isoplast.study.sinks._base import SINKS, Sink


@dataclasses.dataclass(frozen=True)
class Part:
    """A name and all its settings, the form in which a run knows its parts: hashable, the same everywhere.

    Args:
        name: what the registry of its kind, an entry point or an import ("package.module:Name") finds.
        settings: names and values, sorted by name, defaults filled in.
    """

    name: str
    settings: Settings = ()

    def to_mapping(self) -> dict[str, Any]:
        """The part as YAML writes it: a mapping with `name` and the settings."""
        pairs = ((key, list(value) if isinstance(value, tuple) else value) for key, value in self.settings)
        return {"name": self.name, **dict(pairs)}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What is known of one kind of part.

    Args:
        base: what an object given in its place derives from.
        make: the object for a name and settings.
        reference: the name by which another process finds the class of an object.
        find: the class of a name.
        names: what is registered.
    """

    base: type
    make: Callable[[str, Mapping[str, Any]], Any]
    reference: Callable[[Any], str]
    find: Callable[[str], type]
    names: Callable[[], list[str]]


def _net(name: str, settings: Mapping[str, Any]) -> nn.NetSpec:
    return nn.spec(name, **converted(nn.NETS.find(name), f"network {name}", settings))


def _learner(name: str, settings: Mapping[str, Any]) -> LearnerSpec:
    kind = LEARNERS.find(name)
    return kind(**converted(kind, f"learner {name}", settings))


def _sink(name: str, settings: Mapping[str, Any]) -> Sink:
    kind = SINKS.find(name)
    return kind(**converted(kind, f"sink {name}", settings))


def _method_reference(found: methods.Method) -> str:
    parts = found.parts if isinstance(found, methods.Combination) else (found,)
    return "+".join(methods.METHODS.reference(type(one)) for one in parts)


_KINDS: dict[str, _Kind] = {
    "stream": _Kind(
        streams.Problem,
        lambda name, settings: streams.problem(name, **settings),
        lambda found: streams.STREAMS.reference(type(found)),
        streams.STREAMS.find,
        streams.STREAMS.names,
    ),
    "data": _Kind(
        data.DataSpec,
        lambda name, settings: data.data_spec(name, **settings),
        data.data_reference,
        data.DATA.find,
        data.DATA.names,
    ),
    "net": _Kind(nn.NetSpec, _net, lambda found: nn.NETS.reference(type(found)), nn.NETS.find, nn.NETS.names),
    "method": _Kind(
        methods.Method,
        lambda name, settings: methods.get(name, **settings),
        _method_reference,
        methods.METHODS.find,
        methods.METHODS.names,
    ),
    "learner": _Kind(
        LearnerSpec, _learner, lambda found: LEARNERS.reference(type(found)), LEARNERS.find, LEARNERS.names
    ),
    "sink": _Kind(Sink, _sink, lambda found: SINKS.reference(type(found)), SINKS.find, SINKS.names),
}


def part(kind: str, value: object) -> Part:
    """A part from whatever names it: a name, a mapping with `name` and settings, a part, or an object.

    Args:
        kind: "stream", "data", "net", "method", "learner" or "sink".
        value: what was given.

    Raises:
        IsoplastError: it is something else, or its name or a setting is unknown or out of range.
    """
    known = _KINDS[kind]
    if isinstance(value, known.base):
        return Part(known.reference(value), _settings(value))
    if isinstance(value, str):
        name, given = value, {}
    elif isinstance(value, Part):
        name, given = value.name, dict(value.settings)
    elif isinstance(value, Mapping) and isinstance(value.get("name"), str):
        name, given = value["name"], {str(key): item for key, item in value.items() if key != "name"}
    elif isinstance(value, data.Dataset):
        raise IsoplastError("data is a Dataset, which no other process has: give save_data(path, dataset)")
    else:
        raise IsoplastError(f"{kind} is {value!r}: give a name, or a mapping with 'name' and its settings")
    return Part(name, _settings(known.make(name, given)))


def make(kind: str, found: Part) -> Any:
    """The object that a part describes; of a method a fresh one, which belongs to one run."""
    return _KINDS[kind].make(found.name, dict(found.settings))


def setting_takes_list(kind: str, name: str, setting: str) -> bool:
    """Whether a setting of a part is a list itself, such as `betas`: a list of it is no sweep."""
    if kind not in _KINDS:
        return False
    names = name.split("+") if kind == "method" else [name]
    return any(takes_list(_KINDS[kind].find(one), setting.rpartition(".")[2]) for one in names)


def setting_names(kind: str, name: str) -> list[str]:
    """All settings of a part, those of a combination's parts each with the part's name in front."""
    known: list[Any] = [_KINDS[kind].find(one) for one in (name.split("+") if kind == "method" else [name])]
    fields = [(one, field.name) for one in known for field in dataclasses.fields(one) if field.init]
    return [field if len(known) == 1 else f"{one.name}.{field}" for one, field in fields]


def foreign_parts(settings: Mapping[str, Any]) -> list[str]:
    """Names of the parts of a written specification that are not ours: making them would run others' code."""
    found = []
    for kind, known in _KINDS.items():
        value = settings.get(kind)
        name = value.get("name") if isinstance(value, Mapping) else value
        if name is not None:
            parts = str(name).split("+") if kind == "method" else [str(name)]
            found += [one for one in parts if one not in known.names()]
    return found


def _settings(found: Any) -> Settings:
    own = getattr(found, "settings", None)
    settings: Settings = own() if callable(own) else settings_of(found)
    return settings
