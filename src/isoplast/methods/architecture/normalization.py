"""Normalisation in front of every hidden activation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast._core.layer_kinds import BATCH_NORMS, INSTANCE_NORMS, NORMALISATIONS
from isoplast.methods._protocol import Method, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import fraction, positive
from isoplast.methods._tools._surgery import hidden_activations, own, replace_
from isoplast.model import feature_dim, graph_of
from isoplast.nn import GPT, Attention, ViT

# (features, their dimension from the end) -> layer
Make = Callable[[int, int], nn.Module]


@register
@dataclasses.dataclass(frozen=True)
class LayerNorm(Method):
    r"""Layer normalisation in front of every hidden activation (arXiv:1607.06450, Eq 3 and 4).

    .. math:: h = \phi(\gamma \hat z + \beta), \qquad
              \hat z = (z - \mathrm{mean}(z)) / \sqrt{\mathrm{var}(z) + \epsilon}

    over the features of a sample; in convolutional layers over channels and positions, as GroupNorm(1). The
    output does not depend on the mean square of the singular values of the weights in front of it.

    Where it goes: layers of another kind of normalisation are replaced where they stand; a network without
    any gets them where it has places for them (identities behind the layers, as the networks of
    `isoplast.nn.build` do; in transformers in front of the branches), else in front of every hidden
    activation. All weights keep their values.

    Args:
        affine: whether there are gains gamma and offsets beta, initially 1 and 0.
        eps: > 0.
    """

    name: ClassVar[str] = "layernorm"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="LayerNorm",
        source="Ba et al., arXiv:1607.06450; Lyle et al., arXiv:2402.18762",
        controls="the scale of the activations",
        spectrum="activations",
        family="architecture",
        cost="two passes over the activations",
        claims=frozenset({"normalization"}),
    )

    affine: bool = True
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "eps")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Normalise in place."""
        return _normalized(self, model, _is_layer_norm, self._make)

    def _make(self, features: int, dim: int) -> nn.Module:
        if dim == -1:
            return nn.LayerNorm(features, eps=self.eps, elementwise_affine=self.affine)
        return nn.GroupNorm(1, features, eps=self.eps, affine=self.affine)


@register
@dataclasses.dataclass(frozen=True)
class BatchNorm(Method):
    r"""Batch normalisation in front of every hidden activation (arXiv:1502.03167, algorithm 1).

    .. math:: h = \phi(\gamma \hat z + \beta), \qquad
              \hat z = (z - \mathrm{mean}_B(z)) / \sqrt{\mathrm{var}_B(z) + \epsilon}

    over the samples of a batch (and the positions of images), feature by feature; when it is evaluated, by
    running averages, which mix tasks for 1 / momentum steps. Needs batches of at least two samples. Goes
    where `LayerNorm` goes; tokens are refused.

    Args:
        affine: whether there are gains gamma and offsets beta, initially 1 and 0.
        momentum: weight of a batch in the running averages, in [0, 1].
        eps: > 0.
    """

    name: ClassVar[str] = "batchnorm"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="BatchNorm",
        source="Ioffe and Szegedy, arXiv:1502.03167, algorithm 1",
        controls="the scale of the activations",
        spectrum="activations",
        family="architecture",
        cost="two passes over the activations",
        claims=frozenset({"normalization"}),
    )

    affine: bool = True
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "eps")
        fraction(self, "momentum")

    def prepare(self, model: nn.Module) -> nn.Module:
        """Normalise in place."""
        tokens = next((n for n, m in model.named_modules() if isinstance(m, _TOKENS)), None)
        if tokens is not None:
            raise IsoplastError(
                f"method batchnorm normalises over samples, and {tokens} works on tokens: use layernorm"
            )
        return _normalized(self, model, _is_batch_norm, self._make)

    def _make(self, features: int, dim: int) -> nn.Module:
        kind = {-1: nn.BatchNorm1d, -2: nn.BatchNorm1d, -3: nn.BatchNorm2d, -4: nn.BatchNorm3d}[dim]
        return kind(features, eps=self.eps, momentum=self.momentum, affine=self.affine)


_TOKENS = (Attention, nn.MultiheadAttention, nn.Embedding)
_ATTENTION = (Attention, nn.MultiheadAttention)
_DIMS = ((nn.BatchNorm2d, -3), (nn.InstanceNorm2d, -3), (nn.BatchNorm3d, -4), (nn.InstanceNorm3d, -4))


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, BATCH_NORMS) and not isinstance(module, INSTANCE_NORMS)


def _is_layer_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or (isinstance(module, nn.GroupNorm) and module.num_groups == 1)


def _normalized(
    method: Method, model: nn.Module, is_right: Callable[[nn.Module], bool], make: Make
) -> nn.Module:
    """Replace the normalisations of another kind, or put new ones where there are none."""
    present = [module for module in model.modules() if isinstance(module, NORMALISATIONS)]
    if present:
        wrong = [module for module in present if not is_right(module)]
        return replace_(model, {module: make(*_width(module)) for module in wrong})
    if isinstance(model, ViT | GPT):
        return _fill_transformer(model, make)
    found = hidden_activations(method, model)
    places = _places(model, {name for hidden in found for name in hidden.group.producers})
    if places:
        return replace_(model, {place: make(*_behind(layer)) for place, layer in places.items()})
    swaps: dict[nn.Module, nn.Module] = {}
    for hidden in found:
        activation = model.get_submodule(own(method, hidden).name)
        swaps[activation] = nn.Sequential(make(hidden.features, hidden.dim), activation)
    return replace_(model, swaps)


def _width(norm: nn.Module) -> tuple[int, int]:
    """Features of a normalisation, and their dimension from the end."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels, -3
    if isinstance(norm, BATCH_NORMS):
        return norm.num_features, next((dim for kind, dim in _DIMS if isinstance(norm, kind)), -1)
    shape: tuple[int, ...] = norm.normalized_shape  # type: ignore[assignment]
    return shape[0], -len(shape)


def _fill_transformer(model: ViT | GPT, make: Make) -> nn.Module:
    """Normalise every branch of a transformer that was built without."""
    names = ["norm", *(f"blocks.{i}.norm{j}" for i in range(len(model.blocks)) for j in (1, 2))]
    places = [model.get_submodule(name) for name in names]
    features = model.head.in_features
    return replace_(model, {place: make(features, -1) for place in places})


def _places(model: nn.Module, producers: set[str]) -> dict[nn.Module, nn.Module]:
    """The identities that stand right behind layers of hidden units, with those layers."""
    found: dict[nn.Module, nn.Module] = {}
    for node in graph_of(model).nodes:
        before = node.all_input_nodes[0] if node.all_input_nodes else node
        if node.op == before.op == "call_module":
            module, layer = model.get_submodule(str(node.target)), str(before.target)
            if type(module) is nn.Identity and layer in producers:
                found[module] = model.get_submodule(layer)
    return found


def _behind(layer: nn.Module) -> tuple[int, int]:
    """Features of a layer's outputs, and their dimension from the end."""
    features = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return int(features), feature_dim(layer)  # type: ignore[arg-type]
