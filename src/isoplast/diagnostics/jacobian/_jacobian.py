"""How a network and each of its layers stretch small changes of their inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import text_table
from isoplast.diagnostics._outputs import check_outputs
from isoplast.diagnostics._result import Layers, format_number, wrapped
from isoplast.diagnostics.jacobian._layers import Layer, named, traced
from isoplast.diagnostics.jacobian._spectrum import NUMBERS, Disconnected, JacobianSpectrum, spectrum
from isoplast.model import (
    differentiable_kernels,
    non_finite_names,
    outputs,
    preserve_state,
    refuse_scripted,
    sample_count,
    usable,
)

_COLUMNS = ("smallest", "mean", "largest", "condition_number", "distance_to_isometry", "effective_rank")
_HEADER = ("", "out x in", "min", "mean", "max", "condition", "distance", "eff. rank")


@dataclasses.dataclass(frozen=True)
class Jacobian(JacobianSpectrum):
    """The spectrum of the input-output Jacobian, and of each layer's.

    Attributes:
        layers: by name, in the order they run: the same numbers for each layer at the inputs it sees.
        samples: n.
        non_finite: where a NaN or an infinity was found: weights, "outputs", or layers; if anywhere in the
            first two, the numbers of the whole network are NaN.
        others: see `JacobianSpectrum`.
    """

    layers: Layers[JacobianSpectrum]
    samples: int
    non_finite: tuple[str, ...]

    def as_dict(self) -> dict[str, float]:
        """Return every number; those of layers as "layer/number"."""
        return super().as_dict() | {
            f"{name}/{key}": value
            for name, layer in self.layers.items()
            for key, value in layer.as_dict().items()
        }

    def __str__(self) -> str:
        rows = [
            (
                _short(name),
                f"{one.shape[0]} x {one.shape[1]}",
                *(format_number(getattr(one, c)) for c in _COLUMNS),
            )
            for name, one in [("whole network", self), *self.layers.items()]
        ]
        lines = [f"Jacobian at {self.samples} samples, in eval mode", text_table(_HEADER, rows)]
        if self.non_finite:
            lines.append(f"not finite: {', '.join(self.non_finite)}")
        return wrapped("\n".join(lines))


def jacobian(
    model: nn.Module,
    inputs: Tensor,
    *,
    layers: bool | Sequence[str] = True,
    exact: bool | None = None,
    steps: int = 60,
) -> Jacobian:
    r"""Singular values of the Jacobians of a network and of its layers, at n inputs.

    These are :math:`\partial f / \partial x` and :math:`\partial h_l / \partial h_{l-1}`. A network is
    dynamically isometric where all of them are one. Isometry of every layer is more than that of the product:
    an expanding layer can hide behind a contracting one.

    A layer is a module with a weight matrix (Linear, convolution, any leaf module with a parameter of two
    or more dimensions) and what directly follows it as modules or activation functions:
    :math:`h_l = \phi(\mathrm{norm}(W h_{l-1} + b))`. It ends where anything else happens to its output, an
    addition or another layer, so in a residual block the layers of the branch are measured, and the shortcut
    is not. Name the blocks to measure them as a whole. Layers whose inputs are no floating-point tensor
    (Embedding) and attention as a whole (`torch.nn.MultiheadAttention`) are found only inside named blocks.
    A layer applied to a sequence is one map of all its positions.

    The derivative is the one that training sees, by reverse differentiation throughout: what the network
    computes under no_grad or detaches counts as constant.

    The network is measured in evaluation mode (BatchNorm by its running statistics, no dropout), without
    autocast, and left as it was.

    Args:
        model: any module that returns one tensor (n, ...), every sample by itself.
        inputs: (n, ...), floating.
        layers: whether to measure every layer; or names of modules to measure as layers instead, each of
            which maps its first argument to one tensor. Layers that no gradient passes are left out.
        exact: True for all singular values; False for the smallest and the largest by Golub-Kahan
            iteration; None decides by size, for the network and each layer (up to 1024 singular values of
            up to 8 M entries exactly).
        steps: most iterations for the extremes, >= 1.

    Returns:
        The spectra. Cost: as many backward or forward derivatives as the smaller side has dimensions, and
        an SVD per sample; a few dozen samples suffice.

    Raises:
        IsoplastError: for inputs that are no floating-point tensor or do not fit, samples that influence each
            other, outputs that depend on the inputs by no gradient (a head on features taken under no_grad,
            tokens given as numbers), an unknown layer name, or steps below 1.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 3), nn.Identity())
        >>> _ = nn.init.eye_(model[0].weight)
        >>> found = jacobian(model, torch.ones(2, 3))
        >>> found.condition_number, found.layers["0"].distance_to_isometry
        (1.0, 0.0)

    Reference:
        arXiv:2606.09762, section 2.3 and figure 6; Pennington, Schoenholz and Ganguli, "Resurrecting the
        sigmoid in deep learning through dynamical isometry", NeurIPS 2017.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise IsoplastError(
            f"the Jacobian is by inputs that are one tensor of real numbers, not {kind}: "
            "wrap the model in a module that takes one (embedded tokens, say)"
        )
    if steps < 1:
        raise IsoplastError(f"steps={steps}: at least one iteration is needed")
    points = usable(inputs)
    samples = sample_count(points)
    with preserve_state(model) as network, differentiable_kernels(network):
        refuse_scripted(network)
        with torch.no_grad():
            found = outputs(network, points)
        check_outputs(network, found, points)
        measure = functools.partial(spectrum, exact=exact, steps=steps)
        whole = measure(lambda x: outputs(network, x), points)
        parts = _parts(_layers(network, points, layers), measure, skip=layers is True)
        bad = non_finite_names({**dict(network.named_parameters()), **dict(network.named_buffers())})
    if bad:
        whole = whole.unknown()
    elif not bool(found.isfinite().all()):
        bad = ("outputs",)
    bad += tuple(name for name, part in parts.items() if not part.finite)
    fields = {
        name: getattr(whole, name) for name in ("shape", "singular_values", "complete", "finite", *NUMBERS)
    }
    return Jacobian(**fields, layers=Layers(parts), samples=samples, non_finite=bad)


def _layers(network: nn.Module, points: Tensor, wanted: bool | Sequence[str]) -> list[Layer]:
    if wanted is False:
        return []
    if wanted is True:
        return traced(network, lambda: outputs(network, points))
    known = dict(network.named_modules())
    for name in wanted:
        if name not in known:
            raise unknown("layer", name, known)
    return named(network, list(wanted), lambda: outputs(network, points))


def _parts(
    layers: list[Layer], measure: Callable[..., JacobianSpectrum], skip: bool
) -> dict[str, JacobianSpectrum]:
    """The spectra of layers by name; layers without a gradient to their inputs may be skipped."""
    found = {}
    for layer in layers:
        try:
            found[layer.name] = measure(layer, layer.inputs)
        except Disconnected as error:
            if not skip:
                raise IsoplastError(f"layer {layer.name}: {error}") from error
    return found


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"...{name[-15:]}"
