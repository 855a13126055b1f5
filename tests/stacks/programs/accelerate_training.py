"""Accelerate: prepared optimizers, accumulation, saved states, an attachment to what prepare() returned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from common import SETTINGS, adamo, mlp, must_be_equal
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from isoplast import attach
from isoplast.integrations import Follow


def rows() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 20, generator=generator)
    return DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=16)


def epochs(accelerator: Accelerator, model: nn.Module, optimizer: Any, data: Any, number: int) -> None:
    """The loop of Accelerate's guide."""
    for _epoch in range(number):
        for inputs, targets in data:
            with accelerator.accumulate(model):
                accelerator.backward(cross_entropy(model(inputs), targets))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()


def equal(**_: Any) -> None:
    """AdamO and an attachment, two batches a step, equal a loop without Accelerate."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    for kind in ("adamo", "attached before", "attached after"):
        model, other = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
        plain = adamo(other) if kind == "adamo" else torch.optim.SGD(other.parameters(), lr=0.1)
        made = adamo(model) if kind == "adamo" else torch.optim.SGD(model.parameters(), lr=0.1)
        if kind != "adamo":
            attach(plain, isometry=0.1)
        if kind == "attached before":
            attach(made, isometry=0.1)
        prepared, optimizer, data = accelerator.prepare(model, made, rows())
        if kind == "attached after":
            attach(optimizer, isometry=0.1)
        epochs(accelerator, prepared, optimizer, data, 5)
        for _epoch in range(5):
            for number, (inputs, targets) in enumerate(rows()):
                (cross_entropy(other(inputs), targets) / 2).backward()
                if number % 2:
                    nn.utils.clip_grad_norm_(other.parameters(), 1.0)
                    plain.step()
                    plain.zero_grad()
        must_be_equal(model, other)
        accelerator.free_memory()


def resumed(folder: Path, **_: Any) -> None:
    """ReDo behind a prepared optimizer, saved by save_state, goes on to the same bits."""
    torch.manual_seed(2)
    accelerator = Accelerator(cpu=True)
    weights: list[list[Tensor]] = []
    for resume in (False, True):
        accelerator.free_memory()
        accelerator._custom_objects.clear()
        model, optimizer, data = accelerator.prepare(*_new(), rows())
        following = Follow("redo", every=3, tau=0.5)
        accelerator.register_for_checkpointing(following)
        if resume:
            accelerator.load_state(str(folder / "saved"))
        with following.start(model, optimizer):
            if not resume:
                epochs(accelerator, model, optimizer, data, 2)
                accelerator.save_state(str(folder / "saved"))
            epochs(accelerator, model, optimizer, data, 2)
        assert following.steps == 16
        weights.append([p.detach().clone() for p in model.parameters()])
    for found, expected in zip(*weights, strict=True):
        assert torch.equal(found, expected)


def _new() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = mlp(dtype=torch.float32)
    return model, adamo(model, **SETTINGS)
