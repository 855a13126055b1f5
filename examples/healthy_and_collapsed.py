"""Every number of every instrument, of a healthy network and of collapsed ones.

    python examples/healthy_and_collapsed.py [--tasks 12]

One network learns to tell apart 1280 handwritten digits by random labels, drawn anew for every task:
studies/demo.yaml, with Adam and with AdamO. Then all instruments of isoplast.diagnostics look at four
states of it: fresh, after one task with Adam, and after all tasks with Adam and with AdamO. What depends on
labels uses those of a task that none of them has seen. docs/what-each-number-means.md explains the numbers.

Needs the extra "bench" (pip install isoplast[bench]); takes about half a minute on one core.
"""

import copy
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from isoplast import AdamO
from isoplast.diagnostics import (
    Churn,
    Updates,
    activity,
    curvature,
    gradients,
    jacobian,
    ntk,
    plasticity,
    weight_spectra,
)
from isoplast.nn import build
from isoplast.streams import load_data, stream

TASKS = int(sys.argv[sys.argv.index("--tasks") + 1]) if "--tasks" in sys.argv else 12
LR, EPOCHS, BATCH = 3e-3, 25, 64

torch.set_num_threads(1)
data = load_data("digits", samples=1280)
tasks = stream("random-labels", data, tasks=TASKS + 1, seed=0)
images, unseen = data.inputs.flatten(1), tasks.task(TASKS).targets


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", input_shape=(64,), classes=10, width=128, depth=3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> float:
    """Train on tasks first to last - 1; return the accuracy on the last of them."""
    for task in range(first, last):
        labels = tasks.task(task).targets
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(images)).split(BATCH):
                optimizer.zero_grad()
                cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def first_steps(model: nn.Module) -> dict[str, float]:
    """What 20 steps of Adam on a new task change: means over the steps."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    updates, churn, found = Updates(model), Churn(model, images[-256:]), []
    for start in range(0, 20 * BATCH, BATCH):
        optimizer.zero_grad()
        cross_entropy(model(images[start : start + BATCH]), unseen[start : start + BATCH]).backward()
        optimizer.step()
        found.append({"ratio": updates.step().ratio, **churn.step().as_dict()})
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def look(model: nn.Module) -> dict[str, dict[str, float]]:
    """All instruments: the numbers of the network as a whole, by instrument."""
    few = images[:64]
    results = {
        "weights": weight_spectra(model, initial=fresh()).as_dict(),
        "weights of the last hidden layer": weight_spectra(model)["layers.2"].as_dict(),
        "activity": activity(model, images).as_dict(),
        "jacobian": jacobian(model, few, layers=False).as_dict(),
        "ntk": ntk(model, few, centred=True, targets=unseen[:64]).as_dict(),
        "gradients": gradients(model, images[:256], unseen[:256]).as_dict(),
        "updates and churn": first_steps(model),
        "curvature": curvature(model, images[:256], unseen[:256]).as_dict(),
        "plasticity": plasticity(model, images[:512], tasks=8, steps=100, lr=LR).as_dict(),
    }
    return {
        name: {key: value for key, value in numbers.items() if "/" not in key}
        for name, numbers in results.items()
    }


adam, adamo = fresh(), fresh()
with_adam = torch.optim.Adam(adam.parameters(), lr=LR)
accuracies = ["", f"{train(adam, with_adam, 0, 1):.2f}"]
once = copy.deepcopy(adam)
accuracies.append(f"{train(adam, with_adam, 1, TASKS):.2f}")
accuracies.append(f"{train(adamo, AdamO(adamo.parameters(), lr=LR, isometry=1e-2), 0, TASKS):.2f}")

columns = [look(model) for model in (fresh(), once, adam, adamo)]
heading = ("", "fresh", "Adam, 1 task", f"Adam, {TASKS}", f"AdamO, {TASKS}")
print(("{:28}" + "{:>13}" * 4).format(*heading))
print(("{:28}" + "{:>13}" * 4).format("accuracy on the last task", *accuracies))
for instrument, numbers in columns[0].items():
    print(f"\n{instrument}")
    for name in numbers:
        values = [f"{column[instrument].get(name, float('nan')):.3g}" for column in columns]
        print(("  {:26}" + "{:>13}" * 4).format(name, *values))
