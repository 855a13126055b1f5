"""A study: problems x methods x seeds x settings, as YAML or as an object."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.files import write_whole
from isoplast._core.text import shown
from isoplast.study import _yaml
from isoplast.study._parts import make, setting_takes_list
from isoplast.study._spec import PARTS, Run, as_mapping, expanded
from isoplast.study.run._execute import module_path
from isoplast.study.sinks._sending import as_parts
from isoplast.study.store import _files
from isoplast.study.store._index import read_index

_KeyPath: TypeAlias = tuple[str, ...]
_KEYS = ("name", "about", "run", "streams", "methods", "seeds", "path", "sinks")
_RUN_LISTS = ("instruments",)  # settings of a run that are lists themselves


@dataclasses.dataclass(frozen=True)
class Study:
    """Runs that belong together.

    Args:
        name: names the directory of the results.
        runs: all of them, the first seed of every setting before the second.
        about: what it is for.
        text: the YAML document it was read from; "" without one.
        sinks: where the numbers go besides the directory of the results: names of `isoplast.study.SINKS`,
            mappings with `name` and settings, or objects.

    Raises:
        IsoplastError: two runs are the same, the name cannot be that of a directory, or a sink is unknown.

    Example:
        >>> study = Study("two", [Run(method="adam"), Run(method="adamo")])
        >>> [run.label for run in study.runs]
        ['Adam', 'AdamO']
    """

    name: str
    runs: Sequence[Run]
    about: str = ""
    text: str = ""
    sinks: Sequence[Any] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        object.__setattr__(self, "sinks", as_parts(self.sinks))
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]*", self.name):
            raise IsoplastError(
                f"name is {self.name!r}: use letters, digits, '_', '-' and '.', no '-' or '.' in front"
            )
        if not isinstance(self.about, str):
            raise IsoplastError(f"about is {shown(self.about)}: it must be text, put it between quotes")
        first: dict[Run, Run] = {}
        for run in self.runs:
            other = first.setdefault(run, run)
            if other is not run:
                raise IsoplastError(
                    f"{other.label!r} and {run.label!r} with seed {run.seed} are the same run: remove one"
                )

    @property
    def sink_names(self) -> list[str]:
        """The names of its sinks, as a run's status writes them."""
        return [make("sink", one).name for one in self.sinks]

    @classmethod
    def parse(
        cls,
        text: str,
        source: str = "study",
        *,
        folder: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Study:
        """The study that a YAML document describes.

        The keys: `name`; `about`; `run`, the settings that all runs share; `streams` and `methods`, lists of
        settings that replace some of those, every entry of the one with every entry of the other (an entry
        may be just the name of a stream or a method); `seeds`; `path`, a folder or a list of folders in which
        modules are found that parts are named from ("package.module:Name"); `sinks`, a list of where the
        numbers go, too. A list of values where one is expected is swept: one run for each. What was swept is
        appended to the label. A setting that is a list itself, such as `betas`, is swept by a list of lists.

        Args:
            text: the document.
            source: where it comes from, for error messages.
            folder: what relative folders of `path` are relative to.
            overrides: keys of a study, or settings of all runs, that replace what the document says.

        Raises:
            IsoplastError: in one line, for anything unknown, out of range or there twice.

        Example:
            >>> study = Study.parse("{name: two, methods: [adam, adamo], seeds: [0, 1, 2]}")
            >>> len(study.runs), study.runs[1].label
            (6, 'AdamO')
        """
        document = _yaml.parse_yaml(text, source)
        given = text + _comment(overrides)
        return cls.from_document(document, source, text=given, folder=folder, overrides=overrides)

    @classmethod
    def from_document(
        cls,
        document: object,
        source: str = "study",
        *,
        text: str = "",
        folder: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Study:
        """The study that nested values describe, as `parse_yaml` gives them.

        Args:
            document: the values.
            text: the document they were read from; "" without one.
            source, folder, overrides: see `parse`.

        Raises:
            IsoplastError: as `parse`.

        Example:
            >>> Study.from_document({"name": "one", "methods": ["adam"]}).runs[0].label
            'Adam'
        """
        try:
            if not isinstance(document, dict):
                raise IsoplastError(f"a study is a mapping with the keys {', '.join(_KEYS)}")
            if "tune" in document:
                raise IsoplastError("it holds 'tune', as a file for tuning does: give it to isoplast tune")
            for key in document:
                if key not in _KEYS:
                    raise unknown("key of a study", str(key), _KEYS)
            changes = dict(overrides or {})
            values = document | {key: changes.pop(key) for key in _KEYS if key in changes and key != "run"}
            path = _folders(values.get("path", []), folder)
            name, about = values.get("name"), values.get("about", "")
            with module_path(path):
                runs, sinks = _runs(values, changes, path), values.get("sinks", ())
                return cls(cast(str, name), runs, cast(str, about), text, sinks)
        except IsoplastError as error:
            raise IsoplastError(f"{source}: {error}") from None

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Study:
        """The study in a file.

        Args:
            path: the YAML file.
            overrides: see `parse`.

        Raises:
            IsoplastError: it cannot be read, or is no study.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise IsoplastError(f"study {path} cannot be read: {reason}") from None
        return cls.parse(text, str(path), folder=path.resolve().parent, overrides=overrides)

    def check_directory(self, directory: Path) -> None:
        """Raise IsoplastError if a directory holds the results of another study."""
        found = read_index(directory)
        if found is not None and found.name != self.name:
            raise IsoplastError(
                f"{directory} holds the results of study {found.name!r}: choose another --out"
            )

    def describe(self, directory: Path) -> None:
        """Write index.json (the runs in their order) and study.yaml into the directory of the results.

        The caller owns the directory.

        Raises:
            IsoplastError: the directory holds the results of another study.
        """
        self.check_directory(directory)
        runs = [{"id": run.id, "label": run.label} for run in self.runs]
        contents = {"name": self.name, "about": self.about, "runs": runs}
        documents = {"index.json": json.dumps(contents, indent=1)}
        if self.text:
            documents["study.yaml"] = self.text
        for name, text in documents.items():
            _files.drop_aside(directory / name)
            write_whole(directory / name, text.encode())


def builtin_studies() -> dict[str, Path]:
    """The ready-made studies by name."""
    return _builtin("studies")


def builtin_tunings() -> dict[str, Path]:
    """The ready-made files for tuning by name."""
    return _builtin("studies/tuning")


def find_study(name: str) -> Path:
    """The file of a study, given its path or the name of a ready-made one.

    The path of a ready-made study in a checkout, such as studies/demo.yaml, finds it in an installed package.

    Raises:
        IsoplastError: there is neither.
    """
    return _found(name, "studies", "study", "ready-made studies")


def find_tuning(name: str) -> Path:
    """The file for tuning of a path or a name, as `find_study` finds a study.

    Raises:
        IsoplastError: there is neither.
    """
    return _found(name, "studies/tuning", "file for tuning", "ready-made ones")


def _builtin(folder: str) -> dict[str, Path]:
    """The ready-made files by name, of a folder as a checkout has it."""
    packaged = Path(__file__).parent / "builtin"
    checkout = Path(__file__).parents[3] / "studies"  # an editable install reads them where they are written
    root = packaged if packaged.is_dir() else checkout
    below = root / Path(folder).relative_to("studies")
    return {path.stem: path for path in sorted(below.glob("*.yaml"))}


def _found(name: str, folder: str, kind: str, those: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    known = _builtin(folder)
    if name in known:
        return known[name]
    if path.parent == Path(folder) and path.suffix == ".yaml" and path.stem in known:
        return known[path.stem]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise IsoplastError(f"there is no file {name}; {those}: {', '.join(known)}")
    raise unknown(kind, name, known)


def _runs(document: Mapping[str, Any], changes: Mapping[str, Any], path: tuple[str, ...]) -> list[Run]:
    shared = _settings("run", document.get("run", {}))
    streams = [_entry("stream", entry) for entry in _list(document, "streams", [{}])]
    chosen = [_entry("method", entry) for entry in _list(document, "methods", [{}])]
    seeds = _list(document, "seeds", [0])
    for settings in (shared, *streams, *chosen, changes):
        for key, where in (("seed", "list all seeds under 'seeds'"), ("path", "give it beside 'run'")):
            if key in settings:
                raise IsoplastError(f"{key} is set for some of the runs: {where}")
    labels: dict[tuple[int, str], int] = {}
    found: list[Mapping[str, Any]] = []
    for (place, stream), (number, method) in itertools.product(enumerate(streams), enumerate(chosen)):
        merged = _overridden(_merge(_merge(shared, stream), method), changes)
        for one, swept in _sweep(merged):
            values = [f"{key} {_short(value)}" for key, value in swept]
            label = ", ".join([Run.from_mapping(one).label, *values])
            if labels.setdefault((place, label), number) != number:
                raise IsoplastError(f"two methods are labelled {label!r}: give each its own 'label'")
            found.append({**one, "label": label, **({"path": path} if path else {})})
    return [Run.from_mapping({**one, "seed": seed}) for seed in seeds for one in found]


def _overridden(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run with changes that win over all that a document says."""
    if not changes:
        return dict(settings)
    base, wanted = expanded(settings), expanded(changes)
    for kind in PARTS:
        if isinstance(wanted.get(kind), dict) and kind in base:
            base[kind] = as_mapping(kind, base[kind])
    return _merge(base, wanted)


def _comment(overrides: Mapping[str, Any] | None) -> str:
    return f"\n# run with {json.dumps(overrides, default=str)}\n" if overrides else ""


def _folders(value: object, folder: Path | None) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise IsoplastError(f"path is {value!r}: give a folder, or a list of folders")
    return tuple(str(((folder or Path.cwd()) / one).resolve()) for one in given)


def _settings(key: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise IsoplastError(f"{key} holds {value!r}: it must be a mapping of settings")
    return value


def _entry(kind: str, entry: object) -> Mapping[str, Any]:
    """An entry of `streams` or `methods`: settings, or just a name."""
    return {kind: entry} if isinstance(entry, str) else _settings(f"{kind}s", entry)


def _list(document: Mapping[str, Any], key: str, otherwise: Sequence[Any]) -> Sequence[Any]:
    value = document.get(key, otherwise)
    if not isinstance(value, list) or not value:
        raise IsoplastError(f"{key} is {value!r}: it must be a list that is not empty")
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


def _sweep(settings: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], list[tuple[str, Any]]]]:
    """All combinations of the values of settings that are lists, each with what was chosen for them."""
    axes = list(_axes(settings))
    for values in itertools.product(*(choices for _, choices in axes)):
        arm = copy.deepcopy(dict(settings))
        for (path, _), value in zip(axes, values, strict=True):
            inner = arm
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
        chosen = zip(axes, values, strict=True)
        yield arm, [(path[-1], value) for (path, choices), value in chosen if len(choices) > 1]


def _axes(settings: Mapping[str, Any], path: _KeyPath = ()) -> Iterator[tuple[_KeyPath, list[Any]]]:
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
