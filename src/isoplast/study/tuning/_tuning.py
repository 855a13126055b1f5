"""What is tuned, how, and for which study."""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoplast._core.errors import IsoplastError, unknown
from isoplast.study._compare import by_problem
from isoplast.study._parts import setting_names
from isoplast.study._places import Place, PlacedError, named, placed
from isoplast.study._spec import Run, whole
from isoplast.study._study import Study
from isoplast.study._yaml import parse_yaml
from isoplast.study.tuning._search import Search
from isoplast.study.tuning._space import Axis, Values, in_words

_KEYS = ("space", "seeds", "fraction", "trials", "sampler", "last")
_SAMPLERS = ("grid", "random", "tpe")
_MOST = 10_000  # trials of a method


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is tuned, how, and the study that is evaluated afterwards.

    Where the study has several problems, every method is tuned on each of them by itself.

    Args:
        study: the evaluation: every method with the settings that stay as they are.
        space: the axes; a method is tuned over those that it has.
        seeds: of the trials, each once, none of them a seed of the evaluation.
        fraction: share of the tasks that a trial lives, in (0, 1].
        trials: for each method, >= 1, or all points of a grid that has fewer; None: its whole grid.
        sampler: "grid", "random" or "tpe" (Optuna's samplers of these names).
        last: a trial counts by the mean score of so many last tasks, >= 1 and at most its tasks; None: of all
            of them.

    Raises:
        IsoplastError: the space is empty or inverted, names a setting or holds a value that no method has,
            seeds are shared with the evaluation, a method has no axis, or a number is out of range.
    """

    study: Study
    space: tuple[Axis, ...]
    seeds: tuple[int, ...]
    fraction: float = 0.25
    trials: int | None = None
    sampler: str = "grid"
    last: int | None = None

    def __post_init__(self) -> None:
        if not self.space:
            raise IsoplastError(
                "tune.space is empty: name a setting and its values, such as lr: [1e-3, 3e-3]"
            )
        shared = sorted({*self.seeds} & {run.seed for run in self.study.runs})
        if shared or not self.seeds:
            wrong = f"{shared[0]} is a seed of the evaluation, too" if shared else "it is empty"
            raise IsoplastError(f"tune.seeds: {wrong}: give seeds for tuning alone, such as [100, 101]")
        for seed in self.seeds:
            whole("a seed of tune.seeds", seed, 0)
            if self.seeds.count(seed) > 1:
                raise IsoplastError(f"tune.seeds holds {seed} twice: give it once")
        number = isinstance(self.fraction, int | float) and not isinstance(self.fraction, bool)
        if not number or not 0 < self.fraction <= 1:
            raise IsoplastError(
                f"tune.fraction is {self.fraction!r}: it must be a number above 0 and at most 1"
            )
        if self.sampler not in _SAMPLERS:
            raise unknown("sampler of tune", str(self.sampler), _SAMPLERS)
        if self.sampler == "grid" and any(not axis.values for axis in self.space):
            raise IsoplastError(
                "tune.sampler is grid, and a range has no grid: list its values, or use random"
            )
        if self.trials is None and self.sampler != "grid":
            raise IsoplastError(f"tune.trials is missing: sampler {self.sampler} tries as many as you say")
        for name, value in (("trials", self.trials), ("last", self.last)):
            if value is not None:
                whole(f"tune.{name}", value, 1)
        for method, axes in self._axes.items():
            if self.last is not None and self.last > self.tasks(method):
                raise IsoplastError(
                    f"tune.last is {self.last}, and a trial of {method!r} has {self.tasks(method)} tasks: "
                    "make it smaller, or tune.fraction larger"
                )
            size = math.prod(len(axis.values) for axis in axes)
            if self.sampler == "grid" and (self.trials or size) > _MOST:
                raise IsoplastError(f"tune.space gives {method!r} more than {_MOST} trials: set tune.trials")

    @classmethod
    def parse(cls, text: str, source: str = "tuning", *, folder: Path | None = None) -> Tuning:
        """The tuning that a YAML document describes: a study with one more key, `tune`.

        Its keys: `space`, a mapping of settings to lists of values or to
        `{low: 1e-3, high: 1e-1, log: true}`; `seeds`, `fraction`, `trials`, `sampler`, `last` as
        the arguments of this class.

        Raises:
            IsoplastError: in one line, for anything unknown or out of range.
        """
        document = parse_yaml(text, source)
        if not isinstance(document, dict) or not isinstance(document.get("tune"), dict):
            with named(source, text):
                raise PlacedError("a file for tuning is a study with a mapping 'tune'", Place(("tune",)))
        tune = document.pop("tune")
        study = Study.from_document(document, source, text=text, folder=folder)
        study = dataclasses.replace(study, text="")  # `tune` is no key of a study

        def tuning(given: Mapping[str, Any]) -> Tuning:
            for key in given:
                if key not in _KEYS:
                    raise unknown("key of tune", str(key), _KEYS)
            space = given.get("space")
            if not isinstance(space, dict):
                raise IsoplastError(f"tune.space is {space!r}: it must be a mapping of settings to values")
            axes = tuple(Axis.parse(str(name), values) for name, values in space.items())
            seeds = given.get("seeds", [])
            if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
                raise IsoplastError(f"tune.seeds is {seeds!r}: it must be a list of whole numbers")
            rest = {key: given[key] for key in _KEYS[2:] if key in given}
            return cls(study, axes, tuple(seeds), **rest)

        with named(source, text):
            return placed(tune, tuning, lambda path: Place(("tune", *path)))

    @classmethod
    def load(cls, path: Path) -> Tuning:
        """The tuning in a file.

        Raises:
            IsoplastError: it cannot be read, or is none.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise IsoplastError(f"tuning {path} cannot be read: {reason}") from None
        return cls.parse(text, str(path), folder=path.resolve().parent)

    @functools.cached_property
    def methods(self) -> dict[str, Run]:
        """A run of every method on every problem by name, in the order of the study.

        The name is the method's label, and the problem's words after it where the study has several.
        """
        found: dict[str, Run] = {}
        for run in self.study.runs:
            found.setdefault(self.name(run), run)
        return found

    @functools.cached_property
    def _problems(self) -> dict[str, str]:
        """The problem of every run, in words; "" where the study has one."""
        found = by_problem({run.id: run.to_mapping() for run in self.study.runs})
        return {run: name if len(found) > 1 else "" for name, members in found.items() for run in members}

    def name(self, run: Run) -> str:
        """What a run of the study is tuned as: `methods` has these names."""
        problem = self._problems[run.id]
        return f"{run.label} on {problem}" if problem else run.label

    @property
    def problems(self) -> dict[str, list[str]]:
        """The names of what is tuned on each problem, by the problem's words."""
        found: dict[str, list[str]] = {}
        for name, run in self.methods.items():
            found.setdefault(self._problems[run.id], []).append(name)
        return found

    @property
    def adaptive(self) -> bool:
        """Whether what is tried depends on the results before."""
        return self.sampler == "tpe"

    def tasks(self, method: str) -> int:
        """Tasks of a trial: the share of those of the evaluation, rounded up."""
        return math.ceil(self.fraction * self.methods[method].tasks - 1e-9)

    def axes(self, method: str) -> list[Axis]:
        """Those axes of the space that a method has."""
        return self._axes[method]

    @functools.cached_property
    def _axes(self) -> dict[str, list[Axis]]:
        """The axes of every method, of which every value has been tried on it."""
        known = {
            method: {"lr", *(name for name, _ in run.method.settings)} for method, run in self.methods.items()
        }
        for axis in self.space:
            if not any(axis.name in own for own in known.values()):
                raise self._foreign(axis.name)
        found = {}
        for method, own in known.items():
            axes = [axis for axis in self.space if axis.name in own]
            if not axes:
                given = ", ".join(axis.name for axis in self.space)
                raise IsoplastError(f"method {method!r} has none of the settings of tune.space ({given})")
            try:
                found[method] = _checked(self.methods[method], axes)
            except IsoplastError as error:
                raise IsoplastError(f"tune.space does not suit {method!r}: {error}") from None
        return found

    def _foreign(self, name: str) -> IsoplastError:
        """The error for an axis that is no setting of any method, or one that none of them gives a value."""
        names = {name for run in self.methods.values() for name in setting_names("method", run.method.name)}
        if name not in names:
            return unknown("setting in tune.space", name, {"lr", *names})
        return IsoplastError(f"tune.space.{name}: no method sets it: give it a value in 'methods'")

    def settings(self, method: str) -> list[Values]:
        """The settings of a method that are tried; [] where each depends on the results before.

        Of a grid that has more than `trials` points as many are drawn without replacement.
        """
        axes = self.axes(method)
        if self.adaptive:
            return []
        if self.sampler == "random":
            return self.search(method).different(self.trials or 1)
        names = [axis.name for axis in axes]
        size = math.prod(len(axis.values) for axis in axes)
        wanted = np.arange(size)
        if self.trials is not None and self.trials < size:
            draw = np.random.default_rng(self._seed(method))
            wanted = np.sort(draw.permutation(size)[: self.trials])
        shape = [len(axis.values) for axis in axes]
        places = (np.unravel_index(int(place), shape) for place in wanted)
        return [
            dict(zip(names, (axis.values[at] for axis, at in zip(axes, one, strict=True)), strict=True))
            for one in places
        ]

    def search(self, method: str) -> Search:
        """The search for the settings of a method, at its beginning."""
        return Search(self.axes(method), self.sampler, self._seed(method))

    def _seed(self, method: str) -> int:
        return zlib.crc32(self.methods[method].method.name.encode())

    def run(self, method: str, values: Values, seed: int) -> Run:
        """One run of a trial."""
        base = self.methods[method]
        changes = {"label": self.label(method, values), "seed": seed, "instruments": False}
        return with_values(base, values, tasks=self.tasks(method), **changes)

    @staticmethod
    def label(method: str, values: Values) -> str:
        """What a trial is called."""
        return f"{method}, {in_words(values)}"


def _checked(run: Run, axes: list[Axis]) -> list[Axis]:
    """The axes, each with what its range is of; a run is made with every value that the file holds."""
    first = {axis.name: axis.written[0] for axis in axes}
    found = []
    for axis in axes:
        made = [with_values(run, {**first, axis.name: value}) for value in axis.written]
        if len(set(made)) < len(made):
            raise IsoplastError(f"{axis.name} holds a value twice: {list(axis.written)}")
        kinds = {type({**dict(one.method.settings), "lr": one.lr}.get(axis.name)) for one in made}
        found.append(dataclasses.replace(axis, whole=not axis.values and kinds == {int}))
    return found


def with_values(run: Run, values: Values, **changes: Any) -> Run:
    """A run with other settings of its method, or another lr.

    Args:
        run: the run.
        values: settings of its method by name; `lr` is the learning rate.
        changes: of other settings of the run; `tasks` are those of its stream.
    """
    mapping = run.to_mapping()
    for name, value in values.items():
        if name == "lr":
            mapping["lr"] = value
        else:
            mapping["method"] = {**mapping["method"], name: value}
    tasks = changes.pop("tasks", None)
    if tasks is not None:
        mapping["stream"] = {**mapping["stream"], "tasks": tasks}
    return Run.from_mapping({**mapping, **changes})
