"""orthogonalize_ repairs a ruined network at once; AdamO keeps it repaired.

The demo's network after twelve tasks of Adam, at chance, goes on in four ways on the same tasks;
a fresh network learns them beside it.

    python benchmarks/orthogonalize_repairs_at_once.py [--seeds 3]        # needs isoplast[bench]
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from isoplast import AdamO, orthogonalize_
from isoplast.nn import build
from isoplast.streams import TaskSequence, load_data, stream

LR, RUINED, AFTER = 3e-3, 12, 5
Make = Callable[[nn.Module], Optimizer]


def adam(model: nn.Module) -> Optimizer:
    return Adam(model.parameters(), lr=LR)


def adamo(model: nn.Module) -> Optimizer:
    return AdamO(model.parameters(), lr=LR, isometry=1e-2)


def learn(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor) -> float:
    """25 epochs at batch 64; the accuracy on the whole task after them."""
    for _ in range(25):
        for rows in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (model(inputs).argmax(1) == targets).float().mean().item()


def go_on(model: nn.Module, make: Make, project: bool, tasks: TaskSequence) -> list[float]:
    """The accuracies on the next tasks, on a copy of the network."""
    model = copy.deepcopy(model)
    if project:
        orthogonalize_(model)
    optimizer = make(model)
    accuracies = []
    for index in range(RUINED, RUINED + AFTER):
        task = tasks.task(index)
        accuracies.append(learn(model, optimizer, task.inputs, task.targets))
    return accuracies


def main() -> None:
    """Prints the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data("digits", samples=1280)
    ways: dict[str, tuple[Make, bool]] = {
        "Adam goes on": (adam, False),
        "AdamO": (adamo, False),
        "orthogonalize_, then Adam": (adam, True),
        "orthogonalize_, then AdamO": (adamo, True),
    }
    found: dict[str, list[list[float]]] = {way: [] for way in [*ways, "a fresh network with AdamO"]}
    before = []
    for seed in range(args.seeds):
        torch.manual_seed(seed)
        tasks = stream("random-labels", data, tasks=RUINED + AFTER, seed=seed)
        model = build("mlp", input_shape=tasks.input_shape, classes=10, width=128, depth=3)
        fresh = copy.deepcopy(model)
        optimizer = adam(model)
        for index in range(RUINED):
            task = tasks.task(index)
            accuracy = learn(model, optimizer, task.inputs, task.targets)
        before.append(accuracy)
        for way, (make, project) in ways.items():
            found[way].append(go_on(model, make, project, tasks))
        found["a fresh network with AdamO"].append(go_on(fresh, adamo, False, tasks))
    print(f"n={args.seeds} seeds; task {RUINED - 1}, the last one of Adam: {statistics.fmean(before):.2f}\n")
    print("| goes on with | " + " | ".join(f"task {RUINED + i}" for i in range(AFTER)) + " |")
    print("|---|" + "---|" * AFTER)
    for way, runs in found.items():
        cells = [f"{statistics.fmean(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in zip(*runs, strict=True)]
        print(f"| {way} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
