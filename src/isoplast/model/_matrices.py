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

from isoplast.isometry import Split, is_matrix, matrix_view, matrix_views, polar_factor
from isoplast.model._batches import is_mask
from isoplast.model._parameters import Decision, decide

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_EMBEDDING = re.compile(r"(embed|token|pos_|position|wte$|wpe$)", re.IGNORECASE)
_FUSED = re.compile(r"(qkv|c_attn|query_key_value|in_proj)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Matrix:
    """One layer's weight.

    Attributes:
        name: the parameter's name without ".weight"; "[q]" or "[0]" names one of several in one parameter.
        blocks: shape (..., m, n): the matrix, or the blocks of a block-diagonal one (grouped convolutions).
        shape: of the weight itself.
        overlap: into how many patches a convolution copies a pixel at most, 1 for a linear layer: the
            squared operator norm is at most that many times the squared norm of the kernel seen as a matrix.
        module: the layer, None for a weight from a state dict.
    """

    name: str
    blocks: Tensor
    shape: tuple[int, ...]
    overlap: int = 1
    module: nn.Module | None = None


def matrices_of_module(network: nn.Module) -> tuple[list[Matrix], dict[str, str]]:
    """The matrices of a network in its order, each tensor once, and why other parameters are left out."""
    found: dict[str, Matrix] = {}
    left_out: dict[str, str] = {}
    owners: dict[Tensor, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        owners.setdefault(parameter, []).append(name)
    for decision in decide(network):
        matrices = list(_of_decision(network, decision, owners[decision.parameter]))
        found.update({matrix.name: matrix for matrix in matrices})
        if not matrices and decision.parameter.ndim > 1:
            left_out[clean_name(decision.name)] = decision.reason
    return list(found.values()), left_out


def _of_decision(network: nn.Module, decision: Decision, names: list[str]) -> Iterator[Matrix]:
    """The matrices of one parameter."""
    name, parameter, split = decision.name, decision.parameter, decision.split
    if decision.role == "tied":
        # A head that shares the table of an embedding is a map between layers; the table alone is not.
        for name in names:
            alone = decide(network.get_submodule(name.rpartition(".")[0]))
            kept = [d for d in alone if d.parameter is parameter and d.isometric]
            if kept:
                yield from _matrices(network, name, parameter, kept[0].split)
                return
    elif decision.role == "isometric":
        layer = network.get_submodule(name.rpartition(".")[0])
        yield from _matrices(network, name, layer.effective_weight(), 1)  # type: ignore[operator]
    elif decision.role == "parametrised" or "parametrizations." in name:
        name, weight = _parametrised(network, name)
        if weight is not None and is_matrix(weight):
            yield from _matrices(network, name, weight, 1)
    elif decision.isometric:
        yield from _matrices(network, name, parameter, split)


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
    table = isinstance(layer, nn.Embedding | nn.EmbeddingBag) or "norm" in type(layer).__name__.lower()
    return None if table or _is_depthwise(layer) else weight


def _is_depthwise(layer: nn.Module) -> bool:
    return (
        isinstance(layer, _CONVOLUTIONS)
        and layer.groups > 1
        and layer.groups in (layer.in_channels, layer.out_channels)
    )


def _matrices(network: nn.Module, name: str, weight: Tensor, split: Split) -> Iterator[Matrix]:
    layer = network.get_submodule(name.rpartition(".")[0])
    overlap = 1
    if isinstance(layer, _CONVOLUTIONS):
        split = layer.groups
        overlap = math.prod(-(-k // s) for k, s in zip(layer.kernel_size, layer.stride, strict=True))
    yield from _split(name, weight, split, overlap, layer, apart=not isinstance(layer, _CONVOLUTIONS))


def _split(
    name: str, weight: Tensor, split: Split, overlap: int, layer: nn.Module | None, *, apart: bool
) -> Iterator[Matrix]:
    """One weight as one matrix, or as the several that its rows hold."""
    name = clean_name(name).removesuffix(".weight")
    shape = tuple(weight.shape)
    views = matrix_views(weight.detach(), split=split)
    if split == 1 or not apart:
        yield Matrix(name, views[0], shape, overlap, layer)
        return
    blocks = [block for view in views for block in (view if view.ndim > 2 else [view])]
    labels = "qkv" if len(blocks) == 3 and not isinstance(layer, nn.RNNBase) else range(len(blocks))
    for label, block in zip(labels, blocks, strict=True):
        yield Matrix(f"{name}[{label}]", block, tuple(block.shape), overlap, layer)


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
        if key in seen:
            weight, reason = None, "the same tensor as another one"
        else:
            weight, reason = _stored(state, name, value, inner)
        inner = inner or (value.ndim > 2 and "weight" in name)
        if weight is None:
            left_out[name] = reason
            continue
        seen.add(key)
        overlap = math.prod(weight.shape[2:])
        label = name.replace(".parametrizations.weight.original1", ".weight").replace(".weight_v", ".weight")
        found += _split(label, weight, _stored_split(state, name, weight), overlap, None, apart=True)
    return found, left_out


def _stored(state: Mapping[str, Any], name: str, value: Tensor, inner: bool) -> tuple[Tensor | None, str]:
    """The applied weight of a stored tensor, or why there is none; `inner`: other kernels come before."""
    owner, _, leaf = name.rpartition(".")
    if _EMBEDDING.search(leaf) or _EMBEDDING.search(owner.rpartition(".")[2]):
        return None, "named like an embedding"
    if value.layout is not torch.strided:
        return None, "not a dense tensor"
    if value.dtype.itemsize == 1:
        return None, "numbers of 8 bits, whose scale is kept elsewhere"
    if is_mask(value):
        return None, "a mask of attention"
    if leaf.startswith("bias") or not is_matrix(value):
        return None, "one side of the matrix is 1" if not leaf.startswith("bias") else "a bias"
    if ".parametrizations." in f".{name}" or leaf in ("weight_g", "weight_v", "weight_orig"):
        scale = state.get(f"{owner}.original0" if leaf == "original1" else f"{owner}.weight_g".lstrip("."))
        if leaf in ("original1", "weight_v") and isinstance(scale, Tensor):
            sides = [i for i in range(value.ndim) if scale.ndim != value.ndim or scale.shape[i] == 1]
            return scale * value / torch.linalg.vector_norm(value, dim=sides, keepdim=True), ""
        return None, "another rule makes the weight from it"
    if value.ndim > 2 and value.shape[1] == 1 and inner:
        return None, "shaped like a depthwise kernel"
    extra = state.get(f"{owner}._extra_state".lstrip("."))
    if leaf == "weight" and isinstance(extra, Mapping) and "training_steps" in extra:
        # Of an isometric layer the orthogonal factor acts; where it is not finite, so is the weight.
        finite = bool(value.isfinite().all())
        return (polar_factor(matrix_view(value)).view(value.shape) if finite else value), ""
    return value, ""


def _stored_split(state: Mapping[str, Any], name: str, weight: Tensor) -> int:
    """How many matrices the rows of a stored weight hold."""
    owner, _, leaf = name.rpartition(".")
    recurrent = state.get(name.replace("weight_ih", "weight_hh"))
    if leaf.startswith(("weight_ih_l", "weight_hh_l")) and isinstance(recurrent, Tensor):
        gates, rest = divmod(recurrent.shape[0], recurrent.shape[1])
        return gates if rest == 0 and gates in (3, 4) else 1
    fused = _FUSED.search(leaf) or _FUSED.search(owner.rpartition(".")[2])
    return 3 if fused and weight.ndim == 2 and weight.shape[0] % 3 == 0 else 1


def clean_name(name: str) -> str:
    """A name without what `torch.compile` puts into it."""
    return name.replace("_orig_mod.", "")
