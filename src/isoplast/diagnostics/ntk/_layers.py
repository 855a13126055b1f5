"""The layer-wise NTK formula: what every known layer saw forward and receives backward."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from isoplast._core.layer_kinds import CONVOLUTIONS
from isoplast.diagnostics.ntk._terms import Explicit, Outer, Term, merged


@dataclasses.dataclass
class Call:
    """One call of a layer: what went in, and where its output sits in the graph.

    The edge, unlike the output itself, survives operations in place on the output.
    """

    module: nn.Module
    inputs: Tensor
    edge: GradientEdge
    shape: torch.Size

    def fits(self, n: int) -> bool:
        """Whether it has a whole number of rows for each of n samples, in its inputs as in its outputs."""
        spatial = getattr(self.module, "kernel_size", None)
        batched = spatial is None or self.inputs.dim() == len(spatial) + 2
        return (
            batched
            and len(self.shape) > 0
            and self.shape[0] > 0
            and self.shape[0] % n == 0
            and self.inputs.shape[0] == self.shape[0]
        )


@dataclasses.dataclass(frozen=True)
class Seen:
    """A call with the derivatives of the network's outputs by its output, samples in front.

    Attributes:
        module: the layer.
        inputs: what it was applied to.
        signals: (n, C, k, ...): C derivatives of the k rows of its output that belong to each sample.
        call: its number among all calls.
    """

    module: nn.Module
    inputs: Tensor
    signals: Tensor
    call: int

    def inputs_last(self, values: Tensor) -> Tensor:
        """Values like the inputs with the features last: (n, positions, features)."""
        return values.reshape(len(self.signals), -1, values.shape[-1])

    def inputs_second(self, values: Tensor) -> Tensor:
        """Values like the inputs with channels in dimension 1: (n, positions, channels)."""
        return self.inputs_last(values.movedim(1, -1))

    def signals_last(self, features: int) -> Tensor:
        """Signals with the features last: (n, C, positions, features)."""
        return self.signals.reshape(*self.signals.shape[:2], -1, features)

    def signals_second(self) -> Tensor:
        """Signals with channels in dimension 1 of the layer's output: (n, C, positions, channels)."""
        n, count, k, channels = self.signals.shape[:4]
        if k == 1:  # a view, where moving the channels would copy
            return self.signals.reshape(n, count, channels, -1).transpose(2, 3)
        return self.signals.movedim(3, -1).reshape(n, count, -1, channels)


def _linear(seen: Seen) -> Term:
    signals = seen.signals_last(seen.module.out_features)  # type: ignore[arg-type]
    return Outer(seen.inputs_last(seen.inputs), signals, call=seen.call)


def _linear_bias(seen: Seen) -> Term:
    signals = seen.signals_last(seen.module.out_features)  # type: ignore[arg-type]
    if signals.shape[2] > 1:
        return Explicit(signals.sum(2))
    # A matrix with one column, applied to ones: it shares its Gram matrix with the weight.
    return Outer(signals.new_ones(len(signals), 1, 1), signals, call=seen.call)


def _conv(seen: Seen) -> Term:
    module, groups = seen.module, seen.module.groups
    patches = seen.inputs_last(_patches(module, seen.inputs).flatten(1, -2))
    signals = seen.signals_second()
    if groups == 1:
        return Outer(patches, signals)
    patches = patches.unflatten(2, (groups, -1))  # type: ignore[no-untyped-call]
    signals = signals.unflatten(3, (groups, -1))  # type: ignore[no-untyped-call]
    return Explicit(torch.einsum("ntgd,natgo->nagod", patches, signals).flatten(2))


