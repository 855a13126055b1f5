"""Singular values of convolutions against the operator written out as a matrix."""

import itertools

import pytest
import torch
from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import conv_singular_values
from isoplast.isometry import operator_penalty
from isoplast.nn import IsometricConv2d


def dense(layer: nn.Conv2d, size: tuple[int, int]) -> torch.Tensor:
    """The operator column by column, through the layer itself."""
    shape = (layer.in_channels, *size)
    count = shape[0] * shape[1] * shape[2]
    columns = []
    with torch.no_grad():
        for index in range(count):
            image = torch.zeros(count, dtype=torch.float64)
            image[index] = 1.0
            columns.append(layer(image.view(1, *shape)).flatten())
    return torch.stack(columns, 1)


CASES = [
    dict(kernel_size=3, padding=1, padding_mode="circular"),
    dict(kernel_size=(3, 5), padding=(1, 2), padding_mode="circular"),
    dict(kernel_size=3, padding=1, stride=2, padding_mode="circular"),
    dict(kernel_size=3, padding=1, stride=(1, 3), padding_mode="circular"),
    dict(kernel_size=2, padding=0, stride=2, padding_mode="circular"),
    dict(kernel_size=3, padding=2, dilation=2, padding_mode="circular"),
    dict(kernel_size=3, padding=1, groups=2, padding_mode="circular"),
    dict(kernel_size=3, padding=0, padding_mode="circular"),  # nothing wraps: not circulant
    dict(kernel_size=3, padding=1, padding_mode="zeros"),
    dict(kernel_size=3, padding="same", padding_mode="zeros"),
    dict(kernel_size=3, padding="valid", stride=2),
    dict(kernel_size=4, padding=1, stride=2, padding_mode="reflect"),
    dict(kernel_size=3, padding=1, padding_mode="replicate", dilation=1),
]


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("channels", [(2, 4), (4, 2)])
def test_all_values_agree_with_the_written_out_matrix(settings, channels):
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, bias=False, dtype=torch.float64, **settings)
    expected = torch.linalg.svdvals(dense(layer, (6, 6)))
    found = conv_singular_values(layer, 6)
    assert found.complete
    assert found.error == 0.0
    assert torch.allclose(found.values, expected, atol=1e-10)  # float64, 100 products per entry
    assert found.largest == found.values[0]
    assert found.smallest == found.values[-1]


@pytest.mark.parametrize("settings", CASES[7:], ids=str)
def test_lanczos_finds_the_extremes(settings):
    torch.manual_seed(1)
    layer = nn.Conv2d(2, 4, bias=False, dtype=torch.float64, **settings)
    expected = torch.linalg.svdvals(dense(layer, (6, 6)))
    found = conv_singular_values(layer, 6, dense_limit=0)
    assert not found.complete
    assert abs(found.largest - expected[0]) < 1e-6
    assert abs(found.smallest - expected[-1]) < 1e-6


def test_lanczos_bound_holds_when_stopped_early():
    torch.manual_seed(2)
    layer = nn.Conv2d(4, 4, 3, padding=1, bias=False, dtype=torch.float64)
    expected = torch.linalg.svdvals(dense(layer, (7, 7)))
    found = conv_singular_values(layer, 7, dense_limit=0, steps=12)
    assert 0 < found.error < 1
    assert expected[0] - found.error <= found.largest <= expected[0] + 1e-12
    assert found.smallest >= expected[-1] - 1e-12


def test_a_kernel_needs_no_layer():
    torch.manual_seed(3)
    layer = nn.Conv2d(3, 3, 3, stride=2, padding=1, padding_mode="circular", bias=False)
    by_layer = conv_singular_values(layer, (4, 8))
    by_kernel = conv_singular_values(layer.weight, (4, 8), stride=2)
    assert torch.equal(by_layer.values, by_kernel.values)
    assert len(by_kernel.values) == 3 * 2 * 4


def test_kernel_larger_than_the_image_wraps():
    torch.manual_seed(4)
    kernel = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    folded = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    for i, j in itertools.product(range(5), range(5)):
        folded[:, :, i % 3, j % 3] += kernel[:, :, i, j]
    assert torch.allclose(
        conv_singular_values(kernel, 3).values, conv_singular_values(folded, 3).values, atol=1e-12
    )


def test_isometric_layers_are_seen_as_they_act():
    torch.manual_seed(5)
    layer = IsometricConv2d(4, 4, 3, padding=1, padding_mode="circular")
    with torch.no_grad():
        layer.weight.mul_(10.0)
    spectrum = conv_singular_values(layer, 8)
    assert 1.0 <= spectrum.largest <= 3.0 + 1e-3  # between the kernel's norm and k times it
    one = IsometricConv2d(4, 4, 1)
    assert abs(conv_singular_values(one, 8).condition_number - 1) < 1e-3


@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_against_torchlip(mode):
    """Its Jacobian norm of a convolution is the operator norm."""
    torchlip = pytest.importorskip("deel.torchlip.utils.evaluate_lip_const")
    torch.manual_seed(6)
    layer = nn.Conv2d(3, 5, 3, padding=1, padding_mode=mode, bias=False)
    norm = torchlip.evaluate_lip_const(layer, torch.randn(1, 3, 6, 6), "jacobian_norm")
    assert abs(conv_singular_values(layer, 6).largest - norm) < 1e-4  # it computes in float32


def test_against_orthogonium():
    """Its bound by Gram iteration, an upper bound that tightens quadratically (9 iterations: 1e-3)."""
    package = pytest.importorskip("orthogonium.layers.conv.singular_values")
    torch.manual_seed(7)
    layer = nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False)
    bound = float(package.get_conv_sv(layer, n_iter=9, return_stab_rank=False, imsize=8))
    largest = conv_singular_values(layer, 8).largest
    assert largest - 1e-5 < bound < largest * 1.01


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(layer=torch.zeros(4, 4), input_size=4), "is not"),
        (dict(layer=torch.zeros(2, 2, 3, 3), input_size=4, padding_mode="zero"), "did you mean 'zeros'"),
        (dict(layer=torch.zeros(2, 2, 5, 5), input_size=3, padding=0, padding_mode="zeros"), "does not fit"),
        (dict(layer=nn.Conv2d(2, 2, 2, padding="same"), input_size=4), "unevenly"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, words):
    with pytest.raises(IsoplastError, match=words) as caught:
        conv_singular_values(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "stride"), [((4, 3, 3, 3), 1), ((3, 4, 3, 3), 1), ((9, 2, 3, 3), 2), ((3, 4, 5, 5), 3)]
)
def test_the_operator_penalty_is_that_of_these_values_per_output_pixel(shape, stride):
    torch.manual_seed(8)
    kernel = torch.randn(shape, dtype=torch.float64) / shape[2]
    size = 4 * shape[2] * stride
    sigma = conv_singular_values(kernel, size, stride=stride).values
    expected = (sigma.square() - 1).square().sum() / (size // stride) ** 2
    assert torch.allclose(operator_penalty(kernel, stride), expected, rtol=1e-10)
