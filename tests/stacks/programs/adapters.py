"""LoRA adapters by peft: what AdamO refuses, and what adapter_groups keeps isometric."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from isoplast import AdamO, attach
from isoplast.integrations import adapter_groups

warnings.filterwarnings("ignore", module="peft")


class Network(nn.Module):
    """Two layers to be adapted and a classifier that is trained as a whole."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(20, 32), nn.Linear(32, 24)
        self.classifier = nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.second(self.first(x).relu()).relu())


def adapted(classifier: bool) -> nn.Module:
    saved = ["classifier"] if classifier else None
    return get_peft_model(
        Network(), LoraConfig(r=4, target_modules=["first", "second"], modules_to_save=saved)
    )


def lora(**_: Any) -> None:
    """Adapters alone and beside a classifier: refused as they are, kept isometric by their groups."""
    for classifier in (False, True):
        model = adapted(classifier)
        for make in (
            lambda model=model: AdamO(model),
            lambda model=model: AdamO(model.named_parameters()),
            lambda model=model: attach(torch.optim.SGD(model.parameters(), lr=0.1), model=model),
        ):
            with pytest.raises(ValueError, match=r"lora_B.*adapter_groups"):
                make()
        AdamO(model, isometry=0.0)
        optimizer = AdamO(adapter_groups(model), lr=1e-3, isometry=10.0)
        assert optimizer.report().matrices == 2 + classifier, optimizer.report()
        inputs, targets = torch.randn(64, 20), torch.randint(3, (64,))
        for _step in range(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        for name, p in model.named_parameters():
            values = torch.linalg.svdvals(p.detach()) if p.ndim == 2 else None
            if "lora_A" in name:
                assert 0.75 < values.min() < values.max() < 1.25, (name, values)
            if "lora_B" in name:
                assert 0 < values.max() < 0.9, (name, values)
