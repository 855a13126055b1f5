"""Delta-orthogonal kernels: isometries of the operator, minima of its penalty."""

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import conv_singular_values
from isoplast.isometry import operator_penalty, penalty, penalty_gradient
from isoplast.nn import delta_orthogonal_

GEOMETRIES = [
    (4, 4, 3, 1),
    (3, 5, 3, 1),
    (5, 3, 3, 1),
    (2, 9, 3, 2),
    (3, 4, 3, 2),
    (2, 8, 2, 2),
    (4, 3, 5, 3),
]


def test_descending_repairs_the_operator_where_the_kernel_penalty_does_not():
    """From a disturbed isometry; from afar both stop in local minima, of which this problem has many."""
    torch.manual_seed(1)
    start = delta_orthogonal_(torch.empty(4, 4, 3, 3)) + 0.05 * torch.randn(4, 4, 3, 3)
    condition = {}
    for name, make in (("operator", operator_penalty), ("kernel", lambda k: penalty(k.flatten(1)))):
        kernel = start.clone().requires_grad_()
        opt = torch.optim.SGD([kernel], lr=0.02)
        for _ in range(200):
            opt.zero_grad()
            make(kernel).backward()
            opt.step()
        condition[name] = conv_singular_values(kernel.detach(), 8).condition_number
    assert condition["operator"] < 1.05 < 1.5 < condition["kernel"]


@pytest.mark.parametrize(("inputs", "outputs", "taps", "stride"), GEOMETRIES)
@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_delta_orthogonal_operators_are_isometries(inputs, outputs, taps, stride, mode):
    torch.manual_seed(2)
    padding = (taps - 1) // 2
    layer = nn.Conv2d(
        inputs, outputs, taps, stride=stride, padding=padding, padding_mode=mode, bias=False
    ).double()
    delta_orthogonal_(layer.weight, 1.5, stride=stride, padding=padding)
    spectrum = conv_singular_values(layer, 6)
    assert spectrum.complete
    assert torch.allclose(spectrum.values, torch.full_like(spectrum.values, 1.5), atol=1e-10)
    scaled = operator_penalty(layer.weight / 1.5, stride=stride)
    assert abs(scaled) < 1e-10
    gradient = penalty_gradient(layer.weight.detach().flatten(1) / 1.5)
    assert gradient.abs().max() < 1e-10  # a fixed point of the kernel penalty as well


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: delta_orthogonal_(torch.empty(4, 4, 2, 2), stride=3), "stride 3 with a kernel of 2 x 2"),
        (lambda: delta_orthogonal_(torch.empty(4, 4)), "not"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, words):
    with pytest.raises(IsoplastError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
