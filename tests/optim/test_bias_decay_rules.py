"""Which vectors bias decay shrinks: biases of layers, nothing of a normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoplast import AdamO, param_groups


@pytest.mark.parametrize("by_module", [True, False], ids=["AdamO(model)", "param_groups(model)"])
@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)], ids=lambda n: type(n).__name__
)
def test_bias_decay_shrinks_biases_and_leaves_gains_and_shifts_alone(
    norm: nn.Module, by_module: bool
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # Adam itself moves nothing
    groups = model if by_module else param_groups(model)
    AdamO(groups, lr=0.1, bias_decay=0.5, isometry_every=1).step()
    assert torch.equal(model[0].bias, torch.full((4,), 2.0 * (1 - 0.1 * 0.5)))
    assert torch.equal(model[2].bias, torch.full((2,), 2.0 * (1 - 0.1 * 0.5)))
    assert torch.equal(norm.weight, torch.full((4,), 2.0))
    assert torch.equal(norm.bias, torch.full((4,), 2.0))
