"""Parameters of lazy layers before their first batch: refused where isometry would need their shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoplast import AdamO, attach


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))


def test_isometry_of_what_has_no_shape_is_refused() -> None:
    with pytest.raises(
        ValueError, match="parameter 0 is not initialised yet: run one batch through the model"
    ):
        AdamO(network().parameters())
    with pytest.raises(ValueError, match=r"2\.weight is not initialised yet"):
        AdamO(list(network().named_parameters())[2:])
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="not initialised yet"):
        attach(optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert "isometry" not in optimizer.param_groups[0]


def test_without_isometry_they_are_taken_as_adam_takes_them() -> None:
    found = []
    for make in (
        lambda p: AdamO(p, isometry=0.0, weight_decay=0.0),
        lambda p: torch.optim.AdamW(p, weight_decay=0.0),
    ):
        model = network()
        optimizer = make(model.parameters())
        model(torch.ones(4, 2, 5, 5)).square().mean().backward()
        optimizer.step()
        found.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *found))


def test_after_the_first_batch_they_are_matrices() -> None:
    model = network()
    model(torch.ones(4, 2, 5, 5))
    assert AdamO(model.parameters()).report().matrices == 3
