"""What is measured at task boundaries, on networks whose answers are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from isoplast import diagnostics
from isoplast.nn import build
from isoplast.streams import Classification
from isoplast.study.run import _instruments
from isoplast.study.run._instruments import measure_network, score


def network(weight: torch.Tensor, bias: torch.Tensor) -> nn.Sequential:
    layer, head = nn.Linear(weight.shape[1], weight.shape[0]), nn.Linear(weight.shape[0], 2)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(layer, nn.ReLU(), head)


def measure(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, lr: float, classes: int = 2
) -> SimpleNamespace:
    """Scores and all instruments."""
    objective = Classification(classes)
    found = score(model, inputs, targets, objective) | measure_network(model, inputs, objective, lr)
    return SimpleNamespace(**found)


INPUTS = torch.tensor([[1.0, 1.0], [2.0, 0.5], [0.1, 3.0]])
TARGETS = torch.tensor([0, 1, 0])


def test_spectra_of_known_matrices() -> None:
    found = measure(network(torch.diag(torch.tensor([3.0, 4.0])), torch.zeros(2)), INPUTS, TARGETS, 1e-3)
    assert found.layers == ["0", "2"]
    assert (found.sigma_min[0], found.sigma_mean[0], found.sigma_max[0]) == pytest.approx((3, 3.5, 4))
    assert found.condition_number[0] == pytest.approx(4 / 3)
    entropy = -sum(p * math.log(p) for p in (3 / 7, 4 / 7))
    assert found.effective_rank[0] == pytest.approx(math.exp(entropy))


def test_dead_and_dormant_units_are_counted() -> None:
    # Units: alive (mean about 2.5), dead on every input, one that is far below a tenth of the average.
    weight = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [0.01, 0.0], [1.0, 1.0]])
    found = measure(network(weight, torch.zeros(4)), INPUTS, TARGETS, 1e-3)
    assert found.units == ["1"]
    assert found.dead == [0.25]
    assert found.dormant == [0.5]


def test_a_layer_that_is_dead_altogether_is_dormant_too() -> None:
    found = measure(network(torch.eye(2), torch.full((2,), -100.0)), INPUTS, TARGETS, 1e-3)
    assert (found.dead, found.dormant) == ([1.0], [1.0])


def test_channels_are_the_units_of_a_convolution() -> None:
    conv = nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1))
        conv.bias.zero_()
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    found = measure(model, torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64), 1e-3)
    assert found.dead == [pytest.approx(1 / 3)]
    assert found.layers == ["3"]  # a kernel of 3 x 1 is a vector, it has no spectrum to speak of


def test_accuracy_and_loss_are_those_of_all_inputs_whatever_the_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = build("mlp", input_shape=(2,), classes=2, width=8, depth=2)
    inputs, targets = torch.randn(101, 2), torch.randint(2, (101,))
    outputs = model(inputs)
    for chunk in (7, 1024):
        monkeypatch.setattr(_instruments, "_FORWARD_INPUTS", chunk)
        found = measure(model, inputs, targets, 1e-3)
        assert found.accuracy == (outputs.argmax(1) == targets).double().mean().item()
        # Sums of 101 float32 losses in different orders.
        assert found.loss == pytest.approx(nn.functional.cross_entropy(outputs, targets).item(), rel=1e-6)


def test_the_probes_are_those_of_the_diagnostics() -> None:
    torch.manual_seed(0)
    model = build("mlp", input_shape=(8,), classes=3, width=16, depth=2)
    inputs, targets = torch.randn(40, 8), torch.randint(3, (40,))
    found = measure(model, inputs, targets, 1e-2, classes=3)
    kernel = diagnostics.ntk(model, inputs[:24], centred=True)
    assert found.ntk_size == 24 * 2
    assert found.ntk_condition_number == kernel.condition_number
    assert found.ntk_participation_rank == kernel.participation_rank
    slopes = diagnostics.jacobian(model, inputs[:16], layers=False)
    assert found.jacobian_condition_number == slopes.condition_number
    probe = diagnostics.plasticity(model, inputs, tasks=2, steps=25, lr=1e-2, fresh=False)
    assert (found.plasticity, found.plasticity_learned) == (probe.value, probe.learned)
    assert found.plasticity_low < found.plasticity < found.plasticity_high
    sigma = diagnostics.weight_spectra(model)["head"].singular_values.double()
    assert found.sigma_count[-1] == 3
    assert found.sigma_mean_square[-1] == pytest.approx(sigma.square().mean().item())
    assert (found.sigma_quantiles[-1][0], found.sigma_quantiles[-1][-1]) == (sigma.min(), sigma.max())


def test_nothing_is_changed_by_measuring() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))
    model.train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    measure(model, INPUTS, TARGETS, 1e-3)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_weights_that_are_not_finite_are_not_called_healthy() -> None:
    model = network(torch.eye(2), torch.zeros(2))
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    found = measure(model, INPUTS, TARGETS, 1e-3)
    assert math.isnan(found.sigma_min[0])
    assert math.isnan(found.loss)


def test_of_an_isometric_layer_the_applied_weight_counts() -> None:
    model = build("mlp", input_shape=(6,), classes=3, width=8, depth=2, linear="isometric")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(7.0)  # changes the raw weight, not what an isometric layer applies
    found = measure(model, torch.randn(20, 6), torch.zeros(20, dtype=torch.int64), 1e-3)
    assert found.sigma_max[:-1] == pytest.approx([1.0] * (len(found.layers) - 1), abs=1e-3)
    assert found.sigma_max[-1] == pytest.approx(7.0, rel=1e-3)  # the head is plain
