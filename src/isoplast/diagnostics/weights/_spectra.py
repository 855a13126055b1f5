"""What the weights alone say: the singular values of every matrix, and what they amount to together."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import text_table
from isoplast.diagnostics._result import Layers, Result, format_number, wrapped
from isoplast.diagnostics.health._notes import weight_findings
from isoplast.diagnostics.weights._convolutions import conv_singular_values
from isoplast.isometry import (
    effective_rank,
    effective_rank_energy,
    singular_values,
    stable_rank,
    svdvals,
    working,
)
from isoplast.model import Matrix, matrices_of_module, matrices_of_state, outputs, preserve_state

# Elements stacked at most for one call of svdvals: 256 MB in float32.
_STACK = 2**26


@dataclasses.dataclass(frozen=True)
class LayerSpectrum:
    r"""The singular values of one weight and what is said about them; all NaN if the weight is not finite.

    Attributes:
        shape: of the weight.
        singular_values: descending, float32 or float64, on the CPU.
        complete: whether these are all; else the two extremes, and what needs all of them is NaN.
        finite: whether every entry of the weight is.
        smallest, mean, largest, std: of the singular values (std divided by their number).
        condition_number: largest / smallest, infinite where the smallest is zero.
        effective_rank: entropy rank of :math:`\sigma`.
        effective_rank_energy: entropy rank of :math:`\sigma^2`.
        stable_rank: :math:`\sum \sigma^2 / \sigma_{max}^2`.
        gram_deviation: :math:`\sum (\sigma^2 - 1)^2`, the isometry penalty (arXiv:2606.09762, Eq 16).
        distance_to_isometry: :math:`\sqrt{\sum (\sigma - 1)^2}`, to the nearest isometry.
        norm: Frobenius norm of the weight.
        distance_from_initialisation: Frobenius norm of its change, NaN where no initial one was given.
        lipschitz: the layer's operator norm or, for a convolution whose kernel is measured, the bound
            largest * sqrt(number of patches that share a pixel).
    """

    shape: tuple[int, ...]
    singular_values: Tensor
    complete: bool
    finite: bool
    smallest: float
    mean: float
    largest: float
    std: float
    condition_number: float
    effective_rank: float
    effective_rank_energy: float
    stable_rank: float
    gram_deviation: float
    distance_to_isometry: float
    norm: float
    distance_from_initialisation: float
    lipschitz: float

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name; without a distance from an initialisation nobody gave."""
        values = {name: float(getattr(self, name)) for name in ("finite", *_NUMBERS)}
        if self.finite and math.isnan(self.distance_from_initialisation):
            del values["distance_from_initialisation"]
        return values


_NUMBERS = tuple(field.name for field in dataclasses.fields(LayerSpectrum) if field.type == "float")


