"""From the nested values of a study to its runs: streams x methods x swept values x seeds."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from isoplast._core.errors import IsoplastError
from isoplast.study._parts import setting_takes_list
from isoplast.study._places import KeyPath, Place, PlacedError, placed, value_at
from isoplast.study._spec import PARTS, SHORTHANDS, Run, as_mapping, expanded

_Where: TypeAlias = Callable[[KeyPath], Place]
_RUN_LISTS = ("instruments",)  # settings of a run that are lists themselves


def expand(
    document: Mapping[str, Any], changes: Mapping[str, Any], folders: tuple[str, ...], where: _Where
) -> list[Run]:
    """The runs that a study describes.

    Args:
        document: the keys of a study.
        changes: settings of all runs that replace what the document says.
        folders: where modules are found that parts are named from.
        where: the place of a path in the document.

    Raises:
        PlacedError: for anything unknown, out of range or there twice.
    """
    shared = _settings("run", document.get("run", {}), where(("run",)))
    streams, chosen = _entries(document, "stream", where), _entries(document, "method", where)
    seeds = _list(document, "seeds", [0], where)
    _refuse_for_all(_Layers(changes, {("run",): shared, **streams, **chosen}, where))
    placed(changes, expanded, lambda path: Place(path, overrides=True))
    labels: dict[tuple[KeyPath, str], KeyPath] = {}
    arms: list[tuple[dict[str, Any], list[Place]]] = []
    for stream, method in itertools.product(streams, chosen):
        layers = _Layers(changes, {method: chosen[method], stream: streams[stream], ("run",): shared}, where)
        for settings, places in _arms(layers):
            label = settings["label"]
            if labels.setdefault((stream, label), method) != method:
                wrong = f"two methods are labelled {label!r}: give each its own 'label'"
                raise PlacedError(wrong, where(method))
            if folders:
                settings["path"] = folders
            arms.append((settings, [where(method), where(stream), *places]))
    return _seeded(arms, seeds, where)


def _arms(layers: _Layers) -> Iterator[tuple[dict[str, Any], list[Place]]]:
    """The settings of runs, one for each combination of swept values; with the places of those."""
    settings: dict[str, Any] = functools.reduce(_merge, [*layers.entries.values()][::-1], {})
    merged = placed(settings, lambda given: _overridden(given, layers.changes), layers.place)
    axes = placed(merged, lambda given: list(_axes(given)), layers.place)
    for numbers in itertools.product(*(range(len(values)) for _, values in axes)):
        arm = copy.deepcopy(merged)
        chosen = {path: number for (path, _), number in zip(axes, numbers, strict=True)}
        for path, values in axes:
            value_at(arm, path[:-1])[path[-1]] = values[chosen[path]]
        run = placed(arm, Run.from_mapping, functools.partial(layers.place, chosen=chosen))
        swept = [f"{path[-1]} {_short(values[chosen[path]])}" for path, values in axes if len(values) > 1]
        arm["label"] = ", ".join([run.label, *swept])
        yield arm, [layers.place((*path, number)) for path, number in chosen.items()]


def equal_runs(runs: Sequence[Run]) -> Iterator[tuple[int, int]]:
    """The places of runs that are the same, each with that of the first of them."""
    first: dict[Run, int] = {}
    for place, run in enumerate(runs):
        if first.setdefault(run, place) != place:
            yield first[run], place


def same_run(other: Run, run: Run) -> IsoplastError:
    """The error for two runs that are equal."""
    return IsoplastError(
        f"{other.label!r} and {run.label!r} with seed {run.seed} are the same run: remove one"
    )


@dataclasses.dataclass(frozen=True)
class _Layers:
    """The settings that a run is made of.

    Args:
        changes: those that win over all that the document says.
        entries: those of the document by their path in it, the ones that win first.
        where: the place of a path in the document.
    """

    changes: Mapping[str, Any]
    entries: Mapping[KeyPath, Mapping[str, Any]]
    where: _Where

    def place(self, path: KeyPath, chosen: Mapping[KeyPath, int] | None = None) -> Place:
        """The place that a path in the merged settings comes from.

        Args:
            path: keys.
            chosen: the lists in the merged settings in whose place one of their values stands, and which.
        """
        for axis, number in (chosen or {}).items():
            if path[: len(axis)] == axis:
                path = (*axis, number, *path[len(axis) :])
        for length in range(len(path), 0, -1):
            spellings = list(_spellings(path[:length]))
            for one in spellings:
                if _holds(self.changes, one):
                    return Place(one, overrides=True)
            for entry, settings in self.entries.items():
                for one in spellings:
                    if _holds(settings, one):
                        return self.where((*entry, *one))
        return self.where(next((entry for entry, settings in self.entries.items() if settings), ()))


def _spellings(path: KeyPath) -> Iterator[KeyPath]:
    """The paths under which `expanded` takes a setting."""
    yield path
    if path[:2] == ("stream", "data"):
        yield path[1:]
    if path[0] == "data":
        yield ("stream", *path)
    if len(path) == 1 and path[0] in SHORTHANDS:
        yield SHORTHANDS[path[0]], path[0]
    if len(path) == 2 and SHORTHANDS.get(path[1]) == path[0]:
        yield path[1:]


def _holds(settings: Any, path: KeyPath) -> bool:
    try:
        value_at(settings, path)
    except (LookupError, TypeError):
        return False
    return True


def _seeded(
    arms: Sequence[tuple[dict[str, Any], list[Place]]], seeds: Sequence[Any], where: _Where
) -> list[Run]:
    """A run of every arm for every seed; what an arm was made from is beside it."""
    runs: list[Run] = []
    places: list[list[Place]] = []
    for number, seed in enumerate(seeds):
        place = where(("seeds", number))
        for one, own in arms:
            try:
                runs.append(Run.from_mapping({**one, "seed": seed}))
            except IsoplastError as error:
                raise PlacedError(str(error), place) from None
            places.append([place, *own])
    for other, same in equal_runs(runs):
        different = next(one for one in places[same] if one not in places[other])
        raise PlacedError(str(same_run(runs[other], runs[same])), different)
    return runs


def _refuse_for_all(layers: _Layers) -> None:
    """Refuse what some of the runs may not have for themselves."""
    for key, wanted in (("seed", "list all seeds under 'seeds'"), ("path", "give it beside 'run'")):
        if key in layers.changes or any(key in settings for settings in layers.entries.values()):
            raise PlacedError(f"{key} is set for some of the runs: {wanted}", layers.place((key,)))


def _overridden(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run with changes that win over all that a document says."""
    if not changes:
        return dict(settings)
    base, wanted = expanded(settings), expanded(changes)
    for kind in PARTS:
        if isinstance(wanted.get(kind), dict) and kind in base:
            base[kind] = as_mapping(kind, base[kind])
    return _merge(base, wanted)


