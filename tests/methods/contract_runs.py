"""Short trainings of methods on tiny networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast import methods
from isoplast.methods import Combination, Method, Training, training
from isoplast.nn import build
from isoplast.testing import Network
from isoplast.testing._life import different, values

__all__ = ["different", "values"]

CLASSES = 3
SIZES: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (6,), "width": 8, "depth": 2},
    "cnn": {"input_shape": (2, 5, 5), "channels": 4, "width": 8},
    "resnet18": {"input_shape": (2, 4, 4), "width": 4},
    "vit": {"input_shape": (2, 8, 8), "width": 16, "depth": 2, "heads": 2},
}
BATCH = 5
STEPS_PER_TASK = 8
# What happens every so many steps or epochs in the source happens every 7 steps here, so that it happens.
RARE, OFTEN = 50, 7
# Other settings with which a method acts on a network of this size within some steps.
BUSY: dict[str, dict[str, Any]] = {
    "cbp": {"replacement_rate": 0.02, "maturity": 5},
    "snr": {"threshold": 1},
    "swr": {"fraction": 0.05},
}


def network(net: str = "mlp", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(net, classes=CLASSES, **SIZES[net])


def built(net: str) -> Network:
    """One of the networks of `isoplast.nn.build` for the contract."""

    def inputs(generator: torch.Generator) -> Tensor:
        return torch.randn(BATCH, *SIZES[net]["input_shape"], generator=generator)

    return Network(lambda: build(net, classes=CLASSES, **SIZES[net]), inputs)


def started(name: str, net: str = "mlp", **settings: Any) -> Training:
    return training(name, network(net), lr=1e-2, **settings)


def parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Combination) else (method,)


def example(name: str) -> str:
    """The method, or the company in which it makes sense."""
    return methods.get(name).info.example or name


def busy(name: str) -> dict[str, Any]:
    """Settings with which all parts of a method do what they do within a few steps."""
    settings: dict[str, Any] = {}
    for part in parts(methods.get(name)):
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
        rare = {key: OFTEN for key, value in values.items() if type(value) is int and value >= RARE}
        settings |= {
            f"{part.name}.{key}": value for key, value in {**rare, **BUSY.get(part.name, {})}.items()
        }
    return settings if "+" in name else {key.partition(".")[2]: value for key, value in settings.items()}


def batch(net: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(BATCH, *SIZES[net]["input_shape"], generator=generator)
    return inputs, torch.randint(CLASSES, (BATCH,), generator=generator)


def step(
    run: Training,
    data: tuple[Tensor, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    """One step on inputs and targets."""
    return run.step(lambda: loss(run.model(data[0]), data[1]), inputs=data[0])


def train(run: Training, steps: int, net: str = "mlp", seed: int = 0) -> list[Tensor]:
    """Steps on random batches, a task every 8 steps; returns the losses."""
    generator = torch.Generator().manual_seed(1000 * seed + run.steps + 1)
    device = next(run.model.parameters()).device
    losses = []
    for number in range(run.steps, run.steps + steps):
        inputs, targets = (tensor.to(device) for tensor in batch(net, generator))
        if number % STEPS_PER_TASK == 0:
            run.new_task(inputs, lambda x=inputs, y=targets: cross_entropy(run.model(x), y))
        losses.append(step(run, (inputs, targets)))
    return losses
