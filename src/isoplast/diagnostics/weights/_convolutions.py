"""The singular values of a convolution as an operator on images, not of its reshaped kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast.diagnostics._lanczos import lanczos
from isoplast.isometry import svdvals
from isoplast.model import preserve_state

Pair = tuple[int, int]
_PRECISION = 1e-8  # of the largest value, at which the iteration stops
_MODES = ("zeros", "circular", "reflect", "replicate")


@dataclasses.dataclass(frozen=True)
class ConvSpectrum:
    """Singular values of a convolution operator.

    Attributes:
        values: float64, descending: all min(inputs, outputs) of them, or the extremes alone.
        complete: whether `values` holds all of them.
        error: bound on the error of the largest and of the smallest value, 0 where computed exactly.
    """

    values: Tensor
    complete: bool
    error: float

    @property
    def largest(self) -> float:
        """The largest singular value: the Lipschitz constant of the layer."""
        return float(self.values[0])

    @property
    def smallest(self) -> float:
        """The smallest of the min(inputs, outputs) singular values."""
        return float(self.values[-1])

    @property
    def condition_number(self) -> float:
        """Largest over smallest; infinite for a rank-deficient operator."""
        return self.largest / self.smallest if self.smallest > 0 else float("inf")


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """A kernel and how it is applied to images of one size."""

    kernel: Tensor
    size: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    mode: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (self.kernel.shape[1] * self.groups, *self.size)

    @property
    def reach(self) -> Pair:
        """Extent of the dilated kernel minus one."""
        taps = self.kernel.shape[2:]
        return self.dilation[0] * (taps[0] - 1), self.dilation[1] * (taps[1] - 1)

    @property
    def output_size(self) -> Pair:
        high, wide = (
            (n + 2 * p - r - 1) // s + 1
            for n, p, r, s in zip(self.size, self.padding, self.reach, self.stride, strict=True)
        )
        return high, wide

    def apply(self, images: Tensor) -> Tensor:
        """Return the convolution of images (n, channels, height, width)."""
        (above, left), padding = self.padding, self.padding
        if self.mode != "zeros":
            images = F.pad(images, (left, left, above, above), mode=self.mode)
            padding = (0, 0)
        return F.conv2d(images, self.kernel, None, self.stride, padding, self.dilation, self.groups)

    def is_circulant(self) -> bool:
        """Whether every output position sees the image through the same kernel, wrapped around."""
        return self.mode == "circular" and all(
            n % s == 0 and out == n // s
            for n, s, out in zip(self.size, self.stride, self.output_size, strict=True)
        )


def conv_singular_values(
    layer: nn.Conv2d | Tensor,
    input_size: int | Pair,
    *,
    stride: int | Pair = 1,
    padding: int | Pair | None = None,
    padding_mode: str = "circular",
    dilation: int | Pair = 1,
    groups: int = 1,
    steps: int = 200,
    dense_limit: int = 1024,
) -> ConvSpectrum:
    r"""Singular values of a convolution as a linear map between images.

    The reshaped kernel (out, in*k*k) is a different matrix: with stride 1 it understates the operator's
    norm by up to k. Circular padding makes the operator block-diagonal in the Fourier basis: for every
    output frequency w one block

    .. math:: \frac{1}{\sqrt{s_1 s_2}} \left[ \hat K(w + a) \right]_{a \in \text{aliases}}
              \in \mathbb{C}^{c_{out} \times c_{in} s_1 s_2},

    whose singular values are exact and complete for every stride that divides the size. For other
    paddings an operator with up to `dense_limit` inputs or outputs is written out as a matrix (exact,
    complete); for larger ones Lanczos iteration finds the largest and the smallest value.

    Args:
        layer: a `torch.nn.Conv2d` (or an isometric one), which brings all the following settings along,
            or a kernel (out, in / groups, k1, k2).
        input_size: height and width of the images, >= 1.
        stride: for a kernel: as in Conv2d.
        padding: for a kernel: pixels on each side; None pads by half the kernel's reach, so that
            stride 1 keeps the size (for odd kernels).
        padding_mode: for a kernel: "circular", "zeros", "reflect" or "replicate".
        dilation: for a kernel: as in Conv2d.
        groups: for a kernel: as in Conv2d.
        steps: most Lanczos steps; it stops earlier once the error bound is below 1e-8 of the largest.
        dense_limit: largest min(inputs, outputs) for which the matrix is written out.

    Returns:
        The spectrum, computed in float64 on the kernel's device.

    Raises:
        IsoplastError: for a kernel that is not 4-dimensional, an image the kernel does not fit on, or an
            unknown padding mode.

    Example:
        >>> kernel = torch.zeros(2, 2, 3, 3)
        >>> kernel[0, 1, 1, 1] = kernel[1, 0, 1, 1] = 1.0
        >>> conv_singular_values(kernel, 4).largest
        1.0

    Reference:
        Sedghi, Gupta and Long, "The singular values of convolutional layers", ICLR 2019 (stride 1);
        Golub and Van Loan, "Matrix computations", section 10.1 (Lanczos).
    """
    with torch.no_grad():
        if isinstance(layer, nn.Conv2d):
            with preserve_state(layer, runs=False):
                geometry = _of_layer(layer, _pair(input_size))
        else:
            taps, spread = layer.shape[-2:], _pair(dilation)
            half = (spread[0] * (taps[0] - 1) // 2, spread[1] * (taps[1] - 1) // 2)
            settings = (_pair(stride), half if padding is None else _pair(padding), spread)
            geometry = _Geometry(layer.double(), _pair(input_size), *settings, groups, padding_mode)
        _check(geometry)
        if geometry.is_circulant():
            return ConvSpectrum(_fourier(geometry), complete=True, error=0.0)
        inputs = geometry.input_shape
        outputs = (geometry.kernel.shape[0], *geometry.output_size)
        if min(_count(inputs), _count(outputs)) <= dense_limit:
            return ConvSpectrum(svdvals(_dense(geometry)), complete=True, error=0.0)
        return _lanczos(geometry, steps)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _count(shape: tuple[int, ...]) -> int:
    return shape[0] * shape[1] * shape[2]


def _of_layer(layer: nn.Conv2d, size: Pair) -> _Geometry:
    # An isometric layer applies another kernel than the one it stores.
    weight = getattr(layer, "effective_weight", lambda: layer.weight)()
    padding, dilation = layer.padding, _pair(layer.dilation)  # type: ignore[arg-type]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(dilation, layer.kernel_size, strict=True)]
        if padding == "same" and any(r % 2 for r in reach):
            raise IsoplastError(f"{layer}: padding='same' with an even kernel pads unevenly; give numbers")
        padding = (0, 0) if padding == "valid" else (reach[0] // 2, reach[1] // 2)
    stride = _pair(layer.stride)  # type: ignore[arg-type]
    mode = layer.padding_mode
    return _Geometry(weight.double(), size, stride, _pair(padding), dilation, layer.groups, mode)  # type: ignore[arg-type]


def _check(geometry: _Geometry) -> None:
    if geometry.kernel.dim() != 4:
        raise IsoplastError(f"a kernel of shape {tuple(geometry.kernel.shape)} is not (out, in, k1, k2)")
    if geometry.mode not in _MODES:
        raise unknown("padding mode", geometry.mode, _MODES)
    if min(geometry.size) < 1 or min(geometry.output_size) < 1:
        taps = tuple(geometry.kernel.shape[2:])
        raise IsoplastError(
            f"a kernel of {taps} does not fit on images of {geometry.size}: pad or enlarge them"
        )


def _fourier(geometry: _Geometry) -> Tensor:
    """Return all singular values, descending, from the Fourier blocks."""
    (high, wide), (s1, s2) = geometry.size, geometry.stride
    out, inputs, k1, k2 = geometry.kernel.shape
    # Taps beyond the image wrap around and add up.
    canvas = geometry.kernel.new_zeros(out, inputs, high, wide)
    rows = (torch.arange(k1) * geometry.dilation[0] % high).tolist()
    columns = (torch.arange(k2) * geometry.dilation[1] % wide).tolist()
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            canvas[:, :, row, column] += geometry.kernel[:, :, i, j]
    # Frequencies of the image that a stride folds onto the same output frequency differ by size / stride.
    transform = torch.fft.fft2(canvas).unflatten(3, (s2, wide // s2)).unflatten(2, (s1, high // s1))
    transform = transform.unflatten(0, (geometry.groups, out // geometry.groups))
    # (group, out, in, alias1, freq1, alias2, freq2) -> (freq1, freq2, group, out, in * alias1 * alias2)
    blocks = transform.permute(4, 6, 0, 1, 2, 3, 5).flatten(4) / (s1 * s2) ** 0.5
    values: Tensor = svdvals(blocks).flatten().sort(descending=True).values
    return values


def _dense(geometry: _Geometry) -> Tensor:
    """Return the operator as a matrix, one column per input pixel."""
    count = _count(geometry.input_shape)
    basis = torch.eye(count, dtype=torch.float64, device=geometry.kernel.device)
    return geometry.apply(basis.view(count, *geometry.input_shape)).flatten(1).t()


def _lanczos(geometry: _Geometry, steps: int) -> ConvSpectrum:
    """Return the extremes by Lanczos iteration on the smaller of A A^T and A^T A."""
    forward, adjoint, inputs, outputs = _operator(geometry)
    rows_side = _count(outputs) <= _count(inputs)
    shape = outputs if rows_side else inputs

    def gram(vector: Tensor) -> Tensor:
        image = vector.view(1, *shape)
        mapped = forward(adjoint(image)) if rows_side else adjoint(forward(image))
        return mapped.flatten()

    def precise(values: Tensor, residuals: Tensor) -> bool:
        extremes, error = _extremes(values, residuals)
        return error < _PRECISION * float(extremes[0])

    found = lanczos(gram, _count(shape), steps=steps, device=geometry.kernel.device, until=precise)
    extremes, error = _extremes(found.values[0], found.residuals[0])
    return ConvSpectrum(extremes, complete=False, error=error)


def _extremes(values: Tensor, residuals: Tensor) -> tuple[Tensor, float]:
    """Largest and smallest singular value by the Ritz values of their squares, and a bound on their error."""
    extremes, residuals = values[[0, -1]].clamp(min=0.0).sqrt(), residuals[[0, -1]]
    # |sigma - s| = |sigma^2 - s^2| / (sigma + s), and never more than the root of the residual.
    errors = torch.minimum(residuals / extremes.clamp(min=1e-300), residuals.sqrt())
    return extremes, float(errors.max())


def _operator(
    geometry: _Geometry,
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...], tuple[int, ...]]:
    """Return the operator, its adjoint, and the shapes of its inputs and outputs."""
    inputs = geometry.input_shape
    zero = torch.zeros(1, *inputs, dtype=torch.float64, device=geometry.kernel.device)
    pull_back = torch.func.vjp(geometry.apply, zero)[1]
    outputs = (geometry.kernel.shape[0], *geometry.output_size)
    return geometry.apply, lambda image: pull_back(image)[0], inputs, outputs
