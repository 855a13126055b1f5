"""The monitor: instruments in a training loop, at a cost that the user sets."""

from __future__ import annotations

import atexit
import functools
import math
import os
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Result, reason_of
from isoplast.diagnostics.health._finding import Finding
from isoplast.diagnostics.health._optimizer_findings import (
    keeps_isometry,
    optimizer_findings,
    orthogonalises,
)
from isoplast.diagnostics.monitor._account import Account, divide
from isoplast.diagnostics.monitor._alarms import Alarms
from isoplast.diagnostics.monitor._measures import (
    STANDARD,
    UNITS,
    Setting,
    added,
    has_grown,
    setting,
    with_roughness,
)
from isoplast.diagnostics.monitor._sinks import Write, sink
from isoplast.diagnostics.monitor._summary import summary
from isoplast.model import preserve_state, sample_count

if TYPE_CHECKING:
    import polars as pl

Measure: TypeAlias = Callable[[nn.Module, Any], Result | Mapping[str, float]]

T = TypeVar("T")

_DEFAULT = ("norms", "weights", "activity", "features")
_BASELINE = ("norms", "activity")
_OWN_GUESS = 20  # training steps that a measure of the user's is taken to cost before it has run
# Looks come after each hundredth of the steps so far: they cost nothing, and a history grows with the
# logarithm of a long run, to 1300 records in 10 million steps.
_LOOKS = 100


