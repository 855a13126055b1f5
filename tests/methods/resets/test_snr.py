"""Self-normalised resets: silences, thresholds and resets traced by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.methods import get
from isoplast.methods._protocol import StepContext
from isoplast.methods.resets.snr import SelfNormalizedResets
from isoplast.nn import build


def play(method: SelfNormalizedResets, firing: list[list[bool]]) -> list[Tensor]:
    """The thresholds' view of a sequence of firings: which units are due after each step."""
    return [method._count(torch.tensor(fired)) for fired in firing]


def test_silences_and_gaps_by_hand() -> None:
    """Unit 0 fires always, unit 1 at steps 1 and 4, unit 2 never; the threshold is 3."""
    method = SelfNormalizedResets(threshold=3)
    due = play(method, [[True, True, False], [True, False, False], [True, False, False], [True, True, False]])
    assert [each.tolist() for each in due] == [
        [False, False, False],
        [False, False, False],
        [False, False, True],
        [False, False, False],
    ]
    state = method.state
    assert state["silence"].tolist() == [0, 0, 1]
    # One is the start; gaps 1, 1, 1, 1 of unit 0, 1 and 3 of unit 1, and the reset's 3 of unit 2.
    assert state["gaps"].tolist() == [1 + 4, 1 + 4, 1 + 3]
    assert state["arrivals"].tolist() == [1 + 4, 1 + 2, 1 + 1]


def test_thresholds_by_hand() -> None:
    """-ln(1 - p) = 3 at p = 1 - e^-3: percentiles of 3, 5 and 6 steps, of which 3 is the old threshold."""
    method = SelfNormalizedResets(threshold=3, percentile=1 - math.exp(-3))
    play(method, [[True, True, False], [True, False, False], [True, False, False], [True, True, False]])
    method.state["thresholds"] = torch.tensor([4, 4, 8])
    method._update()
    # 3 < 4: down to it; 5 >= 4: doubled; 6 < 8: down to it.
    assert method.state["thresholds"].tolist() == [3, 8, 6]
    assert method.state["gaps"].tolist() == method.state["arrivals"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("net", ["mlp", "resnet18"])
def test_a_unit_that_stays_silent_is_reset_in_time(net: str) -> None:
    torch.manual_seed(0)
    shape = {"mlp": (6,), "resnet18": (2, 8, 8)}[net]
    method = SelfNormalizedResets(threshold=3)
    model = method.prepare(build(net, input_shape=shape, classes=3, width=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    inputs = torch.randn(32, *shape)
    method.begin(model, optimizer)
    with torch.no_grad():
        for live, _ in method.groups:
            for entries in (*live.incoming, *live.scales):
                if entries.slot.tensor in ("weight", "bias"):
                    entries[entries.tensor][1] = 0.0 if entries.slot.tensor == "weight" else -1.0
    for step in (1, 2, 3):
        for live, _ in method.groups:
            for entries in live.outgoing:
                assert entries[entries.tensor.detach()][1].any()
        model(inputs)
        method.after_step(StepContext(model, optimizer, inputs, torch.zeros(()), step))
    for live, _ in method.groups:
        for entries in live.outgoing:
            view = entries[entries.tensor.detach()]
            assert not view[1].any()
            assert view[2].any()
        assert live.incoming[0][live.incoming[0].tensor.detach()][1].any()


def test_values_of_attention_are_left_alone() -> None:
    method = SelfNormalizedResets()
    model = method.prepare(build("vit", input_shape=(2, 8, 8), classes=3, width=16, depth=2, heads=2))
    method.begin(model, method.optimizer(model, 1e-3))
    assert [live.name for live, _ in method.groups] == ["blocks.0.activation", "blocks.1.activation"]


def test_an_activation_fires_if_it_is_positive_for_any_sample_at_any_position() -> None:
    method = SelfNormalizedResets()
    model = method.prepare(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1)))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))  # type: ignore[index, union-attr, operator]
        model[0].bias.zero_()  # type: ignore[index, union-attr, operator]
    images = torch.zeros(2, 1, 3, 3)
    images[1, 0, 2, 1] = 1.0
    method.begin(model, method.optimizer(model, 1e-3))
    model(images)
    ((_, (sensor,)),) = method.groups
    assert (sensor.value > 0).tolist() == [True, False]


def test_bad_settings() -> None:
    with pytest.raises(IsoplastError, match=r"percentile of method snr is 1.0: it must be in \(0, 1\)"):
        get("snr", percentile=1.0)
    with pytest.raises(IsoplastError, match="threshold of method snr is 0"):
        get("snr", threshold=0)
