"""Wrappers that leave no matrix are found out, also after the optimizer was made (and in tests/stacks)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isoplast import AdamO, attach


def flat_of(model: nn.Module) -> nn.Parameter:
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in model.parameters()]))
    flat.grad = torch.ones_like(flat)
    return flat


@pytest.mark.parametrize("kind", ["adamo", "attach"])
@pytest.mark.parametrize("every", [1, "auto"])
def test_weights_that_are_replaced_by_a_flat_partition(kind: str, every: object) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    if kind == "adamo":
        optimizer: torch.optim.Optimizer = AdamO(model.parameters(), isometry_every=every)
    else:
        optimizer = torch.optim.AdamW(model.parameters())
        attach(optimizer, every=every)
    optimizer.param_groups[0]["params"] = [flat_of(model)]
    with pytest.raises(ValueError, match=r"group 0 were replaced by flat ones, shape \(23,\).*fully_shard"):
        optimizer.step()


def test_a_group_that_never_held_a_matrix_may_change() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    weights, biases = [p for p in model.parameters() if p.ndim == 2], [model[0].bias, model[1].bias]
    optimizer = AdamO([{"params": weights}, {"params": biases}])
    optimizer.param_groups[1]["params"] = biases[:1]
    biases[0].grad = torch.ones_like(biases[0])
    before = [bias.detach().clone() for bias in biases]
    optimizer.step()
    assert torch.allclose(biases[0], before[0] - 1e-3)  # Adam's first step: lr against the sign
    assert torch.equal(biases[1], before[1])


def test_placeholders_beside_a_matrix() -> None:
    placeholder = nn.Parameter(torch.empty(0))
    placeholder.ds_shape = torch.Size([4, 3])
    for make in (AdamO, lambda params: attach(torch.optim.SGD(params, lr=0.1))):
        with pytest.raises(ValueError, match=r"placeholders of DeepSpeed ZeRO 3.*fully_shard"):
            make([placeholder, nn.Parameter(torch.eye(3))])
    AdamO([placeholder, nn.Parameter(torch.eye(3))], isometry=0.0)


def test_what_is_owed_stands_in_the_state_after_a_state_dict() -> None:
    """Flat distributed checkpoints restore the keys that the optimizer's state has, and no others."""
    model = nn.Linear(4, 3)
    optimizer = AdamO(model, isometry_every=5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.step()
    saved = optimizer.state_dict()["state"][0]["isometry_owed"]
    assert optimizer.state[model.weight]["isometry_owed"] == saved > 0
    optimizer.step()
    assert optimizer.state_dict()["state"][0]["isometry_owed"] > saved
