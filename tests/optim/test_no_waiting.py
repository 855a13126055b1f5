"""An optimizer step never makes the host wait for the device: the device's queue must not run dry.

Without a GPU the parameters are on the meta device, where a value that the host reads is an error, and a copy
from the host's memory is seen. With one, torch's own check is on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from isoplast import AdamO, attach

DEVICES = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]


class NumbersFromTheHost(TorchFunctionMode):
    """Collects the tensors that are made of numbers and copied to another device, which waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        makes = func in (torch.tensor, torch.as_tensor, torch.asarray)
        if makes and not isinstance(args[0], torch.Tensor) and result.device.type != "cpu":
            self.found.append(f"{func.__name__}({args[0]!r})")
        return result


class CopiesFromTheHost(TorchDispatchMode):
    """Collects the blocking copies between the CPU's memory and another device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if waits and "cpu" in {source.device.type, result.device.type} and source.device != result.device:
                self.found.append(f"{func}: {source.device} to {result.device}")
        return result


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
    else:
        with CopiesFromTheHost() as copies, NumbersFromTheHost() as numbers:
            yield
        assert copies.found + numbers.found == []


def network(device: str) -> nn.Module:
    """Small matrices that go in one stack, a large one, a kernel, and vectors."""
    layers = [
        nn.Linear(48, 48),
        nn.Linear(48, 48),
        nn.Linear(48, 1200),
        nn.Conv2d(3, 8, 3),
        nn.Linear(1200, 4),
    ]
    model = nn.ModuleList(layers).to(device)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    return model


def rate(kind: str, device: str) -> float | torch.Tensor:
    return 1e-3 if kind == "number" else torch.full((), 1e-3, device=device)


CASES = [
    pytest.param(every, settings, lr, id=f"{every}-{'-'.join(settings) or 'plain'}-{lr}")
    for every, settings, lr in itertools.product(
        (1, 3, "auto"),
        ({}, {"foreach": True}, {"fused": True}, {"capturable": True}, {"capturable": True, "fused": True}),
        ("number", "tensor"),
    )
    # torch's Adam refuses a tensor with foreach, and its plain loop waits for it; a graph captures no turns.
    if (lr == "number" or "fused" in settings or "capturable" in settings)
    and not ("capturable" in settings and every == 3)
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("every", "settings", "lr"), CASES)
def test_no_step_of_adamo_waits(every: Any, settings: dict[str, bool], lr: str, device: str) -> None:
    """Nor with a learning rate on the device, once that rate is known; "auto" acts every 5 steps here."""
    if device == "meta" and (settings.keys() & {"fused", "capturable"} or lr == "tensor"):
        pytest.skip("torch's Adam has no such form on the meta device, and no number is there to be known")
    optimizer = AdamO(
        network(device), lr=rate(lr, device), isometry=0.5, isometry_every=every, bias_decay=1e-3, **settings
    )
    optimizer.step()  # makes the state
    with no_waiting(device):
        for _ in range(7):
            optimizer.step()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("every", [1, 3])
def test_the_operator_form_waits_no_more(every: int, device: str) -> None:
    convolution = nn.Conv2d(8, 8, 3).to(device)
    for p in convolution.parameters():
        p.grad = torch.zeros_like(p)
    group = {"params": list(convolution.parameters()), "isometry_operator": 1}
    optimizer = AdamO([group], isometry_every=every, isometry=1e-2)
    optimizer.step()
    with no_waiting(device):
        for _ in range(7):
            optimizer.step()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("every", [1, "auto"])
@pytest.mark.parametrize(
    "make",
    [
        lambda ps: torch.optim.SGD(ps, lr=1e-3, momentum=0.9, foreach=True),
        lambda ps: torch.optim.AdamW(ps, lr=1e-3, foreach=True),
    ],
    ids=["sgd", "adamw"],
)
def test_attached_isometry_waits_no_more(
    make: Callable[..., torch.optim.Optimizer], every: Any, device: str
) -> None:
    model = network(device)
    optimizer = make(model.parameters())
    attach(optimizer, isometry=0.5, every=every)
    optimizer.step()
    with no_waiting(device):
        for _ in range(7):
            optimizer.step()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("every", [1, 3])
def test_a_step_that_the_scaler_skips_moves_nothing_and_waits_for_nothing(every: int) -> None:
    model = nn.Linear(64, 64, device="cuda")
    optimizer = AdamO(model, lr=1e-2, isometry=1.0, isometry_every=every, fused=True)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = [p.clone() for p in model.parameters()]
    optimizer.grad_scale = torch.ones((), device="cuda")
    optimizer.found_inf = torch.ones((), device="cuda")
    with no_waiting("cuda"):
        for _ in range(4):
            optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
    optimizer.found_inf.zero_()
    with no_waiting("cuda"):
        for _ in range(4):
            optimizer.step()
    assert not torch.equal(model.weight, before[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_learning_rate_on_the_device_is_read_again_when_it_changes() -> None:
    lr = torch.full((), 1e-2, device="cuda")
    weight = nn.Parameter(2 * torch.eye(64, device="cuda"))
    weight.grad = torch.zeros_like(weight)
    optimizer = AdamO([weight], lr=lr, isometry=1.0, isometry_every=1000, fused=True)
    optimizer.step()
    lr.mul_(2)
    with no_waiting("cuda"), pytest.raises(RuntimeError, match="synchroniz"):
        optimizer.step()
