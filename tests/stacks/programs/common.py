"""What the programs share: small networks, batches, the plain training loop that others must equal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast import AdamO, param_groups

# Strong enough that 12 steps without the isometry step end 0.06 away from 12 with it.
SETTINGS: dict[str, Any] = {"lr": 1e-2, "isometry": 0.3}

# Of isometry_every: the exact step in every step, amortised as AdamO chooses, and every third step.
MODES: tuple[Any, ...] = (1, "auto", 3)


def mlp(widths: Iterable[int] = (20, 33, 17, 3), dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Tall and wide layers, no width a multiple of another, the same weights at every call."""
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    sizes = list(widths)
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.ReLU()]
    torch.random.set_rng_state(generator)
    return nn.Sequential(*layers[:-1]).to(dtype)


def batch(rows: int = 16, width: int = 20, classes: int = 3) -> tuple[Tensor, Tensor]:
    """The same inputs and targets in every process."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (rows,), generator=generator)


def mine(tensor: Tensor) -> Tensor:
    """This process's rows of a batch."""
    return tensor.chunk(dist.get_world_size())[dist.get_rank()]


def adamo(model: nn.Module, **settings: Any) -> AdamO:
    """AdamO for the groups of a model."""
    return AdamO(param_groups(model), **{**SETTINGS, **settings})


def train(
    model: Callable[[Tensor], Tensor], optimizer: Optimizer, inputs: Tensor, targets: Tensor, steps: int = 12
) -> None:
    """Some steps of cross-entropy on one batch."""
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def alone(model: nn.Module, steps: int = 12, **settings: Any) -> nn.Module:
    """A copy of the model trained by one process on the whole batch: what the others must equal."""
    model = copy.deepcopy(model)
    train(model, adamo(model, **settings), *batch(), steps)
    return model


def whole(tensor: Tensor) -> Tensor:
    """A parameter with all its shards; to be called by all processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def apart(first: nn.Module, second: nn.Module) -> float:
    """The largest difference between the parameters of two models."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max((whole(p) - whole(q)).abs().max().item() for p, q in pairs)


def must_be_equal(model: nn.Module, reference: nn.Module, tolerance: float = 1e-6) -> None:
    """Fails if two trained models differ, or if the reference did not feel the isometry step."""
    difference = apart(model, reference)
    assert difference <= tolerance, f"{difference:.3g} apart"


def must_act(settings: dict[str, Any], steps: int = 12, **_: Any) -> None:
    """Fails if these settings' isometry step moves nothing: then all comparisons would prove nothing."""
    difference = apart(alone(mlp(), steps, **settings), alone(mlp(), steps, **{**settings, "isometry": 0.0}))
    assert difference > 0.03, f"isometry moved the weights by {difference:.3g} only"
