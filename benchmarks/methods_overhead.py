"""What every method adds to a training step: its time relative to Adam's, on the paper's MLP and CNN.

The MLP is 3072-512-512-512-10, the CNN that of `isoplast.nn.build`, both on 3 x 32 x 32 inputs at batch 128.
All methods run in one process and take turns step by step, so that a busy machine slows all of them alike; a
time is the median over a method's steps. What happens rarely is amortised: work that is done every N steps
is done every 7 here, and what its step costs more is divided by N; what is done where a task begins is timed
by itself and divided by --task steps. The amortised isometry of `isometry_every="auto"` spreads its matrices
over 100 steps: these methods run on for as many, beside Adam, and are compared by the mean.

    python benchmarks/methods_overhead.py [--mlp 60] [--cnn 16] [--task 500] [--only adamo redo]
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Combination, Method, training
from isoplast.nn import build

LR, BATCH, CLASSES = 1e-3, 128, 10
OFTEN = 7  # steps between what happens rarely, here
RARE = 50  # a period of as many steps or more is rare
SPREAD = 100  # steps over which "auto" spreads the isometry of all matrices, at this lr and strength
TASKS = 2  # that begin after the first step, and are timed
NETWORKS: dict[str, dict[str, Any]] = {"mlp": {"width": 512, "depth": 3}, "cnn": {}}
LIMIT = 1.3


class Run:
    """A method with a network of its own, and the times of its steps."""

    def __init__(self, name: str, net: str, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.name = name
        self.batches = batches
        method, self.periods = often(methods.get(methods.get(name).info.example or name))
        torch.manual_seed(0)
        self.training = training(method, fresh(net), lr=LR)
        self.spread = any(getattr(part, "isometry_every", None) == "auto" for part in parts(method))
        self.times: list[float] = []
        self.step()  # the first allocates, and a task that begins before it changes nothing
        self.tasks = [self.new_task() for _ in range(TASKS)]
        self.times.clear()

    def new_task(self) -> float:
        """Begin a task; returns the time that took."""
        start = time.perf_counter()
        self.training.new_task(self.batches[0][0], lambda: self.loss(*self.batches[0]))
        return time.perf_counter() - start

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.training.model(inputs), targets)

    def step(self) -> None:
        """One training step."""
        inputs, targets = self.batches[len(self.times) % len(self.batches)]
        start = time.perf_counter()
        self.training.step(lambda: self.loss(inputs, targets), inputs=inputs)
        self.times.append(time.perf_counter() - start)

    def amortised(self, task_steps: int) -> tuple[float, float]:
        """Seconds of a typical step, and of the rare work per step."""
        times = self.times[OFTEN:]  # the first steps allocate
        rare = statistics.median(self.tasks) / task_steps
        if not self.periods:
            return statistics.median(times), rare
        kinds = [statistics.median(times[kind::OFTEN]) for kind in range(OFTEN)]
        plain = statistics.median(kinds)
        return plain, rare + (max(kinds) - plain) / min(self.periods)


def fresh(net: str) -> nn.Module:
    return build(net, input_shape=(3, 32, 32), classes=CLASSES, **NETWORKS[net])


def parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Combination) else (method,)


def often(method: Method) -> tuple[Method, list[int]]:
    """The method with its rare work done often, and how many steps there are between it by default."""
    periods = {
        f"{part.name}.{field.name}": getattr(part, field.name)
        for part in parts(method)
        for field in dataclasses.fields(part)
        if field.init and ("every" in field.name or "period" in field.name)
    }
    rare = {name: value for name, value in periods.items() if type(value) is int and value >= RARE}
    settings = {name if isinstance(method, Combination) else name.partition(".")[2]: OFTEN for name in rare}
    return methods.get(method.name, **settings), list(rare.values())


def measure(net: str, names: list[str], rounds: int, task_steps: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of a step by method, and of these what is rare work."""
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(BATCH, 3, 32, 32, generator=generator),
            torch.randint(CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(4)
    ]
    runs = []
    for name in names:
        try:
            runs.append(Run(name, net, batches))
        except IsoplastError as error:
            print(f"left out on {net}: {name}: {error}", flush=True)
    take_turns(runs, rounds)
    found = {run.name: run.amortised(task_steps) for run in runs}
    spread = [run for run in runs if run.spread or run.name == "adam"]
    take_turns(spread, SPREAD)
    adam = next(run for run in runs if run.name == "adam")
    for run in spread:
        if run is not adam:  # its mean over one whole turn of all matrices, on the scale of the medians
            ratio = sum(run.times[-SPREAD:]) / sum(adam.times[-SPREAD:])
            whole = ratio * found["adam"][0]
            plain = min(whole, found[run.name][0])
            found[run.name] = (plain, whole - plain)
    return {name: (1e3 * (plain + rare), 1e3 * rare) for name, (plain, rare) in found.items()}


def take_turns(runs: list[Run], rounds: int) -> None:
    for done in range(rounds):
        for run in runs:
            run.step()
        print(f"\r{len(runs)} methods, step {done + 1} of {rounds} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


Found = dict[str, dict[str, tuple[float, float]]]


def ratios(found: Found, name: str) -> list[float]:
    """How many times Adam's step a method takes, on the networks that it can take."""
    return [times[name][0] / times["adam"][0] for times in found.values() if name in times]


def row(times: dict[str, tuple[float, float]], name: str) -> str:
    """The two cells of a network."""
    if name not in times:
        return " - | - |"
    base = times["adam"][0]
    return f" {times[name][0] / base:.2f} | {times[name][1] / base:.2f} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mlp", type=int, default=60, help="steps on the MLP; 0 leaves it out")
    parser.add_argument("--cnn", type=int, default=16, help="steps on the CNN; 0 leaves it out")
    parser.add_argument("--task", type=int, default=500, help="steps between two tasks")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", default=methods.names(), help="methods, besides Adam")
    args = parser.parse_args()
    rounds = {net: getattr(args, net) for net in NETWORKS if getattr(args, net) != 0}
    if not rounds or min(rounds.values()) < 2 * OFTEN or args.task < 1:
        parser.error(f"--mlp and --cnn must be at least {2 * OFTEN}, or one of them 0; --task at least 1")
    torch.set_num_threads(args.threads)
    names = ["adam", *(name for name in args.only if name != "adam")]
    start = time.perf_counter()
    found = {net: measure(net, names, count, args.task) for net, count in rounds.items()}
    steps = " and ".join(f"{count} ({net})" for net, count in rounds.items())
    print(
        f"\ntorch {torch.__version__}, {platform.machine()}, {args.threads} threads, batch {BATCH}, ", end=""
    )
    print(f"n={steps} steps, a task every {args.task}")
    print("; ".join(f"Adam on {net}: {times['adam'][0]:.1f} ms" for net, times in found.items()) + "\n")
    print("| method |" + "".join(f" {net} | of that rare |" for net in found) + f" why above {LIMIT} |")
    print("|---|" + "---|---|" * len(found) + "---|")
    for name in sorted(names, key=lambda name: max(ratios(found, name), default=0.0)):
        cells = "".join(row(times, name) for times in found.values())
        why = methods.get(name).info.cost if max(ratios(found, name), default=0.0) > LIMIT else ""
        print(f"| {name} |{cells} {why} |")
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
