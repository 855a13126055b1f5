"""The supervised loop: mini-batches of one task after the other."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from isoplast._core.checks import at_least, positive
from isoplast._core.errors import IsoplastError
from isoplast.methods import Method
from isoplast.streams import Problem, Stream, Task, TaskSequence, View
from isoplast.study.run._instruments import Measured, measure_network, score
from isoplast.study.run._learner import LEARNERS, Diverged, LearnerSpec, Recipe, TrainingLearner
from isoplast.study.run._random import order

_FEW = 8  # mini-batches of a shortened task


@LEARNERS.register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(LearnerSpec):
    """Passes over the data of a task in mini-batches, in a fresh order each.

    Args:
        epochs: passes over each task, >= 1.
        batch_size: samples for an optimizer step, >= 1; the last batch of a pass may be smaller.
        clip_norm: the norm to which the gradient is cut, > 0; None: not at all.
        warmup_steps: over how many steps, >= 1, the learning rate rises in a straight line to its value;
            None: it is there at once.
        schedule: "linear" or "cosine": how it falls to `final_lr` after that; None: it stays.
        schedule_over: whether both take place in every "task" or once in the "run", which is taken to be as
            many tasks of the present one's length as there are; None: in every task.
        final_lr: share of the learning rate that a schedule ends at, in [0, 1); None: 0.
        online: whether every mini-batch is also scored just before it is learned; None: where that counts.
    """

    name: ClassVar[str] = "supervised"

    epochs: int = 25
    batch_size: int = 64
    clip_norm: float | None = None
    warmup_steps: int | None = None
    schedule: Literal["linear", "cosine"] | None = None
    schedule_over: Literal["task", "run"] | None = None
    final_lr: float | None = None
    online: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, f"learner {self.name}", 1, "epochs", "batch_size")
        at_least(self, f"learner {self.name}", 1, "warmup_steps")
        positive(self, f"learner {self.name}", "clip_norm")
        if self.final_lr is not None and not 0 <= self.final_lr < 1:
            raise IsoplastError(f"final_lr of learner {self.name} is {self.final_lr}: give a share in [0, 1)")
        if self.final_lr is not None and self.schedule is None:
            raise IsoplastError(f"final_lr of learner {self.name} ends a schedule: give schedule: cosine")
        if self.schedule_over is not None and self.schedule is None and self.warmup_steps is None:
            raise IsoplastError(f"schedule_over of learner {self.name} needs schedule or warmup_steps")

    def check(self, problem: Problem) -> None:
        """Only streams of data are learned this way."""
        if not isinstance(problem, Stream):
            raise IsoplastError(
                f"learner {self.name} trains on data, and the tasks of {problem.name} are none: "
                f"choose learner {problem.learner}"
            )
        if problem.one_pass and self.epochs != 1:
            raise IsoplastError(
                f"epochs of learner {self.name} is {self.epochs}, and stream {problem.name} shows every "
                "example once: set epochs: 1"
            )

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by at a step, 0 <= step < steps.

        A warm-up of m steps has the factors 1/m, 2/m, ..., 1; a schedule then goes from 1 to `final_lr`,
        which the step after the last one would have.
        """
        warmup = self.warmup_steps or 0
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule is None:
            return 1.0
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        left = 1 - done if self.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
        last = self.final_lr or 0.0
        return last + (1 - last) * left

    def start(self, problem: Any, recipe: Recipe, task: int) -> SupervisedLearner:
        """The learner before its task number `task`."""
        return SupervisedLearner(self, problem, recipe, task)


