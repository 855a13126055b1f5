"""Half precision, autocast, and how far float32 is from float64."""

import pytest
import torch
from given_matrices import normal, orthonormal

from isoplast.isometry import (
    flow_step,
    flow_step_,
    gram_deviation,
    isometry_step,
    isometry_step_,
    newton_schulz,
    penalty,
    penalty_gradient,
    polar_factor,
    power_iteration,
    singular_values,
)

STEPS = (isometry_step, isometry_step_, flow_step, flow_step_)
HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shape", [(130, 70), (70, 130), (64, 64)])
def test_half_precision_is_float32_rounded_once(shape, step, dtype):
    w = 1.2 * normal(*shape, dtype=torch.float32).to(dtype)
    in_float32 = step(w.float(), 1e-2).to(dtype)
    result = step(w.clone(), 1e-2)
    assert result.dtype == dtype
    assert torch.equal(result, in_float32)


@pytest.mark.parametrize("dtype", HALVES)
def test_gram_of_half_precision_is_float32(dtype):
    w = orthonormal(256, 64).to(dtype)
    deviation = gram_deviation(w)
    assert deviation.dtype == torch.float32
    assert torch.equal(deviation, gram_deviation(w.float()))
    # The deviation near isometry is of the order of the rounding of W; a half-precision Gram, whose
    # diagonal is near one, would carry half an ulp of one on top of it and could not even show it.
    assert deviation.diagonal().abs().unique().numel() > 16


@pytest.mark.parametrize("function", [penalty, penalty_gradient, singular_values])
@pytest.mark.parametrize("dtype", HALVES)
def test_measures_of_half_precision_are_float32(function, dtype):
    assert function(normal(5, 4).to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
@pytest.mark.parametrize("function", [polar_factor, newton_schulz])
def test_factors_keep_the_dtype(function, dtype):
    assert function(normal(5, 4).to(dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("shape", [(48, 32), (32, 48)])
def test_autocast_does_not_leak_in(shape, dtype):
    w, v = 1.2 * normal(*shape, dtype=torch.float32), torch.ones(shape[1])
    calls = [lambda step=step: step(w.clone(), 1e-2) for step in STEPS]
    calls += [lambda f=f: f(w) for f in (gram_deviation, penalty, penalty_gradient, singular_values)]
    calls += [lambda: polar_factor(w), lambda: newton_schulz(w), lambda: power_iteration(w, v, 3)[0]]
    outside = [call() for call in calls]
    with torch.autocast("cpu", dtype=dtype):
        assert (w @ w.mT).dtype == dtype, "autocast is not in force"
        inside = [call() for call in calls]
        assert torch.is_autocast_enabled("cpu")
    for one, other in zip(outside, inside, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(512, 96), (96, 512), (192, 192)])
@pytest.mark.parametrize("c", [1e-5, 1e-3, 1e-2])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_float32_step_is_float64_within_rounding(shape, c, scale):
    w = scale * normal(*shape, dtype=torch.float32)
    w64 = w.double()
    reference = w64 - c * penalty_gradient(w64)
    error = (isometry_step(w, c).double() - reference).norm()
    # Worst case of Higham's "Accuracy and stability", 3.5, in Frobenius norms, u = 2^-24: the sum
    # rounds W once; the Gram's inner products have length L, those of the application length k; the
    # subtraction of I, the scaling by -4c and the rounding of c add three more.
    u, (k, length) = 2.0**-24, sorted(shape)
    norm, deviation = w64.norm(), gram_deviation(w64).norm()
    bound = u * reference.norm() + 4 * c * u * ((length + 1) * norm**3 + (k + 4) * norm * deviation)
    assert error <= 1.01 * bound
    # And by how much better it really is: errors of inner products add up like a random walk.
    assert error <= u * reference.norm() + 4 * c * u * 4 * length**0.5 * norm * (1 + deviation)


@pytest.mark.parametrize("total", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("shape", [(256, 96), (96, 256), (128, 128)])
@pytest.mark.parametrize("step", [flow_step, flow_step_])
def test_float32_flow_is_float64_within_rounding(shape, total, step):
    w = 1.1 * normal(*shape, dtype=torch.float32)
    error = (step(w.clone(), total).double() - flow_step(w.double(), total)).norm() / w.double().norm()
    # Condition of I + 3 eps S / 4 here: at most (1 + .75 * 5) / .25 = 19; the Gram is good to
    # sqrt(256) u = 1e-6, so 19 * 1e-6 and as much again for the solve.
    assert error < 4e-5


def test_residual_form_keeps_small_steps():
    """300 steps of c = 1e-5 in float32 do what they do in float64, to 1 %."""
    w = 1.05 * orthonormal(128, 96)
    fast, exact = w.float(), w.clone()
    for _ in range(300):
        fast, exact = isometry_step(fast, 1e-5), isometry_step(exact, 1e-5)
    moved, expected = (fast.double() - w).norm(), (exact - w).norm()
    assert moved == pytest.approx(float(expected), rel=0.01)


def test_bfloat16_reaches_isometry():
    w = (1.3 * orthonormal(64, 48)).bfloat16()
    for _ in range(20):
        flow_step_(w, 0.05)
    values = singular_values(w)
    # bfloat16 holds eight bits: entries move by 2^-9 of themselves, singular values by a few of that.
    assert values.max() < 1.01
    assert values.min() > 0.99
