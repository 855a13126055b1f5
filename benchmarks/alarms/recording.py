"""Trains the networks of the plan and writes what was seen of each as one line of JSON."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from alarms.networks import network
from alarms.numbers import measure
from alarms.plan import Subject, subjects
from alarms.probes import probe, trained_twin
from alarms.problems import Problem, Task, evaluate, problem

Row = dict[str, Any]
_REFERENCES = 2  # fresh networks that say what there is to learn, besides the first task of a stream


class Recorder:
    """Records one network after another; fresh references are shared by networks of one family and recipe."""

    def __init__(self, data: Path | None) -> None:
        self._data = data
        self._fresh: dict[tuple[str, str, float, str], list[tuple[float, float]]] = {}
        self._twins: dict[tuple[str, str, float], Row] = {}

    def record(self, subject: Subject) -> Row:
        """Everything about one network."""
        began = time.process_time()
        torch.manual_seed(subject.seed)
        of = problem(subject.family.data, subject.family.samples, subject.family.flat, self._data)
        run = Run(subject, of, self)
        run.go()
        return {
            "key": subject.key, "family": subject.family.name, "data": subject.family.data,
            "network": subject.family.network, "recipe": subject.recipe.name, "lr": subject.recipe.lr,
            "history": subject.history, "seed": subject.seed, "loss": of.loss,
            "fresh": self._fresh.get((*self._config(subject), run.next_kind), []),
            "trained_twin": self._twins.get(self._config(subject)),
            "scores": run.scores, "times": run.times, "seconds": round(time.process_time() - began, 2),
        }  # fmt: skip

    @staticmethod
    def _config(subject: Subject) -> tuple[str, str, float]:
        return subject.family.name, subject.recipe.name, subject.recipe.lr

    def fresh_scores(
        self, subject: Subject, of: Problem, kind: str, epochs: int
    ) -> list[tuple[float, float]]:
        """What fresh networks make of tasks of a kind."""
        key = (*self._config(subject), kind)
        if key not in self._fresh:
            with torch.random.fork_rng():
                torch.manual_seed(subject.seed + 1)
                found = []
                for index in range(_REFERENCES):
                    made = network(subject.family.network, of.shape, of.outputs, subject.recipe.drop)
                    task = of.task(kind, 100 + index)
                    found.append(learn(made, subject.recipe.optimizer(made), subject, of, task, epochs))
            self._fresh[key] = found
        return self._fresh[key]

    def twin(self, subject: Subject, of: Problem, fresh: nn.Module, task: Task, teacher: nn.Module) -> None:
        """Probe a twin that has memorised once."""
        key = self._config(subject)
        if key not in self._twins:
            with torch.random.fork_rng():
                made = trained_twin(fresh, subject.recipe, of, task.inputs, subject.seed)
                self._twins[key] = probe(made, None, subject.recipe, of, task.inputs, teacher, subject.seed)


class Run:
    """The history of one network."""

    def __init__(self, subject: Subject, of: Problem, recorder: Recorder) -> None:
        self._subject, self._of, self._recorder = subject, of, recorder
        family = subject.family
        self._model = network(family.network, of.shape, of.outputs, subject.recipe.drop)
        self._start = copy.deepcopy(self._model)
        self._optimizer = subject.recipe.optimizer(self._model)
        with torch.random.fork_rng():
            torch.manual_seed(subject.seed + 7)
            self._teacher = network(family.network, of.shape, of.outputs, 0.0)
        self.scores: list[tuple[str, int, float, float]] = []
        self.times: list[Row] = []
        self.next_kind = "shift" if subject.history in ("one", "finetune", "warm") else subject.history

    def go(self) -> None:
        """Train to the end, with looks in between."""
        first = self._of.task("true" if self.next_kind == "shift" else self.next_kind, 0)
        self._recorder.fresh_scores(self._subject, self._of, self.next_kind, self._subject.family.epochs)
        with torch.random.fork_rng():
            self._recorder.twin(self._subject, self._of, copy.deepcopy(self._model), first, self._teacher)
        {"one": self._one, "finetune": self._finetune, "warm": self._warm}.get(
            self._subject.history, self._stream
        )()

    def _one(self) -> None:
        epochs, task = self._subject.family.epochs, self._of.task("true", 0)
        self._look(task, "fresh", branch=1)
        for name, more in (("early", epochs // 4), ("trained", epochs), ("long", 3 * epochs)):
            self._learn("true", 0, more)
            self._look(task, name, branch=2)

    def _finetune(self) -> None:
        epochs = self._subject.family.epochs
        self._learn("true", 0, 2 * epochs)
        for group in self._optimizer.param_groups:
            group["lr"] *= 0.1
        for index in (1, 2):
            self._learn("shift", index, epochs)
            self._look(self._of.task("shift", index), f"tuned{index}", branch=index + 1, fresh_lr=True)

    def _warm(self) -> None:
        epochs = self._subject.family.epochs
        self._learn("half", 0, 4 * epochs)
        self._look(self._of.task("half", 0), "half", branch=1)
        self._learn("true", 0, epochs)
        self._look(self._of.task("true", 0), "whole", branch=2)

    def _stream(self) -> None:
        kind, family = self._subject.history, self._subject.family
        self._look(self._of.task(kind, 0), "task0")
        for index in range(family.tasks):
            score = self._learn(kind, index, family.epochs)
            if self.times and self.times[-1]["next"] is None:
                self.times[-1]["next"] = score
            if not math.isfinite(score[0]) or not self._finite():
                break
            if index + 1 in family.times:
                self._look(self._of.task(kind, index), f"task{index + 1}")

    def _finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self._model.parameters())

    def _learn(self, kind: str, index: int, epochs: int) -> tuple[float, float]:
        task = self._of.task(kind, index)
        score = learn(self._model, self._optimizer, self._subject, self._of, task, epochs)
        self.scores.append((kind, index, *score))
        return score

    def _look(self, task: Task, name: str, branch: int = 0, fresh_lr: bool = False) -> None:
        """Measure; where the history does not go on to a next task by itself, try one and take it back."""
        with torch.random.fork_rng():
            torch.manual_seed(self._subject.seed + len(self.times))
            seed = self._subject.seed % 10**6
            numbers = measure(self._model, self._optimizer, self._of, task, self._start, seed)
            probes = probe(
                self._model, self._optimizer, self._subject.recipe, self._of, task.inputs, self._teacher, seed
            )
            following = self._branch(branch, fresh_lr) if branch else None
        loss, hit = evaluate(self._model, self._of, task.inputs, task.targets)
        self.times.append(
            {
                "time": name, "tasks": len(self.scores), "score": self._of.score(loss, hit),
                "next": following, "numbers": numbers, "probes": probes,
            }
        )  # fmt: skip

    def _branch(self, index: int, fresh_lr: bool) -> tuple[float, float]:
        """What the network makes of a next task, by its own recipe and from its optimizer's state.

        After fine-tuning at a tenth of the rate the fresh references and the next task have the whole rate:
        a new job, as one would begin it.
        """
        kept = copy.deepcopy(self._model.state_dict()), copy.deepcopy(self._optimizer.state_dict())
        if fresh_lr:
            for group in self._optimizer.param_groups:
                group["lr"] = self._subject.recipe.lr
        task = self._of.task("shift", index)
        epochs = self._subject.family.epochs
        score = learn(self._model, self._optimizer, self._subject, self._of, task, epochs)
        self._model.load_state_dict(kept[0])
        self._optimizer.load_state_dict(kept[1])
        return score


def learn(
    model: nn.Module, optimizer: Optimizer, subject: Subject, of: Problem, task: Task, epochs: int
) -> tuple[float, float]:
    """Train on a task; the score on its examples and on held-out ones (NaN without)."""
    x, y = task.inputs, task.targets
    steps, step = epochs * (len(x) // subject.family.batch), 0
    rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(subject.family.batch)[: len(x) // subject.family.batch]:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * subject.recipe.scale(step, steps)
            optimizer.zero_grad()
            of.objective(model(x[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    held = math.nan
    if task.held_inputs is not None and task.held_targets is not None:
        held = of.score(*evaluate(model, of, task.held_inputs, task.held_targets))
    return of.score(*evaluate(model, of, x, y)), held


def record(
    folder: Path,
    data: Path | None,
    only: str = "",
    done: Collection[str] = (),
    say: Callable[[str], None] = print,
) -> None:
    """Record all networks that the folder lacks: one file of JSON lines per family."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    known = {row["key"] for row in read(folder)} | set(done)
    recorder = Recorder(data)
    wanted = [one for one in subjects() if only in one.key]
    for place, subject in enumerate(wanted, 1):
        if subject.key in known:
            continue
        row = recorder.record(subject)
        path = folder / f"{subject.family.name.replace('/', '-').replace(':', '-')}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_rounded(row)) + "\n")
        say(f"{place}/{len(wanted)} {subject.key}: {row['seconds']} s, {_told(row)}")


def _told(row: Row) -> str:
    fresh = [score for score, _ in row["fresh"]]
    reference = sum(fresh) / len(fresh)
    ratios = [f"{time['next'][0] / reference:.2f}" for time in row["times"] if time["next"] and reference > 0]
    return f"fresh {reference:.2f}, ratios {' '.join(ratios)}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


def read(folder: Path) -> Iterator[Row]:
    """The networks that a folder holds; a torn last line is passed over."""
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue
