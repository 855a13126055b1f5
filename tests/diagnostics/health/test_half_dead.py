"""Half of a layer dead: neither critical nor healthy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoplast.diagnostics import inspect


@pytest.mark.parametrize("inputs", [64, 512])
@pytest.mark.parametrize(("dead", "called"), [(7, True), (8, False), (12, False)])
def test_a_network_with_half_a_layer_dead_is_not_called_healthy(inputs: int, dead: int, called: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 5))
    with torch.no_grad():
        network[0].bias.fill_(1.0)
        network[0].bias[:dead] = -100.0
    found = inspect(network, torch.randn(inputs, 10))
    assert not found.critical
    assert found.healthy is called
    assert found.half_dead == (() if called else ("1",))
