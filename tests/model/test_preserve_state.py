"""What every instrument owes to the network it is lent, on networks that make it hard."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import (
    activity,
    curvature,
    gradients,
    inspect,
    jacobian,
    ntk,
    plasticity,
    update_ratio,
    weight_spectra,
)
from isoplast.model._preserve_state import preserve_state

Measure = Callable[[nn.Module, Tensor, Tensor], Any]
MEASURES: dict[str, Measure] = {
    "weights": lambda model, x, y: weight_spectra(model),
    "activity": lambda model, x, y: activity(model, x),
    "jacobian": lambda model, x, y: jacobian(model, x),
    "ntk": lambda model, x, y: ntk(model, x, targets=y),
    "lanczos": lambda model, x, y: ntk(model, x, method="lanczos", steps=4),
    "hessian": lambda model, x, y: curvature(model, x, y, steps=5),
    "gauss-newton": lambda model, x, y: curvature(model, x, y, kind="gauss-newton", steps=5),
    "gradients": lambda model, x, y: gradients(model, x, y),
    "plasticity": lambda model, x, y: plasticity(model, x, tasks=2, steps=2, fresh=False),
    "inspect": lambda model, x, y: inspect(model, x),
}
every_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 8, generator=generator), torch.arange(6) % 3


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


class Counting(nn.Module):
    """Writes to buffers in evaluation mode too, in place and by a new tensor."""

    calls: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.last = inputs.detach().mean()
        return self.network(inputs)  # type: ignore[no-any-return]


@every_measure
def test_buffers_that_a_forward_pass_writes_to_are_given_back(measure: Measure) -> None:
    model = Counting()
    calls, last = model.calls, model.last
    with contextlib.suppress(IsoplastError):  # the Jacobian's: torch.func refuses what writes in place
        measure(model, *batch())
    assert model.calls is calls
    assert model.last is last
    assert float(calls) == float(last) == 0.0


def test_buffers_that_nothing_wrote_to_stay_good_for_a_pending_backward_pass() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).eval()
    loss = model(batch()[0]).sum()  # saves the running statistics
    activity(model, batch()[0], layers=["0"])
    loss.backward()  # autograd refuses it if a saved buffer was written to
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("how", ["inside", "in place"])
@every_measure
def test_compiled_parts_are_measured_as_they_are_written(measure: Measure, how: str) -> None:
    plain, model = mlp(), mlp()
    if how == "inside":
        model[2] = torch.compile(model[2], backend="eager")  # type: ignore[assignment]
    else:
        model.compile(backend="eager")
        model(batch()[0])
    expected = list(measure(plain, *batch()).as_dict().values())
    found = list(measure(model, *batch()).as_dict().values())
    assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)  # of float32, in the same order


def test_a_state_dict_of_a_compiled_network_is_an_earlier_state() -> None:
    model = torch.compile(mlp(), backend="eager")
    before = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    assert update_ratio(model, before).ratio == pytest.approx(0.5)


@pytest.mark.parametrize("measure", ["jacobian", "ntk", "hessian", "gradients", "plasticity"])
def test_torchscript_is_refused_in_one_line(measure: str) -> None:
    model = torch.jit.trace(mlp(), batch()[0])  # type: ignore[no-untyped-call]
    with pytest.raises(IsoplastError, match="TorchScript"):
        MEASURES[measure](model, *batch())


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8, dtype=torch.complex64)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.inner(inputs.to(torch.complex64)).abs())  # type: ignore[no-any-return]


@pytest.mark.parametrize("measure", ["ntk", "hessian", "gradients"])
def test_derivatives_by_complex_parameters_are_refused_in_one_line(measure: str) -> None:
    with pytest.raises(IsoplastError, match=r"inner\.weight is complex"):
        MEASURES[measure](Complex(), *batch())


def test_samples_that_see_each_other_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, track_running_stats=False))
    for measure in ("ntk", "gradients"):
        with pytest.raises(IsoplastError, match="running statistics"):
            MEASURES[measure](model, *batch())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs.view(-1, 2, 4))[0][:, -1])  # type: ignore[no-any-return]


@every_measure
def test_recurrent_networks_are_measured(measure: Measure) -> None:
    enabled = torch.backends.mkldnn.enabled
    measure(Recurrent(), *batch())
    assert torch.backends.mkldnn.enabled == enabled


def test_the_jacobian_of_a_recurrent_network_is_that_of_autograd() -> None:
    model, x = Recurrent().double(), batch()[0].double()
    matrices = [torch.autograd.functional.jacobian(model, row[None]).reshape(3, 8) for row in x]  # type: ignore[no-untyped-call]
    expected = torch.linalg.svdvals(torch.stack(matrices))
    assert torch.allclose(jacobian(model, x).singular_values, expected, rtol=1e-12)  # float64


def test_products_with_the_kernel_of_what_has_no_forward_derivative() -> None:
    model = mlp().double()
    parametrizations.weight_norm(model[2])
    x = batch()[0].double()
    exact, free = ntk(model, x), ntk(model, x, method="lanczos", steps=18)
    # As many steps as eigenvalues find them all, to rounding of float64 relative to the largest.
    assert torch.allclose(free.eigenvalues, exact.eigenvalues, atol=1e-10 * float(exact.eigenvalues[0]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["2.weight", "2.bias"])
def test_one_broken_number_leaves_no_healthy_ones(name: str, value: float) -> None:
    model = mlp()
    model.get_parameter(name).data.flatten()[0] = value
    x, y = batch()
    numbers = {
        "jacobian": jacobian(model, x).condition_number,
        "layer": jacobian(model, x).layers["2"].condition_number,
        "ntk": ntk(model, x).condition_number,
        "lanczos": ntk(model, x, method="lanczos", steps=3).condition_number,
        "sharpness": curvature(model, x, y, steps=5).sharpness,
        "norm": gradients(model, x, y).sample_norms.sum().item(),
        "plasticity": plasticity(model, x, tasks=2, steps=2).value,
        "dormant": activity(model, x).dormant,
    }
    assert all(map(math.isnan, numbers.values())), numbers
    assert name in jacobian(model, x).non_finite
    assert not inspect(model).healthy
    assert not inspect(model, x).healthy
    assert not inspect(model.state_dict()).healthy


def test_the_jacobian_at_inputs_that_are_no_numbers_is_none() -> None:
    found = jacobian(mlp(), torch.full((2, 8), math.nan))
    assert not found.finite
    assert math.isnan(found.condition_number)
    assert math.isnan(found.layers["0"].condition_number)


class Masked(nn.Module):
    """Attention with an additive mask in a buffer, as many language models have it."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10)
        self.register_buffer("mask", torch.full((5, 5), -math.inf).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.table(tokens)
        return self.head((hidden @ hidden.mT + self.mask).softmax(-1) @ hidden)  # type: ignore[no-any-return]


def test_a_mask_of_minus_infinities_is_no_illness() -> None:
    tokens = torch.arange(20).view(4, 5) % 10
    found = ntk(Masked(), tokens)
    assert found.finite
    assert math.isfinite(found.trace)
    assert inspect(Masked()).healthy
    assert inspect(Masked().state_dict()).healthy


def test_modes_gradients_hooks_and_random_numbers_come_back_after_an_error() -> None:
    model = mlp().train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    gradient, state = model[0].weight.grad, torch.get_rng_state()

    def fail() -> None:
        with preserve_state(model) as network:
            torch.rand(3)
            network.requires_grad_(False)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.training
    assert model[0].weight.grad is gradient
    assert model[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