class WeightSpectra(Layers[LayerSpectrum], Result):
    r"""The spectra of a network by layer: a mapping; its own numbers speak of all layers together.

    NaN in one layer is NaN here.

    Attributes:
        smallest, mean, largest, std: of all singular values of all layers.
        condition_number: the largest among the layers.
        effective_rank, effective_rank_energy, stable_rank: means over the layers.
        gram_deviation: the sum, the network's isometry penalty (arXiv:2606.09762, Eq 18).
        distance_to_isometry, norm, distance_from_initialisation: roots of the sums of squares.
        lipschitz_bound: product over the layers of `LayerSpectrum.lipschitz`. For a chain of these layers
            with activations of slope at most 1 no input change grows by more. Normalisations, residual
            connections, attention and weights used twice are not in it: there it is the gain of the chain
            of weights alone.
        finite: whether every weight is.
        left_out: why other parameters with two or more dimensions have no spectrum here, by name.
        doubts: by weight, why what counts as one matrix may be several.
    """

    def __init__(
        self,
        layers: Mapping[str, LayerSpectrum],
        left_out: Mapping[str, str],
        doubts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(layers)
        self.left_out = dict(left_out)
        self.doubts = dict(doubts or {})
        ones = list(layers.values())
        counts = torch.tensor([float(math.prod(one.singular_values.shape)) for one in ones]).double()
        share = counts / counts.sum()

        def each(name: str) -> Tensor:
            return torch.tensor([getattr(one, name) for one in ones], dtype=torch.float64)

        def root(name: str) -> float:
            return float(each(name).square().sum().sqrt())

        # torch's extremes hand on NaN, those of Python do not.
        self.smallest = float(each("smallest").min())
        self.largest = float(each("largest").max())
        mean = (share * each("mean")).sum()
        self.mean = float(mean)
        self.std = float((share * (each("std").square() + (each("mean") - mean).square())).sum().sqrt())
        self.condition_number = float(each("condition_number").max())
        self.effective_rank = float(each("effective_rank").mean())
        self.effective_rank_energy = float(each("effective_rank_energy").mean())
        self.stable_rank = float(each("stable_rank").mean())
        self.gram_deviation = float(each("gram_deviation").sum())
        self.distance_to_isometry = root("distance_to_isometry")
        self.norm = root("norm")
        self.distance_from_initialisation = root("distance_from_initialisation")
        self.lipschitz_bound = float(each("lipschitz").prod())
        self.finite = all(one.finite for one in ones)

    @property
    def remarkable(self) -> dict[str, str]:
        """What stands out by layer, in words; whether it matters the weights alone do not tell."""
        return {finding.where: finding.what for finding in weight_findings(self)}

    def as_dict(self) -> dict[str, float]:
        """Return the network's numbers by name, and the layers' as "layer/name"."""
        wanted = [*_NUMBERS[:-1], "lipschitz_bound", "finite"]
        if self.finite and math.isnan(self.distance_from_initialisation):
            wanted.remove("distance_from_initialisation")
        values = {name: float(getattr(self, name)) for name in wanted}
        for layer, one in self.items():
            values |= {f"{layer}/{name}": value for name, value in one.as_dict().items()}
        return values

    def __str__(self) -> str:
        header = ("layer", "shape", "min", "mean", "max", "cond", "eff rank", "|Gram-I|")
        rows = [(name, "x".join(map(str, one.shape)), *_cells(one)) for name, one in self.items()]
        lines = [text_table(header, [*rows, ("all", "", *_cells(self))], width=80)]
        lines.append(
            f"product of the norms {format_number(self.lipschitz_bound)} "
            "(a Lipschitz bound of a chain without shortcuts)"
        )
        lines += [f"{name}: {reason}" for name, reason in (*self.doubts.items(), *self.remarkable.items())]
        return wrapped("\n".join(lines))

    __repr__ = __str__


def _cells(one: LayerSpectrum | WeightSpectra) -> tuple[str, ...]:
    values = (one.smallest, one.mean, one.largest, one.condition_number, one.effective_rank)
    return (*map(format_number, values), format_number(math.sqrt(one.gram_deviation)))


def weight_spectra(
    model: nn.Module | Mapping[str, Any],
    *,
    conv: str = "kernel",
    input_size: int | Sequence[int] | None = None,
    inputs: Any = None,
    initial: nn.Module | Mapping[str, Any] | None = None,
) -> WeightSpectra:
    r"""Singular values of every weight matrix, as the layers apply them.

    .. math:: W = U \, \mathrm{diag}(\sigma_1 \ge \dots \ge \sigma_k) \, V^T, \qquad k = \min(m, n)

    Linear layers, convolutions, recurrent and attention projections count; embeddings, normalisations,
    biases and depthwise kernels do not. A fused q, k, v projection is three matrices, the gates of a
    recurrent layer and stacked experts are one each, a grouped convolution is a block-diagonal one. Isometric
    and parametrised layers show the weight they apply, tied weights appear once. Layers of equal shape share
    one call of `isometry.svdvals`, in float32 (float64 for float64 weights). Weights that are sharded
    over processes are put together first: call it on all of them.

    A state dict gives the same numbers as its module where names and shapes tell what a tensor is. They do
    not tell the groups of a convolution; how the heads lie in a fused projection where they are interleaved,
    or grouped without an output projection beside it (`WeightSpectra.doubts` names those that count as one
    matrix); which parameters are marked ``_no_weight_decay``; a table of unusual name, or a linear layer
    that is named like a table and has no bias; an orthogonal parametrisation or a bilinear form.

    Args:
        model: any module, or a state dict, whose layers are told apart by their names and shapes.
        conv: what of a convolution is measured: "kernel", reshaped to (out, in*k*k), or "operator", the
            map between images (:func:`conv_singular_values`; two-dimensional convolutions of a module).
        input_size: for "operator": height and width of the images that enter the network, or their
            (channels, height, width) where the first layer is no convolution.
        inputs: for "operator", instead: inputs of the network, which show every layer the size it meets.
        initial: the network at its initialisation, as a module or a state dict.

    Returns:
        The spectra by layer name, with their aggregates.

    Raises:
        IsoplastError: for an unknown `conv`, an operator without the size of the images, or nothing to
            measure.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> _ = model.weight.data.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        >>> weight_spectra(model)["weight"].singular_values
        tensor([4., 3.])

    Reference:
        arXiv:2606.09762, Eqs 16-18 and figure 4.
    """
    if conv not in ("kernel", "operator"):
        raise unknown("conv", conv, ("kernel", "operator"))
    if isinstance(model, torch.jit.ScriptModule):
        model = model.state_dict()  # its layers are no longer what they were
    if isinstance(model, nn.Module):
        with preserve_state(model, runs=conv == "operator") as network, torch.no_grad():
            matrices, left_out = matrices_of_module(network)
            start = _initial(initial, network)
            sizes = _image_sizes(network, input_size, inputs) if conv == "operator" else {}
            return _summarise(matrices, left_out, start, sizes)
    if conv == "operator":
        raise IsoplastError("conv='operator' needs the strides and paddings that only a module has")
    with torch.no_grad():
        matrices, left_out = matrices_of_state(model)
        return _summarise(matrices, left_out, _initial(initial, None), {})


def _initial(initial: nn.Module | Mapping[str, Any] | None, network: nn.Module | None) -> dict[str, Tensor]:
    """The initial matrices by name."""
    if initial is None:
        return {}
    if isinstance(initial, nn.Module):
        with preserve_state(initial, runs=False) as start:
            return {one.name: one.blocks for one in matrices_of_module(start)[0]}
    if network is None:
        return {one.name: one.blocks for one in matrices_of_state(initial)[0]}
    # A state dict holds raw weights; only the layers know what they make of them.
    start = copy.deepcopy(network)
    try:
        start.load_state_dict(initial)
    except RuntimeError as error:
        raise IsoplastError(f"initial does not fit the model: {' '.join(str(error).split())}") from error
    return {one.name: one.blocks for one in matrices_of_module(start)[0]}


def _summarise(
    matrices: list[Matrix],
    left_out: dict[str, str],
    initial: dict[str, Tensor],
    sizes: dict[nn.Module, tuple[int, int]],
) -> WeightSpectra:
    if not matrices:
        shown = [f"{name} ({reason})" for name, reason in list(left_out.items())[:3]]
        more = ["..."] if len(left_out) > 3 else []
        raise IsoplastError(f"no weight matrix to measure; left out: {', '.join(shown + more) or 'nothing'}")
    found: dict[str, LayerSpectrum] = {}
    groups: dict[tuple[object, ...], list[Matrix]] = {}
    for one in matrices:
        if isinstance(one.module, nn.Conv2d) and one.module in sizes:
            found[one.name] = _of_operator(one, one.module, sizes[one.module], initial)
        else:
            key = (one.blocks.shape, one.blocks.dtype, one.blocks.device)
            groups.setdefault(key, []).append(one)
    for group in groups.values():
        most = max(1, _STACK // group[0].blocks.numel())
        for i in range(0, len(group), most):
            found |= _of_group(group[i : i + most], initial)
    doubts = {one.weight: one.doubt for one in matrices if one.doubt}
    return WeightSpectra({one.name: found[one.name] for one in matrices}, left_out, doubts)


def _of_group(group: list[Matrix], initial: dict[str, Tensor]) -> dict[str, LayerSpectrum]:
    """The spectra of matrices of one shape."""
    blocks = [working(one.blocks) for one in group]
    stack = torch.stack(blocks) if len(group) > 1 else blocks[0][None]
    # In float64 the norm of float32 numbers is finite if and only if they are: no pass is spent on asking.
    norms = torch.linalg.vector_norm(stack.flatten(1), dim=1, dtype=torch.float64).cpu()
    finite = bool(norms.isfinite().all())
    values = svdvals(stack) if finite else singular_values(stack)
    # The values of a block-diagonal matrix are those of its blocks.
    values = values.flatten(1).sort(-1, descending=True).values.cpu()
    return {
        one.name: _layer(one, row, norm, initial, lipschitz=float(row[0]) * math.sqrt(one.overlap))
        for one, row, norm in zip(group, values, norms.tolist(), strict=True)
    }


def _of_operator(
    one: Matrix, layer: nn.Conv2d, size: tuple[int, int], initial: dict[str, Tensor]
) -> LayerSpectrum:
    """The spectrum of a convolution as a map between images."""
    if not bool(one.blocks.isfinite().all()):
        return _of_group([one], initial)[one.name]
    operator = conv_singular_values(layer, size)
    values = operator.values.cpu()
    norm = float(torch.linalg.vector_norm(one.blocks, dtype=torch.float64))
    bound = operator.largest + operator.error
    return _layer(one, values, norm, initial, lipschitz=bound, complete=operator.complete)


def _layer(
    one: Matrix,
    values: Tensor,
    norm: float,
    initial: dict[str, Tensor],
    *,
    lipschitz: float,
    complete: bool = True,
) -> LayerSpectrum:
    exact = values.double()
    largest, smallest = float(exact[0]), float(exact[-1])
    finite = not math.isnan(largest)
    every = exact if complete else torch.full_like(exact, math.nan)
    return LayerSpectrum(
        shape=one.shape,
        singular_values=values,
        complete=complete,
        finite=finite,
        smallest=smallest,
        mean=float(every.mean()),
        largest=largest,
        std=float(every.std(correction=0)),
        condition_number=math.inf if smallest == 0 else largest / smallest,
        effective_rank=float(effective_rank(every)),
        effective_rank_energy=float(effective_rank_energy(every)),
        stable_rank=float(stable_rank(every)),
        gram_deviation=float((every.square() - 1).square().sum()),
        distance_to_isometry=float((every - 1).square().sum().sqrt()),
        norm=norm if finite else math.nan,
        distance_from_initialisation=_distance(one, initial),
        lipschitz=lipschitz,
    )


def _distance(one: Matrix, initial: dict[str, Tensor]) -> float:
    """The Frobenius distance of a weight from where it began."""
    if not initial:
        return math.nan
    start = initial.get(one.name)
    if start is None or start.shape != one.blocks.shape:
        there = "missing" if start is None else f"of shape {tuple(start.shape)}"
        raise IsoplastError(
            f"{one.name} of shape {tuple(one.blocks.shape)} is {there} in initial: "
            "give the same network at its initialisation"
        )
    # The difference of two float32 numbers is rounded to 6e-8 of itself, that of two bfloat16 to 4e-3.
    change = working(one.blocks) - working(start.to(one.blocks.device))
    return float(torch.linalg.vector_norm(change, dtype=torch.float64))


def _image_sizes(
    network: nn.Module, input_size: int | Sequence[int] | None, inputs: Any
) -> dict[nn.Module, tuple[int, int]]:
    """The height and width of the images that each two-dimensional convolution meets."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if (input_size is None) == (inputs is None):
        raise IsoplastError(
            "conv='operator' needs the size of the images: give input_size or inputs, not both"
        )
    if inputs is None:
        inputs = _blank(network, layers, input_size)
    sizes: dict[nn.Module, tuple[int, int]] = {}

    def note(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        height, width = arguments[0].shape[-2:]
        sizes[layer] = (height, width)

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        outputs(network, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def _blank(network: nn.Module, layers: list[nn.Conv2d], input_size: int | Sequence[int] | None) -> Tensor:
    """One black image."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size or ())
    if len(size) == 2 and layers:
        size = (layers[0].in_channels, *size)
    if len(size) != 3 or min(size) < 1:
        raise IsoplastError(
            f"input_size={input_size} is neither a side, (height, width) nor (channels, height, width)"
        )
    like = next(network.parameters())
    return torch.zeros(1, *size, dtype=like.dtype, device=like.device)
