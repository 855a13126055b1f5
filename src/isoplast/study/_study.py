"""A study: problems x methods x seeds x settings, as YAML or as an object."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.files import write_whole
from isoplast._core.text import shown
from isoplast.study import _yaml
from isoplast.study._expansion import equal_runs, expand, same_run
from isoplast.study._parts import make
from isoplast.study._places import KeyPath, Place, PlacedError, named, placed
from isoplast.study._spec import Run
from isoplast.study.run._execute import module_path
from isoplast.study.sinks._sending import as_parts
from isoplast.study.store import _files
from isoplast.study.store._index import read_index

_KEYS = ("name", "about", "run", "streams", "methods", "seeds", "path", "sinks")


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
        source: where it was read from, for error messages; "" for none.

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
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", tuple(self.runs))
        object.__setattr__(self, "sinks", as_parts(self.sinks))
        _name(self.name)
        _about(self.about)
        for other, run in equal_runs(self.runs):
            raise same_run(self.runs[other], self.runs[run])

    @property
    def sink_names(self) -> list[str]:
        """The names of its sinks, as a run's status writes them."""
        return [make("sink", one).name for one in self.sinks]

    @contextlib.contextmanager
    def naming(self, run: Run) -> Iterator[None]:
        """Put the file of the study and the label of one of its runs in front of an error."""
        try:
            yield
        except IsoplastError as error:
            words = [*([self.source] if self.source else []), f"run {run.label!r}"]
            raise IsoplastError(f"{', '.join(words)}: {error}") from None

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
        with named(source, text, overrides):
            if not isinstance(document, dict):
                raise IsoplastError(f"a study is a mapping with the keys {', '.join(_KEYS)}")
            if "tune" in document:
                words = "it holds 'tune', as a file for tuning does: give it to isoplast tune"
                raise PlacedError(words, Place(("tune",)))
            for key in document:
                if key not in _KEYS:
                    raise PlacedError(str(unknown("key of a study", str(key), _KEYS)), Place((key,)))
            changes = dict(overrides or {})
            replaced = {key: changes.pop(key) for key in _KEYS if key in changes and key != "run"}
            values = document | replaced

            def where(path: KeyPath) -> Place:
                return Place(path, overrides=bool(path) and path[0] in replaced)

            name = placed(values, lambda given: _name(given.get("name")), where)
            about = placed(values, lambda given: _about(given.get("about", "")), where)
            path = placed(values, lambda given: _folders(given.get("path", []), folder), where)
            with module_path(path):
                sinks = placed(values, lambda given: as_parts(given.get("sinks", ())), where)
                runs = expand(values, changes, path, where)
                return cls(name, runs, about, text, sinks, source)

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


def _name(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise IsoplastError(
            f"name is {name!r}: use letters, digits, '_', '-' and '.', no '-' or '.' in front"
        )
    return name


def _about(about: object) -> str:
    if not isinstance(about, str):
        raise IsoplastError(f"about is {shown(about)}: it must be text, put it between quotes")
    return about


def _comment(overrides: Mapping[str, Any] | None) -> str:
    return f"\n# run with {json.dumps(overrides, default=str)}\n" if overrides else ""


def _folders(value: object, folder: Path | None) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise IsoplastError(f"path is {value!r}: give a folder, or a list of folders")
    return tuple(str(((folder or Path.cwd()) / one).resolve()) for one in given)