def _patches(module: Any, images: Tensor) -> Tensor:
    """Return what each output position sees: (n, *output size, channels * taps)."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    images = F.pad(images, module._reversed_padding_repeated_twice, mode=mode)
    axes = range(2, images.dim())
    for axis, taps, stride, spread in zip(
        axes, module.kernel_size, module.stride, module.dilation, strict=True
    ):
        images = images.unfold(axis, spread * (taps - 1) + 1, stride)[..., ::spread]
    # (n, c, *size, *taps) -> (n, *size, c, *taps)
    return images.movedim(1, len(axes) + 1).flatten(len(axes) + 1)


def _channels_bias(seen: Seen) -> Term:
    return Explicit(seen.signals_second().sum(2))


def _norm_last(normalize: Callable[[Any, Tensor], Tensor]) -> tuple[Callable[[Seen], Term], ...]:
    """Weight and bias of a normalisation over trailing dimensions."""

    def width(seen: Seen) -> int:
        return int(torch.Size(seen.module.normalized_shape).numel())  # type: ignore[arg-type]

    def weight(seen: Seen) -> Term:
        values = normalize(seen.module, seen.inputs)
        values = values.reshape(len(seen.signals), -1, width(seen))
        return Explicit(torch.einsum("ntd,natd->nad", values, seen.signals_last(width(seen))))

    return weight, lambda seen: Explicit(seen.signals_last(width(seen)).sum(2))


def _norm_channels(normalize: Callable[[Any, Tensor], Tensor]) -> Callable[[Seen], Term]:
    def weight(seen: Seen) -> Term:
        values = seen.inputs_second(normalize(seen.module, seen.inputs))
        return Explicit(torch.einsum("ntd,natd->nad", values, seen.signals_second()))

    return weight


def _embedding(seen: Seen) -> Term:
    module, numbers = seen.module, seen.inputs.reshape(len(seen.signals), -1)
    width: int = module.embedding_dim  # type: ignore[assignment]
    hot = F.one_hot(numbers, module.num_embeddings).to(seen.signals.dtype)  # type: ignore[arg-type]
    if module.padding_idx is not None:
        hot[..., module.padding_idx] = 0.0  # type: ignore[index]
    return Outer(hot, seen.signals_last(width), transposed=True)


_LAYER_NORM = _norm_last(lambda m, x: F.layer_norm(x, m.normalized_shape, None, None, m.eps))
_RMS_NORM = _norm_last(lambda m, x: F.rms_norm(x, m.normalized_shape, None, m.eps))
_GROUP_NORM = _norm_channels(lambda m, x: F.group_norm(x, m.num_groups, None, None, m.eps))
_BATCH_NORM = _norm_channels(
    lambda m, x: F.batch_norm(x, m.running_mean, m.running_var, None, None, False, 0.0, m.eps)
)

# By the function that computes the layer: a subclass that computes something else is not known.
_KNOWN: dict[tuple[Any, str], Callable[[Seen], Term]] = {
    (nn.Linear.forward, "weight"): _linear,
    (nn.Linear.forward, "bias"): _linear_bias,
    (nn.Embedding.forward, "weight"): _embedding,
    (nn.LayerNorm.forward, "weight"): _LAYER_NORM[0],
    (nn.LayerNorm.forward, "bias"): _LAYER_NORM[1],
    (nn.RMSNorm.forward, "weight"): _RMS_NORM[0],
    (nn.GroupNorm.forward, "weight"): _GROUP_NORM,
    (nn.GroupNorm.forward, "bias"): _channels_bias,
    (nn.BatchNorm2d.forward, "weight"): _BATCH_NORM,
    (nn.BatchNorm2d.forward, "bias"): _channels_bias,
}
for _kind in CONVOLUTIONS:
    _KNOWN[_kind.forward, "weight"] = _conv
    _KNOWN[_kind.forward, "bias"] = _channels_bias


def known_uses(network: nn.Module, parameters: dict[str, Tensor]) -> dict[str, list[Use]]:
    """Return, by parameter name, the layers that own the parameter, where the formula knows all of them."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    uses: dict[str, list[Use]] = {name: [] for name in parameters}
    unknown = set()
    for module in network.modules():
        for role, parameter in module._parameters.items():
            name = names.get(id(parameter))
            if name is None:
                continue
            formula = _KNOWN.get((type(module).forward, role))
            if formula is None:
                unknown.add(name)
            else:
                uses[name].append(Use(module, formula))
    return {name: found for name, found in uses.items() if name not in unknown}


@dataclasses.dataclass(frozen=True)
class Use:
    """A layer that owns a parameter, and the formula for the parameter's gradients."""

    module: nn.Module
    formula: Callable[[Seen], Term]


@contextlib.contextmanager
def recorded(modules: set[nn.Module]) -> Iterator[list[Call]]:
    """Record the calls of the modules in the order they happen."""
    calls: list[Call] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs = args[0] if args else next(iter(kwargs.values()))
        if output.requires_grad:
            calls.append(Call(module, inputs.detach(), get_gradient_edge(output), output.shape))

    # First of the hooks: later ones may replace the output.
    handles = [module.register_forward_hook(hook, with_kwargs=True, prepend=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def signals(calls: list[Call], outputs: Tensor, cotangents: Iterator[Tensor], count: int) -> list[Seen]:
    """Pull cotangents back to the outputs of all the calls, one pass each.

    Args:
        calls: whose outputs have a whole number of rows per sample.
        outputs: of the network, (n, ...).
        cotangents: `count` tensors shaped like the outputs.
        count: C.
    """
    if not calls:
        return []
    n = len(outputs)
    found = [outputs.new_zeros(n, count, call.shape[0] // n, *call.shape[1:]) for call in calls]
    edges = [call.edge for call in calls]
    for index, cotangent in enumerate(cotangents):
        gradients = torch.autograd.grad(outputs, edges, cotangent, retain_graph=True, allow_unused=True)
        for target, gradient in zip(found, gradients, strict=True):
            if gradient is not None:
                target[:, index] = gradient.view(n, -1, *gradient.shape[1:])
    return [
        Seen(
            call.module,
            call.inputs.to(signal.dtype) if call.inputs.is_floating_point() else call.inputs,
            signal,
            number,
        )
        for number, (call, signal) in enumerate(zip(calls, found, strict=True))
    ]


def term(uses: list[Use], seen: list[Seen]) -> Term | None:
    """Return the gradients of one parameter from everything seen of its layers; None if it was not used."""
    terms = [use.formula(one) for use in uses for one in seen if one.module is use.module]
    return merged(terms) if terms else None
