"""Tuning: one space, budget and set of seeds for every method, on a part of the life; a frozen study."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.files import write_whole
from isoplast.statistics import method_scores
from isoplast.study._metrics import metric
from isoplast.study._run_study import run_study
from isoplast.study._spec import Run, whole
from isoplast.study._study import Study
from isoplast.study._yaml import parse_yaml
from isoplast.study.executors._base import Display, Executor, Outcome
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._frame import load_runs, load_study
from isoplast.study.store._index import read_index

if TYPE_CHECKING:
    import polars as pl

Values = dict[str, Any]
_SAMPLERS = ("grid", "random", "tpe")
_BOOTSTRAP = 2000
_NEAR = 0.05  # a setting that wins in at least this share of the resamples is a near-winner
_MOST = 10_000  # trials of a method


@dataclasses.dataclass(frozen=True)
class Axis:
    """The values of a setting that are tried.

    Args:
        name: of the setting: `lr`, or a setting of the method ("isometry", "adamo.isometry").
        values: those of a grid, at least one; () for a range.
        low, high: ends of a range, low < high.
        log: whether the range is searched on a log scale; then low > 0.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = math.nan
    high: float = math.nan
    log: bool = False

    def at_edge(self, value: Any) -> str:
        """At which edge of the axis a value lies, in words; "" if at none.

        Of a range the outer twentieths are edges.
        """
        if self.values:
            numbers = [one for one in self.values if isinstance(one, int | float)]
            if len(numbers) < 2 or len(numbers) < len(self.values):
                return ""
            return "lowest" if value == min(numbers) else "highest" if value == max(numbers) else ""
        scale: Callable[[float], float] = math.log if self.log else float
        place = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return "lowest" if place < 0.05 else "highest" if place > 0.95 else ""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is tuned, how, and the study that is evaluated afterwards.

    Args:
        study: the evaluation: every method with the settings that stay as they are.
        space: the axes; a method is tuned over those that it has.
        seeds: of the trials, none of them a seed of the evaluation.
        fraction: share of the tasks that a trial lives, in (0, 1].
        trials: for each method, >= 1; None: its whole grid.
        sampler: "grid", "random" or "tpe" (Optuna's samplers of these names).
        last: a trial counts by the mean score of so many last tasks, >= 1; None: of all its tasks.

    Raises:
        IsoplastError: the space is empty or inverted, seeds are shared with the evaluation, a method has no
            axis, or a number is out of range.
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
            said = f"{shared[0]} is a seed of the evaluation, too" if shared else "it is empty"
            raise IsoplastError(f"tune.seeds: {said}: give seeds for tuning alone, such as [100, 101]")
        if not 0 < self.fraction <= 1:
            raise IsoplastError(f"tune.fraction is {self.fraction}: it must be above 0 and at most 1")
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
        for method, run in self.methods.items():
            if not self._axes(run):
                names = ", ".join(axis.name for axis in self.space)
                raise IsoplastError(f"method {method!r} has none of the settings of tune.space ({names})")
            size = math.prod(len(axis.values) for axis in self._axes(run))
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
            raise IsoplastError(f"{source}: a file for tuning is a study with a mapping 'tune'")
        given = document.pop("tune")
        study = Study.parse(yaml.safe_dump(document, sort_keys=False), source, folder=folder)
        try:
            known = ("space", "seeds", "fraction", "trials", "sampler", "last")
            for key in given:
                if key not in known:
                    raise unknown("key of tune", str(key), known)
            space = given.get("space")
            if not isinstance(space, dict):
                raise IsoplastError(f"tune.space is {space!r}: it must be a mapping of settings to values")
            axes = tuple(_axis(str(name), values) for name, values in space.items())
            seeds = given.get("seeds", [])
            if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
                raise IsoplastError(f"tune.seeds is {seeds!r}: it must be a list of whole numbers")
            rest = {key: given[key] for key in known[2:] if key in given}
            if not isinstance(rest.get("fraction", 1.0), int | float):
                raise IsoplastError(f"tune.fraction is {rest['fraction']!r}: it must be a number")
            return cls(study, axes, tuple(seeds), **rest)
        except IsoplastError as error:
            raise IsoplastError(f"{source}: {error}") from None

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

    @property
    def methods(self) -> dict[str, Run]:
        """A run of every method, by its label, in the order of the study."""
        found: dict[str, Run] = {}
        for run in self.study.runs:
            found.setdefault(run.label, run)
        return found

    @property
    def tasks(self) -> int:
        """Tasks of a trial: the share of those of the evaluation, rounded up."""
        return math.ceil(self.fraction * max(run.tasks for run in self.study.runs) - 1e-9)

    def _axes(self, run: Run) -> list[Axis]:
        known = {"lr", *(name for name, _ in run.method.settings)}
        return [axis for axis in self.space if axis.name in known]

    def settings(self, method: str) -> list[Values]:
        """The settings of a method that are tried; [] where each depends on the results before.

        Of a grid that has more than `trials` points as many are drawn without replacement.
        """
        axes = self._axes(self.methods[method])
        if self.sampler == "tpe":
            return []
        if self.sampler == "random":
            return _different(self._search(method), self.trials or 1)
        names = [axis.name for axis in axes]
        size = math.prod(len(axis.values) for axis in axes)
        wanted = np.arange(size)
        if self.trials is not None and self.trials < size:
            draw = np.random.default_rng(_seed(self.methods[method]))
            wanted = np.sort(draw.permutation(size)[: self.trials])
        shape = [len(axis.values) for axis in axes]
        places = (np.unravel_index(int(place), shape) for place in wanted)
        return [
            dict(zip(names, (axis.values[at] for axis, at in zip(axes, one, strict=True)), strict=True))
            for one in places
        ]

    def _search(self, method: str) -> _Search:
        run = self.methods[method]
        return _Search(self._axes(run), self.sampler, _seed(run))

    def run(self, method: str, values: Values, seed: int) -> Run:
        """One run of a trial."""
        base = self.methods[method]
        changes = {"label": self.label(method, values), "seed": seed, "instruments": False}
        return _with(base, values, tasks=min(self.tasks, base.tasks), **changes)

    @staticmethod
    def label(method: str, values: Values) -> str:
        """What a trial is called."""
        return f"{method}, {_words(values)}"


class _Search:
    """Optuna's sampler for one method. Nothing of it is stored: asked again from the start, and told the same
    results in the same order, it gives the same settings, so that a search goes on after any interruption."""

    def __init__(self, axes: Sequence[Axis], sampler: str, seed: int) -> None:
        optuna = _optuna()
        kinds = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        self.axes = axes
        self._study = optuna.create_study(sampler=kinds[sampler](seed=seed), direction="maximize")
        self._open: list[Any] = []

    def ask(self) -> Values:
        """The next setting."""
        trial = self._study.ask()
        self._open.append(trial)
        found: Values = {}
        for axis in self.axes:
            if axis.values:
                found[axis.name] = axis.values[trial.suggest_int(axis.name, 0, len(axis.values) - 1)]
            else:
                found[axis.name] = trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
        return found

    def tell(self, score: float) -> None:
        """The result of the oldest setting whose result is not known yet; more is better."""
        self._study.tell(self._open.pop(0), score)


def _different(search: _Search, wanted: int) -> list[Values]:
    """So many different settings of a search that learns nothing from results, or all there are."""
    found: dict[tuple[Any, ...], Values] = {}
    for _ in range(100 * wanted):  # random values of a list repeat
        values = search.ask()
        found.setdefault(tuple(values.values()), values)
        search.tell(0.0)
        if len(found) == wanted:
            break
    return list(found.values())


def _seed(run: Run) -> int:
    return zlib.crc32(run.method.name.encode())


def sweep(
    tuning: Tuning,
    out: Path,
    *,
    jobs: int | None = None,
    threads: int = 1,
    display: Display | None = None,
    executor: str | Executor = "local",
) -> list[Outcome]:
    """Do the trials that are not done yet, each of them as often as there are seeds.

    They are a study of their own, with all that studies have: a search goes on after any interruption.

    Args:
        tuning: what is tuned.
        out: directory of the results.
        jobs, threads, display, executor: see `run_study`.
    """
    given: dict[str, Any] = {"jobs": jobs, "threads": threads, "display": display, "executor": executor}
    if tuning.sampler != "tpe":
        trials = {method: tuning.settings(method) for method in tuning.methods}
        return run_study(_trials(tuning, trials), out, **given)
    assert tuning.trials is not None
    searches = {method: tuning._search(method) for method in tuning.methods}
    asked: dict[str, list[Values]] = {method: [] for method in searches}
    outcomes: list[Outcome] = []
    for _ in range(tuning.trials):
        for method, search in searches.items():
            asked[method].append(search.ask())
        outcomes = run_study(_trials(tuning, asked), out, **given)
        scores = _trial_scores(tuning, out)
        for method, search in searches.items():
            found = scores.get(tuning.label(method, asked[method][-1]))
            search.tell(-math.inf if found is None else tuning_sign(out) * float(found.mean()))
    return outcomes


def _trials(tuning: Tuning, trials: Mapping[str, Sequence[Values]]) -> Study:
    distinct = {
        tuning.run(method, values, seed): None
        for seed in tuning.seeds
        for method, asked in trials.items()
        for values in asked
    }
    return Study(
        f"{tuning.study.name}-sweep", list(distinct), f"Trials of the tuning of {tuning.study.name}."
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen for a method.

    Args:
        method: its label.
        values: the chosen settings.
        score: mean over the seeds of the trial.
        share: how often it wins when seeds and tasks are resampled, in [0, 1].
        near: other settings that win in at least a twentieth of the resamples, with how often.
        edges: settings whose chosen value lies at an edge of what was tried, and which edge.
        trials: how many were compared.
        failed: how many of those had a failed run.
    """

    method: str
    values: Values
    score: float
    share: float
    near: tuple[tuple[Values, float], ...]
    edges: tuple[tuple[str, str], ...]
    trials: int
    failed: int


def select(tuning: Tuning, out: Path) -> list[Choice]:
    r"""The best trial of every method.

    The score of a trial is the mean over seeds of the mean of its tasks (of the `last` ones); failed runs
    count as chance. How sure the choice is: seeds and tasks are drawn anew with replacement, the same ones
    for all trials of a method, and the share of :math:`B = 2000` draws in which a trial is the best counted.

    Args:
        tuning: what was tuned.
        out: directory of the sweep.

    Raises:
        IsoplastError: trials are not done yet.

    Reference:
        Efron and Tibshirani, "An introduction to the bootstrap", 1993.
    """
    runs = load_runs(out)
    states = dict(runs.select("run_id", "state").iter_rows())
    open_ = [run for run, state in states.items() if state not in ("done", "failed")]
    if open_:
        raise IsoplastError(
            f"{len(open_)} of {len(states)} trials in {out} are not done: run the sweep first"
        )
    scores = _trial_scores(tuning, out)
    failed = set(runs.filter(runs["state"] == "failed")["label"].to_list())
    sign = tuning_sign(out)
    settings = _settings_of_trials(tuning, out)
    return [_choice(tuning, method, settings[method], scores, failed, sign) for method in tuning.methods]


def _settings_of_trials(tuning: Tuning, out: Path) -> dict[str, dict[str, Values]]:
    """The settings of every trial by its label, by method."""
    index = read_index(out)
    specs = [RunDirectory(out / run).read_settings() for run in (index.runs if index else ())]
    found: dict[str, dict[str, Values]] = {method: {} for method in tuning.methods}
    for method, run in tuning.methods.items():
        names = [axis.name for axis in tuning._axes(run)]
        for spec in specs:
            settings = {**spec["method"], "lr": spec["lr"]}
            values = {name: settings.get(name) for name in names}
            if spec["label"] == tuning.label(method, values):
                found[method][spec["label"]] = values
    return found


def _choice(
    tuning: Tuning,
    method: str,
    settings: Mapping[str, Values],
    scores: Mapping[str, np.ndarray[Any, Any]],
    failed: set[str],
    sign: float,
) -> Choice:
    labels = [label for label in settings if label in scores]
    if not labels:
        raise IsoplastError(f"no trial of method {method!r} has a result: run the sweep first")
    values = sign * np.stack([scores[label] for label in labels])  # trials, seeds, tasks
    means = values.mean(axis=(1, 2))
    best = int(means.argmax())
    draw = np.random.default_rng(0)
    wins = np.zeros(len(labels))
    for _ in range(_BOOTSTRAP):
        seeds = draw.integers(values.shape[1], size=values.shape[1])
        tasks = draw.integers(values.shape[2], size=values.shape[2])
        wins[values[:, seeds][:, :, tasks].mean(axis=(1, 2)).argmax()] += 1 / _BOOTSTRAP
    near = [
        (settings[labels[place]], float(wins[place]))
        for place in np.argsort(-wins)
        if place != best and wins[place] >= _NEAR
    ]
    chosen = settings[labels[best]]
    axes = {axis.name: axis for axis in tuning.space}
    edges = [(name, edge) for name, value in chosen.items() if (edge := axes[name].at_edge(value))]
    return Choice(
        method,
        chosen,
        float(sign * means[best]),
        float(wins[best]),
        tuple(near),
        tuple(edges),
        len(labels),
        sum(label in failed for label in labels),
    )


def freeze(tuning: Tuning, choices: Sequence[Choice], path: Path) -> Study:
    """Write the study of the evaluation, with the chosen settings, as a file that runs.

    Its comments say what was tried, how sure each choice is, and where an optimum lies at an edge.

    Args:
        tuning: what was tuned.
        choices: as `select` returns them.
        path: the file; replaced if it is there.

    Returns:
        The study in the file.
    """
    chosen = {choice.method: choice.values for choice in choices}
    first = [run for run in tuning.study.runs if run.seed == tuning.study.runs[0].seed]
    methods = []
    for run in first:
        mapping = _with(run, chosen[run.label]).to_mapping()
        methods.append({key: value for key, value in mapping.items() if key not in ("seed", "path")})
    path_setting = {"path": list(first[0].path)} if first[0].path else {}
    document = {
        "name": path.stem,
        **({"about": tuning.study.about} if tuning.study.about else {}),
        **path_setting,
        **({"sinks": [sink.to_mapping() for sink in tuning.study.sinks]} if tuning.study.sinks else {}),
        "methods": methods,
        "seeds": list(dict.fromkeys(run.seed for run in tuning.study.runs)),
    }
    head = [
        f"Frozen: the settings of {tuning.study.name} that tuning chose.",
        f"Tuned on {tuning.tasks} of {max(run.tasks for run in tuning.study.runs)} tasks, seeds "
        f"{', '.join(map(str, tuning.seeds))}, sampler {tuning.sampler}; the best mean score of "
        + ("all tasks." if tuning.last is None else f"the last {tuning.last} tasks."),
        *(line for choice in choices for line in said(choice)),
    ]
    text = "".join(f"# {line}\n" for line in head) + yaml.safe_dump(document, sort_keys=False, width=100)
    frozen = Study.parse(text, str(path), folder=path.resolve().parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return frozen


def said(choice: Choice) -> list[str]:
    """A choice in words: what, how sure, what else may be as good, what lies at an edge."""
    lines = [
        f"{choice.method}: {_words(choice.values)} (score {choice.score:.4f}, best of {choice.trials} "
        f"trials in {choice.share:.0%} of resamples)"
    ]
    if choice.near:
        near = "; ".join(f"{_words(values)} ({share:.0%})" for values, share in choice.near)
        lines.append(f"  near-winners: {near}")
    lines += [f"  {name} is the {edge} value tried: widen the space" for name, edge in choice.edges]
    if choice.failed:
        lines.append(f"  {choice.failed} of its trials had failed runs, which count as chance")
    return lines


def tuning_sign(out: Path) -> float:
    """1 where more of the primary metric of a sweep is better, -1 where less is."""
    primary = load_study(out)["primary"].drop_nulls()[0]
    return -1.0 if metric(primary).higher_is_better is False else 1.0


def _trial_scores(tuning: Tuning, out: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The scores that count of every trial, shape (seeds, tasks), failures filled in."""
    frame: pl.DataFrame = load_study(out)
    higher = metric(frame["primary"].drop_nulls()[0]).higher_is_better is not False
    found = method_scores(frame, higher_is_better=higher, runs=load_runs(out))
    last = tuning.last or 0
    return {label: scores.values[:, -last:] for label, scores in found.items() if len(scores.seeds)}


def _with(run: Run, values: Values, **changes: Any) -> Run:
    """A run with other settings of its method, or another lr."""
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


def _axis(name: str, values: object) -> Axis:
    if isinstance(values, list) and values:
        if len({repr(value) for value in values}) < len(values):
            raise IsoplastError(f"tune.space.{name} holds a value twice: {values}")
        return Axis(name, tuple(values))
    if not isinstance(values, dict):
        raise IsoplastError(f"tune.space.{name} is {values!r}: give a list of values, or low and high")
    for key in values:
        if key not in ("low", "high", "log"):
            raise unknown(f"key of tune.space.{name}", str(key), ("low", "high", "log"))
    low, high, log = values.get("low"), values.get("high"), values.get("log", False)
    numbers = [one for one in (low, high) if isinstance(one, int | float) and not isinstance(one, bool)]
    if len(numbers) < 2 or not isinstance(log, bool):
        raise IsoplastError(f"tune.space.{name} is {values!r}: write low: 1e-3, high: 1e-1, log: true")
    if not numbers[0] < numbers[1] or (log and numbers[0] <= 0):
        raise IsoplastError(
            f"tune.space.{name} goes from {low} to {high}: low must be below high"
            + (", and above 0 on a log scale" if log else "")
        )
    return Axis(name, (), float(numbers[0]), float(numbers[1]), log)


def _words(values: Values) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise IsoplastError('tuning needs Optuna: pip install "isoplast[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
