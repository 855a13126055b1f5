"""The weight matrices of a network or of a state dict, as the layers apply them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

from isoplast._core import layer_kinds as kinds
from isoplast.isometry import is_matrix, matrix_view, matrix_views, polar_factor
from isoplast.model._batches import is_mask
from isoplast.model._parameters import Decision, decide

_PARAMETRISED = re.compile(r"(^|\.)parametrizations\.(\w+)\.original1?$|(?<=weight)_(v|orig)$")
_ONE = kinds.Cut("one matrix")
_BY_ANOTHER_RULE = "another rule makes the weight from it"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """One layer's weight.

    Attributes:
        name: the parameter's name without ".weight"; "[q]" or "[0]" names one of several in one parameter.
        blocks: shape (..., m, n): the matrix, or the blocks of a block-diagonal one (grouped convolutions).
        shape: of the weight itself.
        layout: the keywords with which :func:`isoplast.isometry.matrix_views` finds it in its parameter.
        overlap: into how many patches a convolution copies a pixel at most, 1 for a linear layer: the
            squared operator norm is at most that many times the squared norm of the kernel seen as a matrix.
        module: the layer, None for a weight from a state dict.
        doubt: why it may be several matrices instead of one, or nothing.
    """

    name: str
    blocks: Tensor
    shape: tuple[int, ...]
    layout: Mapping[str, Any]
    overlap: int = 1
    module: nn.Module | None = None
    doubt: str = ""

    @property
    def weight(self) -> str:
        """The parameter's name without ".weight"."""
        return self.name.partition("[")[0]


def matrices_of_module(network: nn.Module) -> tuple[list[Matrix], dict[str, str]]:
    """The matrices of a network in its order, each tensor once, and why other parameters are left out."""
    found: dict[str, tuple[int, Matrix]] = {}
    left_out: dict[str, str] = {}
    owners: dict[Tensor, list[str]] = {}
    places: dict[str, int] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
        places[name] = len(places)
    for decision in decide(network):
        matrices = list(_of_decision(network, decision, owners[decision.parameter]))
        for matrix in matrices:  # a tied weight stands where the layer is that it is named after
            place = places.get(f"{matrix.weight}.weight", places[decision.name])
            found[matrix.name] = (place, matrix)
        if not matrices and decision.parameter.ndim > 1:
            left_out[clean_name(decision.name)] = decision.reason
    ordered = sorted(found.values(), key=lambda pair: pair[0])
    return [matrix for _, matrix in ordered], left_out


def _of_decision(network: nn.Module, decision: Decision, names: list[str]) -> Iterator[Matrix]:
    """The matrices of one parameter."""
    name, parameter = decision.name, decision.parameter
    if decision.role == "tied":
        # A head that shares the table of an embedding is a map between layers; the table alone is not.
        for name in names:
            alone = decide(network.get_submodule(name.rpartition(".")[0]))
            if any(d.parameter is parameter and d.isometric for d in alone):
                yield from _matrices(network, name, parameter)
                return
    elif decision.role == "isometric":
        layer = network.get_submodule(name.rpartition(".")[0])
        yield from _matrices(network, name, layer.effective_weight(), _ONE)  # type: ignore[operator]
    elif decision.role == "parametrised" or "parametrizations." in name:
        name, weight = _parametrised(network, name)
        if weight is not None and is_matrix(weight):
            yield from _matrices(network, name, weight)
    elif decision.isometric:
        yield from _matrices(network, name, parameter, dims=decision.batch_dims)


def _parametrised(network: nn.Module, name: str) -> tuple[str, Tensor | None]:
    """Name and value of the weight that a parametrisation makes from a parameter."""
    owner, found, rest = name.rpartition("parametrizations.")
    if found:
        tensor = rest.partition(".")[0]
        layer = network.get_submodule(owner.rstrip("."))
        value = getattr(layer, tensor) if parametrize.is_parametrized(layer, tensor) else None
        return f"{owner}{tensor}", _unless_table(layer, value)
    owner, _, leaf = name.rpartition(".")
    layer = network.get_submodule(owner)
    tensor = leaf.rpartition("_")[0]
    for hook in layer._forward_pre_hooks.values():
        if getattr(hook, "name", None) == tensor:  # weight_norm or spectral_norm of torch before 2.0
            spectral = isinstance(hook, SpectralNorm)
            settings = {"do_power_iteration": False} if spectral else {}
            value = hook.compute_weight(layer, **settings)  # type: ignore[attr-defined]
            return f"{owner}.{tensor}".lstrip("."), _unless_table(layer, value)
    return name, None


