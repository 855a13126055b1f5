"""repair_ brings a collapsed network back at once, and what it costs in knowledge.

The demo's network learns random labels with Adam until it is at chance. Copies of it are repaired in several
ways and go on; a fresh network learns the same tasks beside them. The other tables ask the opposite: what
does the repair take from the same network earlier, when it still knows its last task?

    python benchmarks/repair_brings_a_collapsed_network_back.py [--seeds 3]     # needs isoplast[bench]
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from isoplast import AdamO, orthogonalize_
from isoplast.diagnostics import repair_
from isoplast.model import decide
from isoplast.nn import build
from isoplast.streams import Task, TaskSequence, load_data, stream

LR, KNOWING, RUINED, AFTER = 3e-3, (3, 6), 12, 3
Way = Callable[[nn.Module, Tensor], object]
Make = Callable[[nn.Module, Optimizer], Optimizer]


def fire(model: nn.Module, inputs: Tensor) -> None:
    """The polar factor times sqrt(out / in), the scale of FIRE (Han et al. 2026)."""
    orthogonalize_(model)
    with torch.no_grad():
        for one in decide(model):
            if one.isometric:
                one.parameter.mul_(math.sqrt(one.parameter.shape[0] / one.parameter[0].numel()))


def critical(model: nn.Module, inputs: Tensor) -> None:
    repair_(model, inputs, forget=True)


def every(model: nn.Module, inputs: Tensor) -> None:
    repair_(model, inputs, layers="all", forget=True)


def every_and_biases(model: nn.Module, inputs: Tensor) -> None:
    repair_(model, inputs, layers="all", biases="zero", forget=True)


def nothing(model: nn.Module, inputs: Tensor) -> None:
    pass


def adam(model: nn.Module, old: Optimizer) -> Optimizer:
    return Adam(model.parameters(), lr=LR)


def adam_as_it_was(model: nn.Module, old: Optimizer) -> Optimizer:
    kept = adam(model, old)
    kept.load_state_dict(old.state_dict())
    return kept


def adamo(model: nn.Module, old: Optimizer) -> Optimizer:
    return AdamO(model.parameters(), lr=LR, isometry=1e-2)


WAYS: dict[str, tuple[Way, Make]] = {
    "nothing, Adam goes on": (nothing, adam_as_it_was),
    "nothing, a new AdamO": (nothing, adamo),
    "repair_ (critical layers), a new Adam": (critical, adam),
    "repair_ (critical layers), a new AdamO": (critical, adamo),
    "repair_ (all layers), a new AdamO": (every, adamo),
    "repair_ (all), biases zero, new AdamO": (every_and_biases, adamo),
    "repair_ (all layers), Adam's state kept": (every, adam_as_it_was),
    "FIRE's scale, a new AdamO": (fire, adamo),
}


def learn(model: nn.Module, optimizer: Optimizer, task: Task) -> float:
    """25 epochs at batch 64; the accuracy on the whole task after them."""
    for _ in range(25):
        for rows in torch.randperm(len(task.inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(task.inputs[rows]), task.targets[rows]).backward()
            optimizer.step()
    return accuracy(model, task)


@torch.no_grad()
def accuracy(model: nn.Module, task: Task) -> float:
    return (model(task.inputs).argmax(1) == task.targets).float().mean().item()


def go_on(model: nn.Module, optimizer: Optimizer, tasks: TaskSequence) -> list[float]:
    return [learn(model, optimizer, tasks.task(index)) for index in range(RUINED, RUINED + AFTER)]


def retention(knowing: nn.Module, tasks: TaskSequence, next_task: int) -> dict[str, list[float]]:
    """Accuracy on the last task right after each repair, and on the next one after learning it."""
    found = {}
    ways: dict[str, Way] = {
        **{"nothing": nothing, "repair_ (critical layers)": critical, "repair_ (all layers)": every},
        **{"repair_ (all), biases zero": every_and_biases, "FIRE's scale": fire},
    }
    for way, repair in ways.items():
        model = copy.deepcopy(knowing)
        repair(model, tasks.task(next_task - 1).inputs)
        kept = accuracy(model, tasks.task(next_task - 1))
        found[way] = [kept, learn(model, Adam(model.parameters(), lr=LR), tasks.task(next_task))]
    return found


def run(
    seed: int, found: dict[str, list[list[float]]], kept: dict[int, dict[str, list[list[float]]]]
) -> float:
    """One seed; returns the accuracy on the last task before the repair."""
    torch.manual_seed(seed)
    tasks = stream("random-labels", load_data("digits", samples=1280), tasks=RUINED + AFTER, seed=seed)
    model = build("mlp", input_shape=tasks.input_shape, classes=10, width=128, depth=3)
    fresh = copy.deepcopy(model)
    optimizer = Adam(model.parameters(), lr=LR)
    last = 0.0
    for index in range(RUINED):
        last = learn(model, optimizer, tasks.task(index))
        if index + 1 in KNOWING:
            for way, values in retention(model, tasks, index + 1).items():
                kept[index + 1].setdefault(way, []).append(values)
    for way, (repair, make) in WAYS.items():
        network = copy.deepcopy(model)
        repair(network, tasks.task(RUINED - 1).inputs)
        found.setdefault(way, []).append(go_on(network, make(network, optimizer), tasks))
    found.setdefault("a fresh network, Adam", []).append(go_on(fresh, adam(fresh, optimizer), tasks))
    return last


def show(title: str, columns: list[str], found: dict[str, list[list[float]]]) -> None:
    print(f"| {title} | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for way, runs in found.items():
        cells = [f"{statistics.fmean(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in zip(*runs, strict=True)]
        print(f"| {way} | " + " | ".join(cells) + " |")


def main() -> None:
    """Prints the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[list[float]]] = {}
    kept: dict[int, dict[str, list[list[float]]]] = {tasks: {} for tasks in KNOWING}
    before = [run(seed, found, kept) for seed in range(args.seeds)]
    print(f"n={args.seeds} seeds; at chance is 0.10; task {RUINED - 1}, the last of Adam: ", end="")
    print(f"{statistics.fmean(before):.2f}; mean (lowest to highest) accuracy after each task\n")
    show("repair, then", [f"task {RUINED + i}" for i in range(AFTER)], found)
    for tasks, of in kept.items():
        print(f"\nThe same network after {tasks} tasks:\n")
        show("repair", [f"task {tasks - 1} right after", f"task {tasks}, learnt with Adam"], of)


if __name__ == "__main__":
    main()
