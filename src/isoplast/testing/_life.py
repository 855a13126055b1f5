"""A method's training on a small network, and what is compared between two of them."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast.methods import Method, Training, training
from isoplast.model import run
from isoplast.testing._networks import Network

STEPS_PER_TASK = 8
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def start(method: Method, network: Network, lr: float, seed: int = 0) -> Training:
    """The training of a copy of an unused method on a network that a seed makes."""
    torch.manual_seed(seed)
    return training(copy.deepcopy(method), network.build(), lr=lr)


def advance(
    life: Training, network: Network, steps: int, *, tasks: bool = True, inputs: bool = True
) -> list[Tensor]:
    """Train on random inputs and targets that depend on the number of the step; returns the losses.

    Args:
        life: the training.
        network: its network.
        steps: how many.
        tasks: whether to say where tasks begin, every 8 steps.
        inputs: whether to give the inputs to every step.
    """
    device = next(life.model.parameters()).device
    losses = []
    for step in range(life.steps, life.steps + steps):
        batch = on(device, network.inputs(torch.Generator().manual_seed(step)))

        def loss(batch: Any = batch, step: int = step) -> Tensor:
            return distance(run(life.model, batch), step)

        if tasks and step % STEPS_PER_TASK == 0:
            life.new_task(batch, loss)
        losses.append(life.step(loss, inputs=batch if inputs else None))
    return losses


def distance(outputs: Any, seed: int) -> Tensor:
    """The mean squared distance of all outputs from random targets, whatever their structure."""
    generator = torch.Generator().manual_seed(seed)
    terms = [
        (output - torch.randn(output.shape, generator=generator).to(output)).square().mean()
        for output in tensors_in(outputs)
    ]
    return torch.stack(terms).sum()


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a tensor, a tuple or a dict."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in tensors_in(item)]


def on(device: torch.device, value: Any) -> Any:
    """Inputs on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: on(device, item) for key, item in value.items()}
    return tuple(on(device, item) for item in value)


def outputs(model: nn.Module, batch: Any) -> Tensor:
    """All outputs in evaluation mode as one vector, without touching global random numbers or modes."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        found = run(model.eval(), batch)
    for module, mode in modes:
        module.training = mode
    return torch.cat([tensor.flatten() for tensor in tensors_in(found)])


def values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    found = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in found}


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that are not the same to the bit."""
    return [
        name
        for name in {**one, **other}
        if name not in one or name not in other or not torch.equal(one[name], other[name])
    ]


def not_owned(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Trainable tensors that the optimizer does not have exactly once, and what it has beside the model's."""
    owned = [id(p) for group in optimizer.param_groups for p in group["params"]]
    own = {id(p) for p in model.parameters()}
    wrong = [n for n, p in model.named_parameters() if p.requires_grad and owned.count(id(p)) != 1]
    return wrong + ["a parameter that is not in the model" for i in owned if i not in own]


def places(model: nn.Module) -> dict[str, int]:
    """Which tensor object is at which place, shared ones at all of theirs."""
    return {name: id(tensor) for name, tensor in model.named_parameters(remove_duplicate=False)}


def hooks(model: nn.Module) -> list[str]:
    """The modules and parameters with hooks on them."""
    found = [
        name or "the network" for name, m in model.named_modules() if any(getattr(m, kind) for kind in _HOOKS)
    ]
    return found + [name for name, p in model.named_parameters() if p._backward_hooks]


def saved(life: Training) -> bytes:
    """A checkpoint as a file holds it."""
    file = io.BytesIO()
    torch.save(life.state_dict(), file)
    return file.getvalue()


def restore(life: Training, checkpoint: bytes) -> None:
    """Go on from a checkpoint, which may hold tensors, numbers, words, dicts and lists only."""
    life.load_state_dict(torch.load(io.BytesIO(checkpoint), weights_only=True))