def _unless_table(layer: nn.Module, weight: Tensor | None) -> Tensor | None:
    no_map = kinds.is_embedding(layer) or kinds.is_normalisation(layer) or kinds.is_depthwise(layer)
    return None if no_map else weight


def _matrices(
    network: nn.Module, name: str, weight: Tensor, cut: kinds.Cut | None = None, dims: int = 0
) -> Iterator[Matrix]:
    """The matrices in a weight of a network, cut as its module says unless told otherwise."""
    layer = network.get_submodule(name.rpartition(".")[0])
    overlap = 1
    if isinstance(layer, kinds.CONVOLUTIONS + kinds.TRANSPOSED_CONVOLUTIONS):
        overlap = math.prod(-(-k // s) for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        cut = None  # an isometric convolution has its groups, too
    found = cut or kinds.cut_of_module(network, name, weight)
    for matrix in _cut(name, weight, found, dims, apart=overlap == 1 and weight.ndim - dims == 2):
        yield dataclasses.replace(matrix, overlap=overlap, module=layer)


def _cut(name: str, weight: Tensor, cut: kinds.Cut, dims: int, *, apart: bool) -> Iterator[Matrix]:
    """One weight as one matrix, or as the several that it holds; none if they are single rows.

    Args:
        name: of the parameter.
        weight: its value.
        cut: how the matrices lie in it.
        dims: 1 for a stack.
        apart: whether several are several layers, and no block-diagonal one.
    """
    name = clean_name(name).removesuffix(".weight")
    layout: dict[str, Any] = {"batch_dims": dims, "split": cut.split}
    views = matrix_views(weight.detach(), **layout)
    if min(view.shape[-2] for view in views) < 2:
        return
    one = Matrix(name, views[0], tuple(weight.shape), layout, doubt=cut.reason if cut.doubtful else "")
    if not apart or (dims == 0 and len(views) == 1 and views[0].ndim == 2):
        yield one
        return
    labels, blocks = _labelled(views, cut.parts, dims)
    for label, block in zip(labels, blocks, strict=True):
        yield dataclasses.replace(one, name=f"{name}[{label}]", blocks=block, shape=tuple(block.shape))


def _labelled(views: tuple[Tensor, ...], parts: tuple[str, ...], dims: int) -> tuple[list[str], list[Tensor]]:
    """The single matrices of a weight, with what they are called: "q", "0", "3 up"."""
    stacks = [[block for view in views for block in (view if view.ndim > 2 else [view])]]
    if dims:
        apart = zip(*(view.unbind() for view in views), strict=True)
        stacks = [[b for view in one for b in (view if view.ndim > 2 else [view])] for one in apart]
    count = len(stacks[0])
    own = list(parts) if len(parts) == count else [str(i) for i in range(count)]
    if not dims:
        return own, stacks[0]
    labels = [f"{i} {label}" if count > 1 else str(i) for i in range(len(stacks)) for label in own]
    return labels, [block for stack in stacks for block in stack]


def matrices_of_state(state: Mapping[str, Any]) -> tuple[list[Matrix], dict[str, str]]:
    """The matrices of a state dict by its names and shapes, and why other tensors are left out."""
    found: list[Matrix] = []
    left_out: dict[str, str] = {}
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    inner = False
    for name, value in state.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            continue
        dense = value.layout is torch.strided
        key = (value.data_ptr(), value.shape, value.stride()) if dense else (id(value), value.shape, ())
        reason = "the same tensor as another one" if key in seen else _no_map(state, name, value, inner)
        # A network that has read a table or a kernel before does not read an image of one channel here.
        inner = inner or kinds.named_embedding(name) or (value.ndim > 2 and "weight" in name)
        matrices: list[Matrix] = []
        if not reason:
            weight = _applied(state, name, value)
            reason = "its blocks are single rows" if weight is not None else _BY_ANOTHER_RULE
            matrices = [] if weight is None else list(_of_stored(state, name, weight))
        if not matrices:
            left_out[name] = reason
            continue
        seen.add(key)
        found += matrices
    return found, left_out


def _no_map(state: Mapping[str, Any], name: str, value: Tensor, inner: bool) -> str:
    """Why a stored tensor is no matrix to keep, or nothing; `inner`: other kernels come before."""
    if value.layout is not torch.strided:
        return "not a dense tensor"
    if value.dtype.itemsize == 1:
        return "numbers of 8 bits, whose scale is kept elsewhere"
    if is_mask(value):
        return "a mask of attention"
    label = _label(name)
    owner, _, leaf = label.rpartition(".")
    # A linear layer may have such a name as well; it has a bias, or a kernel.
    table = leaf != "weight" or (value.ndim == 2 and f"{owner}.bias".lstrip(".") not in state)
    if kinds.named_embedding(label) and table:
        return "named like an embedding"
    if leaf == "weight" and kinds.named_normalisation(owner):
        return "named like a normalisation"
    if kinds.named_bias(leaf):
        return "a bias"
    stack = value.ndim == 3 and kinds.named_experts(label)
    if not is_matrix(value, batch_dims=int(stack)):
        return "one side of the matrix is 1"
    if not kinds.named_map(leaf):
        return "not named like a map between layers"
    if value.ndim > 2 and leaf != "weight" and not stack:
        return f"{value.ndim} dimensions that nothing names"
    depthwise = value.ndim > 2 and value.shape[1] == 1 and inner
    return "shaped like a depthwise kernel" if depthwise else ""


def _label(name: str) -> str:
    """The name of the weight that a stored tensor is for."""
    return _PARAMETRISED.sub(lambda found: f"{found[1]}{found[2]}" if found[2] else "", name)


def _of_stored(state: Mapping[str, Any], name: str, weight: Tensor) -> Iterator[Matrix]:
    label = _label(name)
    dims = int(weight.ndim == 3 and kinds.named_experts(label))
    isometric = _is_isometric(state, name)
    cut = _ONE if isometric else kinds.cut_of_state(state, label, weight)
    for matrix in _cut(label, weight, cut, dims, apart=True):
        yield dataclasses.replace(matrix, overlap=1 if dims else math.prod(weight.shape[2:]))


def _applied(state: Mapping[str, Any], name: str, value: Tensor) -> Tensor | None:
    """The weight that a layer makes from a stored tensor, None if a state dict does not tell."""
    owner, _, leaf = name.rpartition(".")
    if _is_isometric(state, name):
        # Of an isometric layer the orthogonal factor acts; where it is not finite, so is the weight.
        finite = bool(value.isfinite().all())
        return polar_factor(matrix_view(value)).view(value.shape) if finite else value
    if ".parametrizations." not in f".{name}" and not kinds.named_parametrised(leaf):
        return value
    if leaf in ("original1", "weight_v"):
        scale = state.get(f"{owner}.original0" if leaf == "original1" else f"{owner}.weight_g".lstrip("."))
        if isinstance(scale, Tensor):
            sides = [i for i in range(value.ndim) if scale.ndim != value.ndim or scale.shape[i] == 1]
            norms: Tensor = torch.linalg.vector_norm(value, dim=sides, keepdim=True)
            return scale * value / norms
    pair = ("0._u", "0._v") if leaf == "original" else ("weight_u", "weight_v")
    u, v = (state.get(f"{owner}.{each}".lstrip(".")) for each in pair)
    if leaf in ("original", "weight_orig") and isinstance(u, Tensor) and isinstance(v, Tensor):
        # spectral_norm divides by its estimate of the largest singular value.
        matrix = (value if len(u) == value.shape[0] else value.transpose(0, 1)).flatten(1)
        return value / torch.dot(u, matrix @ v)
    return None


def _is_isometric(state: Mapping[str, Any], name: str) -> bool:
    """Whether a stored weight is the raw one of a layer that is orthogonal by construction."""
    owner, _, leaf = name.rpartition(".")
    extra = state.get(f"{owner}._extra_state".lstrip("."))
    return leaf == "weight" and isinstance(extra, Mapping) and "training_steps" in extra


def clean_name(name: str) -> str:
    """A name without what `torch.compile` puts into it."""
    return name.replace("_orig_mod.", "")
