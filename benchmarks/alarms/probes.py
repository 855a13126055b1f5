"""Short trainings of copies on tasks that need nothing but inputs: which of them tells of the next task?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from alarms.numbers import _targets
from alarms.plan import Recipe
from alarms.problems import Problem, evaluate

AT = (0, 1, 2, 5, 10, 20, 40, 70, 100, 150, 200, 300)
ROWS, BATCH = 128, 32
Curve = dict[str, list[float]]


def probe(
    model: nn.Module, optimizer: Optimizer | None, recipe: Recipe, of: Problem, inputs: Tensor,
    teacher: nn.Module, seed: int,
) -> dict[str, Curve]:  # fmt: skip
    """Loss and accuracy of copies after the steps in `AT`, by variant.

    random: fresh random targets, Adam; head: the same with a fresh head; teacher: the answers of a fresh
    network; kept: the recipe's optimizer with its state. The longer ones ask whether a network that begins
    late, because it is sure of what it knows, arrives. Costly networks get fewer steps.
    """
    x = inputs[:ROWS]
    random = _targets(of, x, seed)
    short, long = (70, 300) if len(inputs) > 2 * ROWS else (40, 200)
    adam: Callable[[nn.Module], Optimizer] = lambda net: Adam(net.parameters(), lr=recipe.probe_lr)  # noqa: E731
    found = {
        "random": train(_copy(model), adam, of, x, random, seed, short),
        "head": train(_fresh_head(model, seed), adam, of, x, random, seed, long),
    }
    if long == 300:
        found["teacher"] = train(_copy(model), adam, of, x, _answers(teacher, of, x), seed, long)
    if optimizer is not None:
        kept = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        found["kept"] = train(model, lambda net: optimizer, of, x, random, seed, short)
        model.load_state_dict(kept[0])
        optimizer.load_state_dict(kept[1])
        optimizer.zero_grad()
    return found


def trained_twin(fresh: nn.Module, recipe: Recipe, of: Problem, inputs: Tensor, seed: int) -> nn.Module:
    """A copy of a fresh network that has memorised the inputs once: as sure of something as trained ones."""
    twin, x = _copy(fresh), inputs[:ROWS]
    adam = Adam(twin.parameters(), lr=recipe.probe_lr)
    train(twin, lambda net: adam, of, x, _targets(of, x, seed + 2), seed + 2, 70)
    return twin


def train(
    network: nn.Module,
    make: Callable[[nn.Module], Any],
    of: Problem,
    x: Tensor,
    y: Tensor,
    seed: int,
    steps: int,
) -> Curve:
    """Train in place; what was seen at the steps in `AT`."""
    optimizer, draw = make(network), torch.Generator().manual_seed(seed)
    network.train()
    loss, hit = evaluate(network, of, x, y)
    losses, hits, order = [loss], [hit], torch.empty(0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for step in range(1, steps + 1):
            if len(order) < min(BATCH, len(x)):
                order = torch.randperm(len(x), generator=draw)
            rows, order = order[:BATCH], order[BATCH:]
            optimizer.zero_grad()
            of.objective(network(x[rows]), y[rows]).backward()
            optimizer.step()
            if step in AT:
                loss, hit = evaluate(network, of, x, y)
                losses.append(loss)
                hits.append(hit)
    return {"loss": [round(v, 4) for v in losses], "hit": [round(v, 4) for v in hits]}


def _copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def _head(model: nn.Module) -> nn.Linear:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]


def _fresh_head(model: nn.Module, seed: int) -> nn.Module:
    made = _copy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _head(made).reset_parameters()
    return made


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model(x)
    model.train(training)
    return found


def _answers(teacher: nn.Module, of: Problem, x: Tensor) -> Tensor:
    found = _standardised(_outputs(teacher, x))
    return found if of.loss == "numbers" else found.argmax(-1)


def _standardised(found: Tensor) -> Tensor:
    flat = found.flatten(0, -2)
    return (found - flat.mean(0)) / flat.std(0).clamp(min=1e-9)