class Monitor:
    """Watches a network while it trains: `monitor.step()` after every optimizer step.

    Every measure has a share of the budget and runs as soon as the training so far has paid for it: cheap
    ones often, expensive ones rarely; `print(monitor)` says how often. The network, its gradients, modes
    and hooks, the optimizer and the random generators stay as they are, to the bit. A measure that a network
    does not allow (a kernel of too many outputs, say), or that raises anything at all, is left out from then
    on; a sink that fails is tried again with the next record. Either is kept in `left_out` and said once.

    When the training ends (`steps` are over, `close()` is called, the monitor is left as a context, or the
    program ends) it says in a line what it saw, or that it saw nothing and why.

    The plasticity measure trains copies on two tasks of random labels for 25 steps of Adam, the kernel is
    that of up to 24 samples on centred logits: comparable in one history, not with longer probes.

    Args:
        model: any module; compiled and data-parallel ones are looked into.
        optimizer: what trains it. Given, what silently disables a method is looked for, too: trainable
            parameters that it does not hold, isometry that cannot act.
        every: steps between two looks at what is due, >= 1.
        measures: names out of "norms" (largest singular values), "weights", "activity", "features" (activity
            with ranks), "jacobian", "ntk" and "plasticity", or a mapping from names of your own to functions
            (model, inputs) -> Result or mapping from names to numbers. By default the first four, or the
            first two where there are no inputs.
        inputs: what the network takes, some hundred samples: a tensor, a tuple or a mapping of tensors, or a
            function that returns such, called before measures so that the data may change; it may draw from
            torch's generators, which are put back.
        budget: measuring time over training time, in (0, 1).
        steps: length of the run in optimizer steps, if you know it: then the looks are spread over it, the
            first of them early, and an isometry whose time constant is longer is found.
        lr: learning rate of the plasticity probe's Adam; None takes that of the optimizer if it is of
            Adam's family, else 1e-3.
        sinks: where numbers go besides the history: paths that end in .csv (rows are appended), TensorBoard
            writers, Weights & Biases runs, functions of (step, record).
        warn: whether a new finding becomes a `PlasticityWarning`; `findings` holds them in any case.

    Attributes:
        records: a dict for every step with measures: "step", "seconds" (of training) and the numbers, named
            "measure/number" or "measure/layer/number".
        left_out: measures that could not be taken, and what else failed (a sink, the function that gives
            inputs), with the last reason.
        total_steps: how many steps it has watched.

    Raises:
        IsoplastError: for an unknown measure or sink, one that needs inputs where there are none, values out
            of range, and, at the first step, inputs that do not fit the model.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> monitor = Monitor(model, inputs=torch.randn(64, 8), measures=["weights"])
        >>> for _ in range(3):
        ...     monitor.step()  # after optimizer.step()
        >>> monitor.total_steps
        3
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        every: int = 1,
        measures: Iterable[str] | Mapping[str, Measure] | None = None,
        inputs: Any = None,
        budget: float = 0.02,
        steps: int | None = None,
        lr: float | None = None,
        sinks: Iterable[Any] = (),
        warn: bool = True,
    ) -> None:
        _check(every, budget, lr)
        if inputs is not None and not callable(inputs):
            sample_count(inputs)
        self._model, self._optimizer, self._inputs, self._lr = model, optimizer, inputs, lr
        self._every, self._budget, self._length, self._warn = every, budget, steps, warn
        self._standard_measures = not isinstance(measures, Mapping)
        self._measures, self._accounts = self._open(measures)
        divide(budget, self._accounts.values())
        self._sinks: list[tuple[str, Write]] = [(_name(target), sink(target)) for target in sinks]
        self._alarms = Alarms()
        self._last: float | None = None
        self._next_look = 1
        self._elapsed = self._spent = 0.0
        self._setting: Setting | None = None
        self.records: list[dict[str, float]] = []
        self.left_out: dict[str, str] = {}
        self.total_steps = 0
        self._said = not warn
        atexit.register(_say_at_exit, weakref.ref(self))

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_said", True):  # else its making failed
            self.close()

    def close(self) -> str:
        """Say what was seen, once, on standard error; returns that line."""
        said = summary(self.total_steps, self.records, self.findings, self._accounts, self._length)
        if not self._said and self.total_steps:
            self._said = True
            print(f"isoplast: {said}", file=sys.stderr)
        return said

    def _open(
        self, measures: Iterable[str] | Mapping[str, Measure] | None
    ) -> tuple[dict[str, Measure], dict[str, Account]]:
        if measures is None:
            measures = _DEFAULT if self._inputs is not None else _DEFAULT[:2]
        if isinstance(measures, Mapping):
            return dict(measures), {name: Account(_OWN_GUESS) for name in measures}
        if isinstance(measures, str):
            raise IsoplastError(f"measures is the string {measures!r}: give a list, [{measures!r}]")
        found: dict[str, Measure] = {}
        for name in measures:
            if name not in STANDARD:
                raise unknown("measure", name, STANDARD)
            if name not in _DEFAULT[:2] and self._inputs is None:
                raise IsoplastError(f"measure {name!r} needs inputs: pass inputs=, some hundred samples")
            found[name] = functools.partial(self._standard, name)
        return found, {name: Account(STANDARD[name].guess, STANDARD[name].importance) for name in found}

    def _standard(self, name: str, model: nn.Module, inputs: Any) -> Result:
        return STANDARD[name].measure(model, inputs, self._known_setting())

    def step(self) -> None:
        """Count an optimizer step, and measure what the training so far has paid for."""
        self.total_steps += 1
        if self.total_steps >= self._next_look:  # else it costs no more than this, not even a clock
            began, spent = perf_counter(), self._spent
            self._look()
            self._alarms.tell(self._warn)
            self._last = perf_counter()
            self._owe(self._last - began - (self._spent - spent))
        if self.total_steps == self._length:
            self.close()

    def _look(self) -> None:
        self._count_time()
        steps = self.total_steps
        if self._setting is None:
            self._known_setting()
            self._check_optimizer()
        if steps == 1 and self._standard_measures:  # what later looks are compared with
            self._run([name for name in self._accounts if name in _BASELINE], start=True)
        elif due := [name for name, account in self._accounts.items() if self._due_at(account) <= steps]:
            self._run(due)
        self._next_look = self._look_after(steps)

    def _owe(self, seconds: float) -> None:
        """Enter what a look took beside the measures."""
        self._spent += seconds
        for account in self._accounts.values():
            account.debt += seconds / len(self._accounts)

    def _look_after(self, steps: int) -> int:
        """The step of the next look: when something will be due, or a tenth later: the speed may change."""
        pause = max(self._every, steps // _LOOKS)
        soonest = min(map(self._due_at, self._accounts.values()), default=math.inf)
        awaited = math.ceil(min(soonest, steps + steps // 10 + 10) / self._every) * self._every
        return max(steps - steps % pause + pause, awaited)

    def _due_at(self, account: Account) -> float:
        return account.due_at(self.total_steps, self._elapsed, self._length)

    def pause(self) -> None:
        """Leave the time until the next `step` out of the training time: an evaluation, say."""
        self._count_time()
        self._last, self._next_look = None, 0

    def measure(self, *names: str) -> dict[str, float]:
        """Measure now, whatever the budget; the time counts as spent.

        Args:
            names: of measures; all if none is given.

        Returns:
            The record, which is also in `records`.

        Raises:
            IsoplastError: for a measure that this monitor has not.
        """
        for name in names:
            if name not in self._measures:
                raise unknown("measure", name, self._measures)
        self._count_time()
        record = self._run([name for name in names or self._accounts if name in self._accounts], asked=True)
        self._alarms.tell(self._warn)
        self._last = None if self._last is None else perf_counter()
        return record

    @property
    def training_seconds(self) -> float:
        """The time since the first step, without pauses and its own time."""
        return self._elapsed + (perf_counter() - self._last if self._last is not None else 0.0)

    def _count_time(self) -> None:
        if self._last is not None:
            now = perf_counter()
            self._elapsed += now - self._last
            self._last = now

    def _run(self, due: Collection[str], asked: bool = False, start: bool = False) -> dict[str, float]:
        # Work that a GPU still has to do belongs to the training, not to the measure.
        _synchronize(self._model)
        self._count_time()
        record: dict[str, float] = {"step": float(self.total_steps), "seconds": self._elapsed}
        began = perf_counter()
        drawn = self._tried("inputs", lambda: [self._sample()])
        self._check_optimizer()
        bill: dict[str, float] = {}
        for name in due:
            begun = perf_counter()
            record |= {} if drawn is None else self._take(name, drawn[0])
            _synchronize(self._model)
            bill[name] = perf_counter() - begun
        units = not UNITS.isdisjoint(due)
        if units or has_grown(self._alarms.evidence):
            self._see_roughness(None if drawn is None else drawn[0])
        self._alarms.judge(self.total_steps, units=units, asked=asked)
        self._keep(record)
        # Drawing inputs and writing records cost as well; the measures of this time share that.
        whole = perf_counter() - began
        self._spent += whole
        rest = whole - sum(bill.values())
        for name, seconds in bill.items():
            account = self._accounts.get(name)
            if account is not None and start:
                account.debt += seconds + rest / len(bill)
            elif account is not None:
                account.charge(seconds + rest / len(bill), self._elapsed)
        return record

    def _take(self, name: str, inputs: Any) -> dict[str, float]:
        """The numbers of one measure, or none, now and from now on, if it fails."""
        found = self._tried(name, lambda: self._numbers(name, inputs))
        if found is None:
            del self._accounts[name]
            divide(self._budget, self._accounts.values())
            return {}
        return found

    def _numbers(self, name: str, inputs: Any) -> dict[str, float]:
        result = self._measures[name](self._model, inputs)
        numbers = result.as_dict() if isinstance(result, Result) else result
        found = {f"{name}/{key}": float(value) for key, value in numbers.items()}
        self._alarms.evidence = added(self._alarms.evidence, result, self._known_setting())
        return found

    def _see_roughness(self, inputs: Any) -> None:
        """What decides which limits hold; left out for good where it fails."""
        alarms, name = self._alarms, "roughness of the outputs"
        if inputs is not None and name not in self.left_out:
            known = self._known_setting()
            found = self._tried(name, lambda: with_roughness(alarms.evidence, self._model, inputs, known))
            alarms.evidence = alarms.evidence if found is None else found

    def _tried(self, name: str, action: Callable[[], T]) -> T | None:
        """What an action returns; None, and a note and a warning the first time, where it raises anything.

        A training that has run for days must not end because an instrument does not fit it or a disk is full.
        """
        try:
            return action()
        except Exception as error:
            reason = reason_of(error)
            if name not in self.left_out:
                self._alarms.say(f"the monitor leaves {name} out: {reason}")
            self.left_out[name] = reason
            return None

    def _keep(self, record: dict[str, float]) -> None:
        if self.records and self.records[-1]["step"] == record["step"]:
            self.records[-1] |= record
        else:
            self.records.append(dict(record))
        for name, write in self._sinks:  # one that failed is tried again: the disk may have been cleared
            self._tried(name, functools.partial(write, self.total_steps, record))

    def _sample(self) -> Any:
        if not callable(self._inputs):
            return self._inputs
        with preserve_state(self._model):
            return self._inputs()

    def _known_setting(self) -> Setting:
        """What the measures need to know of the model, found out when it is ready to run."""
        if self._setting is None:
            fixed = not callable(self._inputs)
            self._setting = setting(self._model, self._sample(), self._optimizer, self._lr, fixed)
        return self._setting

    def _check_optimizer(self) -> None:
        optimizer = self._optimizer
        if optimizer is not None:
            found = self._tried("optimizer", lambda: optimizer_findings(self._model, optimizer, self._length))
            self._alarms.note("optimizer", found or (), self.total_steps)
            isometric = self._tried("optimizer", lambda: keeps_isometry(optimizer))
            self._alarms.evidence = self._alarms.evidence.with_(
                isometric=bool(isometric), orthogonalised=orthogonalises(optimizer)
            )

    @property
    def findings(self) -> list[tuple[int, Finding]]:
        """(step, finding), each finding once until it goes away, and once more if it becomes worse."""
        return self._alarms.findings

    @property
    def history(self) -> pl.DataFrame:
        """All records as a polars frame: one row per step with measures, null where one did not run.

        Raises:
            ModuleNotFoundError: polars is not installed (it comes with isoplast[bench]).
        """
        import polars as pl

        names = dict.fromkeys(name for record in self.records for name in record)
        columns = {name: [record.get(name) for record in self.records] for name in names or ("step",)}
        frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Float64))
        return frame.with_columns(pl.col("step").cast(pl.Int64))

    @property
    def overhead(self) -> float:
        """Measuring time over training time so far."""
        seconds = self.training_seconds
        return self._spent / seconds if seconds else 0.0

    def __str__(self) -> str:
        rows = [(name, *self._often(account)) for name, account in self._accounts.items()]
        head = (
            f"{self.total_steps} steps in {self.training_seconds:.3g} s, "
            f"measuring {self.overhead:.2%} of that (budget {self._budget:.2%})"
        )
        lines = [head, text_table(("measure", "times", "each", "on average"), rows)]
        return "\n".join([*lines, *(f"{name} is left out: {why}" for name, why in self.left_out.items())])

    def _often(self, account: Account) -> tuple[str, str, str]:
        if account.runs:
            each = f"{1e3 * account.spent / account.runs:.3g} ms"
            return str(account.runs), each, f"every {self.total_steps / account.runs:,.0f} steps"
        return "0", "", f"first at step {account.first:,.0f}"

    def state_dict(self) -> dict[str, Any]:
        """What the monitor remembers, as plain numbers and strings, for a checkpoint."""
        return {
            "total_steps": self.total_steps,
            "training_seconds": self.training_seconds,
            "spent": self._spent,
            "records": [dict(record) for record in self.records],
            **self._alarms.state_dict(),
            "accounts": {name: vars(account).copy() for name, account in self._accounts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another monitor of the same training stopped; the time in between does not count.

        Args:
            state: from `state_dict`. Measures that only one of the two has start anew or are dropped.
        """
        self.total_steps, self._elapsed = state["total_steps"], state["training_seconds"]
        self._spent, self._last, self._next_look = state["spent"], None, 0
        self.records = [dict(record) for record in state["records"]]
        self._alarms.load_state_dict(dict(state))
        for name, account in self._accounts.items():
            if name in state["accounts"]:
                saved = state["accounts"][name]
                for field in ("spent", "runs", "at", "debt"):
                    setattr(account, field, saved[field])


def _say_at_exit(monitor: weakref.ref[Monitor]) -> None:
    alive = monitor()
    if alive is not None:
        alive.close()


def _check(every: int, budget: float, lr: float | None) -> None:
    if every < 1:
        raise IsoplastError(f"every is {every}: it must be at least 1 step")
    if not 0 < budget < 1:
        raise IsoplastError(f"budget is {budget}: it is a share of the training time, in (0, 1)")
    if lr is not None and not lr > 0:
        raise IsoplastError(f"lr of the plasticity probe is {lr}: it must be positive")


def _name(target: Any) -> str:
    """What a sink is called where it fails."""
    return f"sink {target}" if isinstance(target, str | os.PathLike) else f"sink {type(target).__name__}"


def _synchronize(model: nn.Module) -> None:
    device = next((parameter.device for parameter in model.parameters()), None)
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
