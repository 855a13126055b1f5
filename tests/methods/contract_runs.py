"""Short lives of methods on tiny networks, and what is compared between them."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from isoplast import methods
from isoplast.methods import Combination, Method, TaskContext, notify_task, train_step
from isoplast.nn import build

CLASSES = 3
NETWORKS: dict[str, dict[str, Any]] = {
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
}
# Where a method has nothing to do: behind BatchNorm every unit fires in every batch, and these networks
# normalise already.
IDLE = {("snr", "resnet18"), ("batchnorm", "resnet18"), ("layernorm", "vit")}
# Networks that a method cannot take, and what it says then.
REFUSED: dict[tuple[str, str], str] = {
    ("batchnorm", "vit"): "normalises over samples, and blocks.0.attention works on tokens: use layernorm",
    ("crelu", "resnet18"): "build the network with activation='crelu'",
    ("fourier", "resnet18"): "build the network with activation='fourier'",
}


def network(net: str = "mlp", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(net, classes=CLASSES, **NETWORKS[net])


def started(name: str, net: str = "mlp", **hyper: Any) -> tuple[Method, nn.Module, Optimizer]:
    method = methods.get(name, **hyper)
    model = method.prepare(network(net))
    return method, model, method.optimizer(model, 1e-2)


def parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Combination) else (method,)


def example(name: str) -> str:
    """The method, or the company in which it makes sense."""
    return methods.get(name).info.example or name


def busy(name: str) -> dict[str, Any]:
    """Settings with which all parts of a method do what they do within a few steps."""
    hyper: dict[str, Any] = {}
    for part in parts(methods.get(name)):
        values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
        rare = {key: OFTEN for key, value in values.items() if type(value) is int and value >= RARE}
        hyper |= {f"{part.name}.{key}": value for key, value in {**rare, **BUSY.get(part.name, {})}.items()}
    return hyper if "+" in name else {key.partition(".")[2]: value for key, value in hyper.items()}


def batch(net: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(BATCH, *NETWORKS[net]["input_shape"], generator=generator)
    return inputs, torch.randint(CLASSES, (BATCH,), generator=generator)


def train(
    method: Method,
    model: nn.Module,
    optimizer: Optimizer,
    steps: int,
    seed: int = 0,
    net: str = "mlp",
    first: int = 1,
) -> list[Tensor]:
    """Steps first, first + 1, ... on random batches, with every hook; returns the losses."""
    generator = torch.Generator().manual_seed(1000 * seed + first)
    device = next(model.parameters()).device
    losses = []
    for step in range(first, first + steps):
        inputs, targets = (tensor.to(device) for tensor in batch(net, generator))
        if step % STEPS_PER_TASK == 1:
            notify_task(method, TaskContext(model, optimizer, step // STEPS_PER_TASK, inputs, targets))
        losses.append(train_step(method, model, optimizer, cross_entropy, (inputs, targets), step))
    return losses


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


def hooked(model: nn.Module) -> list[str]:
    """The modules with hooks on them."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [name for name, module in model.named_modules() if any(getattr(module, kind) for kind in kinds)]


def saved(method: Method, model: nn.Module, optimizer: Optimizer) -> bytes:
    """A checkpoint as a file holds it."""
    file = io.BytesIO()
    rng = [torch.get_rng_state(), torch.cuda.get_rng_state_all()]
    torch.save([model.state_dict(), optimizer.state_dict(), method.state, rng], file)
    return file.getvalue()


def restore(method: Method, model: nn.Module, optimizer: Optimizer, checkpoint: bytes) -> None:
    """Go on from a checkpoint, which may hold tensors, numbers, words, dicts and lists only."""
    weights, moments, memory, rng = torch.load(io.BytesIO(checkpoint), weights_only=True)
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    method.load_state(memory)
    torch.set_rng_state(rng[0])
    torch.cuda.set_rng_state_all(rng[1])
