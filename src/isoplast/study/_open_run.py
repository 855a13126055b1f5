"""A finished run, opened: its network, its method, its tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.methods import Method
from isoplast.streams import OpenProblem
from isoplast.study._spec import Run
from isoplast.study.run._execute import FORMAT, module_path, open_problem, start_learner
from isoplast.study.run._learner import Learner
from isoplast.study.run._random import reproducible
from isoplast.study.store._directory import RunDirectory


class OpenRun:
    """A run as its last checkpoint left it.

    Attributes:
        directory: where it lies.
        run: its specification.
        problem: its tasks.
        learner: what trained it.
        finished: how many tasks it has finished.
    """

    def __init__(
        self, directory: RunDirectory, run: Run, problem: OpenProblem, learner: Learner, finished: int
    ) -> None:
        self.directory = directory
        self.run = run
        self.problem = problem
        self.learner = learner
        self.finished = finished

    @property
    def network(self) -> nn.Module:
        """The trained network."""
        return self.learner.network

    @property
    def method(self) -> Method:
        """The method in force."""
        return self.learner.method

    @property
    def task(self) -> Any:
        """The last task that was finished; the first one before any is."""
        return self.problem.task(max(self.finished - 1, 0))

    @property
    def inputs(self) -> Any:
        """The inputs of that task, as the network takes them."""
        return self.learner.inputs(self.task)

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[nn.Module]:
        """Yield the network to evaluate, where that is another one than the trained one (averages of it)."""
        with self.learner.evaluated() as network:
            yield network


def open_run(path: str | Path) -> OpenRun:
    """Open a run: its network, method and task as its last checkpoint left them.

    Parts named "package.module:Name" are imported, from the folders that the run's specification names too.

    Args:
        path: the directory of a run.

    Returns:
        An `OpenRun`.

    Raises:
        IsoplastError: it is no run, has no checkpoint yet, or is damaged or of another version.

    Example:
        >>> opened = open_run("runs/single/random-labels-digits-mlp-adamo-lr0.001-s0-...")  # doctest: +SKIP
        >>> opened.network(opened.inputs[:1])  # doctest: +SKIP
    """
    directory = RunDirectory(Path(path))
    if not directory.spec.exists():
        raise IsoplastError(f"{path} is not the directory of a run: it has no spec.yaml")
    folders = directory.read_settings().get("path", ())
    with module_path(tuple(folders)):
        run = directory.read_spec()
        saved = directory.load_checkpoint()
        if saved is None:
            raise IsoplastError(f"{path} has no checkpoint yet: no task of the run is finished")
        if saved["format"] != FORMAT:
            raise IsoplastError(f"{directory.checkpoint} is of another version: open it with that one")
        finished = int(saved["next_task"])
        problem = open_problem(run)
        with reproducible(1):
            learner = start_learner(run, problem, finished)
        learner.restore(saved["learner"])
    return OpenRun(directory, run, problem, learner, finished)
