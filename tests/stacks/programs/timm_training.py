"""timm: its factory and registry, its groups for weight decay and layer decay, its schedulers."""

from __future__ import annotations

from typing import Any

import torch
from timm_without_torchvision import stand_in
from torch import nn

stand_in()

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
