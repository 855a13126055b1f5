"""timm: its factory and registry, its groups for weight decay and layer decay, its schedulers."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn


class _Names(type):
    """Classes whose attributes are their own names."""

    def __getattr__(cls, name: str) -> str:
        return name


class _Nothing(ModuleType):
    """A stand-in for torchvision, of which timm's models and optimizers need the names alone."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Finder:
    """Finds torchvision and all its modules: its builds fit one build of torch each, and few machines."""

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Nothing(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.append(_Finder())  # type: ignore[arg-type]

import timm.optim  # noqa: E402
from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from timm.optim._optim_factory import default_registry  # noqa: E402
from timm.scheduler import CosineLRScheduler  # noqa: E402

from isoplast import AdamO, attach  # noqa: E402


def transformer() -> VisionTransformer:
    """A vision transformer of two small layers."""
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5)


def steps(model: nn.Module, optimizer: Any, schedule: Any = None, number: int = 60) -> None:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 5
    for step in range(number):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step(step + 1)


def spread(weight: torch.Tensor) -> float:
    """The largest distance of a singular value from one."""
    return float((torch.linalg.svdvals(weight.detach().flatten(1)) - 1).abs().max())


def factory(**_: Any) -> None:
    """AdamO in timm's registry, by name; its groups for weight decay and the schedule are timm's."""
    default_registry.register(
        timm.optim.OptimInfo(name="adamo", opt_class=AdamO, description="Adam, isometric", has_betas=True)
    )
    model = transformer()
    optimizer = timm.optim.create_optimizer_v2(model, "adamo", lr=3e-3, weight_decay=0.01, isometry=30.0)
    assert isinstance(optimizer, AdamO)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.01]
    steps(model, optimizer, CosineLRScheduler(optimizer, t_initial=80))
    for weight in (model.blocks[0].mlp.fc1.weight, model.blocks[1].attn.proj.weight):
        assert spread(weight) < 0.2, spread(weight)


def layer_decay(**_: Any) -> None:
    """Rates by depth, and attach(model=) for what timm's groups do not say: q, k and v are three matrices."""
    model = transformer()
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=3e-3, weight_decay=0.0, layer_decay=0.7)
    schedule = CosineLRScheduler(optimizer, t_initial=80)
    schedule.step(0)
    attachment = attach(optimizer, isometry=30.0, model=model)
    kept = attachment.report().matrices
    assert kept == 1 + 2 * (3 + 1 + 2) + 1, kept
    rates = {group["lr"] for group in optimizer.param_groups}
    assert len(rates) == 4, rates
    steps(model, optimizer, schedule)
    for part in model.blocks[1].attn.qkv.weight.chunk(3):
        assert spread(part) < 0.3, spread(part)