class SupervisedLearner(TrainingLearner):
    """See `Supervised`."""

    def __init__(self, settings: Supervised, problem: TaskSequence, recipe: Recipe, task: int) -> None:
        self.settings, self.problem = settings, problem
        self.objective = problem.objective
        self.units = settings.epochs
        counts = problem.primary.startswith("online_")
        self.online = counts if settings.online is None else settings.online or counts
        self._copies: dict[int, Tensor] = {}
        network = recipe.net.make(problem.input_shape, self.objective.outputs)
        super().__init__(recipe, network, task, settings.clip_norm)
        self._measured = Measured()
        first = problem.task(min(task, problem.tasks - 1))  # of a finished run there is no next one
        self.steps_per_task = -(-len(first.targets) // settings.batch_size) * settings.epochs

    def _start(self, method: Method, network: nn.Module) -> None:
        super()._start(method, network)
        self._rates = [float(group["lr"]) for group in self._training.optimizer.param_groups]

    def shortened(self, task: Task) -> tuple[Task, float]:
        """The task with its first mini-batches alone."""
        count = min(len(task.targets), _FEW * self.settings.batch_size)
        rows, held_out, targets = torch.arange(count), None, None
        if task.test_examples is not None and task.test_targets is not None:
            few = torch.arange(min(count, len(task.test_examples)))
            held_out, targets = task.test_examples.take(few), task.test_targets[few]
        examples = task.examples.take(rows), task.targets[rows]
        short = Task(task.index, *examples, held_out, targets, objective=task.objective)
        return short, count / len(task.targets)

    def begin(self, task: Task) -> bool:
        """Take the task's data to the device, and tell the method."""
        switches = task.index == self.recipe.switch
        if switches:
            self._switch()
        self._task, self._epoch = task.index, 0
        self._inputs = self._targets = torch.empty(0)  # let go of the last task's before there are this one's
        self._inputs, self._targets = self.inputs(task), task.targets.to(self.recipe.device)
        self.objective = task.objective or self.problem.objective
        self._measured = Measured()
        self._first_step = self.steps
        self.steps_per_task = -(-len(task.targets) // self.settings.batch_size) * self.settings.epochs
        self._training.new_task(self._inputs, self._task_loss)
        return switches

    def _task_loss(self) -> Tensor:
        """The mean loss on the task, for methods that look at it before training."""
        return self.objective.loss(self.network(self._inputs), self._targets)

    def advance(self) -> None:
        """Train for one epoch."""
        self.network.train()
        losses: list[Tensor] = []
        path = (self.recipe.seed, "order", self._task, self._epoch)
        permutation = order(len(self._inputs), *path).to(self.recipe.device)
        for rows in torch.split(permutation, self.settings.batch_size):
            # What indexing gives, in less time.
            inputs, targets = self._inputs.index_select(0, rows), self._targets.index_select(0, rows)

            def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                found = self.network(inputs)
                if self.online:
                    self._measured.add(self.objective, found.detach(), targets)
                return self.objective.loss(found, targets)

            self._set_rate(self.steps + len(losses))
            losses.append(self._training.step(closure, inputs=inputs))
        self._check(torch.stack(losses))  # one synchronisation per epoch, not per step
        self.steps += len(losses)
        self._epoch += 1

    def _set_rate(self, step: int) -> None:
        settings = self.settings
        if settings.warmup_steps is None and settings.schedule is None:
            return
        if settings.schedule_over == "run":
            factor = settings.factor(step, self._steps_of_run())
        else:
            factor = settings.factor(step - self._first_step, self.steps_per_task)
        groups = self._training.optimizer.param_groups
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _steps_of_run(self) -> int:
        return self.steps_per_task * self.problem.tasks

    def _check(self, losses: Tensor) -> None:
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            first = int(bad[0])
            raise Diverged(
                f"the loss is {losses[first].item()} at task {self._task}, epoch {self._epoch}, "
                f"step {self.steps + first} (lr {self.recipe.lr:g}): lower the learning rate"
            )

    def measure(self, task: Task) -> dict[str, Any]:
        """Scores on the task's data, and the instruments."""
        inputs, objective = self.inputs(task), task.objective or self.problem.objective
        found: dict[str, Any] = {
            "primary": self.problem.primary,
            "chance": objective.chance(task.targets),
        }
        with self.evaluated() as network:
            found |= score(network, inputs, task.targets.to(self.recipe.device), objective)
            if task.test_examples is not None and task.test_targets is not None:
                held_out = self._on_device(task.test_examples), task.test_targets.to(self.recipe.device)
                scores = score(network, *held_out, objective)
                found |= {f"test_{name}": value for name, value in scores.items()}
            if self.online and self.steps:
                found |= {f"online_{name}": value for name, value in self._measured.means(objective).items()}
            unmeasured: dict[str, str] = {}
            self.unmeasured = unmeasured
            if self.recipe.looks(task.index, self.problem.tasks, self.steps):
                found |= measure_network(
                    network,
                    inputs,
                    self.objective,
                    self.recipe.lr,
                    self.recipe.instruments,
                    unmeasured.__setitem__,
                )
        if not math.isfinite(found["loss"]):
            if self.steps == 0:
                where, remedy = "before any training", "choose another network or initialisation"
            else:
                where, remedy = f"after the last epoch of task {task.index}", "lower the learning rate"
            raise Diverged(
                f"the loss is {found['loss']} on all of task {task.index} {where} (lr {self.recipe.lr:g}): "
                f"{remedy}"
            )
        return found

    def inputs(self, task: Task) -> Tensor:
        """All inputs of a task on the device."""
        return self._on_device(task.examples) if self.recipe.device.type != "cpu" else task.inputs

    def _on_device(self, view: View) -> Tensor:
        """The values of a view; data that tasks share are copied to the device once."""
        device, data = self.recipe.device, self.problem.data
        shared = [] if data is None else [one.inputs for one in (data, data.test) if one is not None]
        if all(view.source is not one for one in shared):
            return view.tensor().to(device)
        if id(view.source) not in self._copies:
            self._copies[id(view.source)] = view.source.to(device)
        return view.tensor(self._copies[id(view.source)])