def _settings(key: str, value: object, place: Place) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PlacedError(f"{key} holds {value!r}: it must be a mapping of settings", place)
    return value


def _entries(document: Mapping[str, Any], kind: str, where: _Where) -> dict[KeyPath, Mapping[str, Any]]:
    """The entries of `streams` or `methods` by their path: each is settings, or just a name."""
    key = f"{kind}s"
    entries = {(key, number): entry for number, entry in enumerate(_list(document, key, [{}], where))}
    return {
        path: {kind: entry} if isinstance(entry, str) else _settings(key, entry, where(path))
        for path, entry in entries.items()
    }


def _list(document: Mapping[str, Any], key: str, otherwise: Sequence[Any], where: _Where) -> Sequence[Any]:
    value = document.get(key, otherwise)
    if not isinstance(value, list) or not value:
        raise PlacedError(f"{key} is {value!r}: it must be a list that is not empty", where((key,)))
    return value


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with changes: nested ones are merged, unless they are about another network or method."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        same = (
            isinstance(old, dict) and isinstance(value, dict) and value.get("name") in (None, old.get("name"))
        )
        merged[key] = _merge(cast(Mapping[str, Any], old), value) if same else value
    return merged


def _axes(settings: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, list[Any]]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _axes(value, (*path, key))
        elif isinstance(value, list):
            if not path and key in _RUN_LISTS and not any(isinstance(one, list) for one in value):
                continue
            if not value:
                where = ".".join(map(str, (*path, key)))
                raise IsoplastError(f"{where} is an empty list: give the values to sweep")
            if isinstance(value[0], list) or not (path and _takes_list(path[-1], settings.get("name"), key)):
                yield (*path, key), value


def _takes_list(kind: str, name: Any, key: str) -> bool:
    """Whether a setting of a part is a list itself, such as `betas`."""
    if isinstance(name, list):  # swept
        return any(_takes_list(kind, one, key) for one in name)
    return isinstance(name, str) and setting_takes_list(kind, name, key)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
