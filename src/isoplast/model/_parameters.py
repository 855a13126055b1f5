"""What each parameter of a network is (matrix, head, embedding, bias, ...), with a reason for each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from isoplast._core.errors import IsoplastError
from isoplast.isometry import Split, is_matrix, matrix_views

_FUSED = re.compile(r"(qkv|c_attn|query_key_value|in_proj|to_kv)", re.IGNORECASE)
_POSITIONAL = re.compile(r"(embed|token|pos_|position)", re.IGNORECASE)
_PROJECTION = re.compile(r"(to_)?(q|k|v|query|key|value)(_proj|_lin)?$", re.IGNORECASE)
_HEADS = ("num_heads", "heads", "n_heads", "n_head", "num_attention_heads")
_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_KNOWN = (nn.Linear, nn.RNNBase, nn.MultiheadAttention, *_CONVOLUTIONS)


@dataclass(frozen=True)
class Decision:
    """What is done with one parameter, and why.

    Attributes:
        name: the parameter's name in the model.
        parameter: the parameter.
        role: "matrix", "head", "embedding", "norm", "bias", "vector", "depthwise", "parametrised",
            "isometric", "tied", "excluded" or "other".
        isometric: whether it is kept isometric.
        reason: why, in a few words.
        split: number of equal row blocks, or their row counts.
        batch_dims: leading dimensions that count matrices.
        strength: its own strength, or None for the one of the whole model.
        operator: the stride of a convolution that is to be isometric as an operator, else None.
    """

    name: str
    parameter: Tensor
    role: str
    isometric: bool
    reason: str
    split: Split = 1
    batch_dims: int = 0
    strength: float | None = None
    operator: int | None = None


def decide(
    model: nn.Module,
    *,
    head: float | None = None,
    exclude: Iterable[str] = (),
    split: Mapping[str, Split] | None = None,
    batch_dims: Mapping[str, int] | None = None,
    per_head: bool = False,
) -> list[Decision]:
    """The decisions of :func:`param_groups`, one per parameter."""
    owners: dict[Tensor, list[tuple[str, nn.Module]]] = {}
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            owners.setdefault(p, []).append((name, module))
    names = [name for found in owners.values() for name, _ in found]
    patterns = [*exclude, *(split or {}), *(batch_dims or {})]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise IsoplastError(f"no parameter is named like {pattern!r}; names look like {names[0]!r}")
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    last = linear[-1] if linear else None
    decisions = []
    for p, found in owners.items():
        name, module = found[0]
        wanted_split = _match(split, name, _heads(model, name, module) if per_head else None)
        wanted_dims = _match(batch_dims, name, 0)
        if any(fnmatch(name, pattern) for pattern in exclude):
            decisions.append(Decision(name, p, "excluded", False, "named in exclude"))
        elif len(found) > 1:
            others = " and ".join(other for other, _ in found[1:])
            decisions.append(Decision(name, p, "tied", False, f"the same tensor as {others}"))
        else:
            decisions.append(_decide(name, p, module, module is last, head, wanted_split, wanted_dims))
    return decisions


def _heads(model: nn.Module, name: str, module: nn.Module) -> int | None:
    """The row blocks of a q, k or v projection when every head is a matrix of its own, or None."""
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads) * (3 if name.endswith("in_proj_weight") else 1)
    owner, _, own = name.removesuffix(".weight").rpartition(".")
    attention = model.get_submodule(owner)
    heads = next((h for h in _HEADS if isinstance(getattr(attention, h, None), int)), None)
    if heads is None or not isinstance(module, nn.Linear) or not name.endswith(".weight"):
        return None
    fused = _fused(own)
    return int(getattr(attention, heads)) * fused if fused > 1 or _PROJECTION.match(own) else None


def _fused(name: str) -> int:
    """How many projections a linear layer of that name holds in its rows."""
    if not _FUSED.search(name):
        return 1
    return 2 if "to_kv" in name.lower() else 3


def _match(settings: Mapping[str, Any] | None, name: str, otherwise: Any) -> Any:
    found = [value for pattern, value in (settings or {}).items() if fnmatch(name, pattern)]
    return found[0] if found else otherwise


def _decide(
    name: str, p: Tensor, module: nn.Module, is_head: bool, head: float | None, split: Split | None, dims: int
) -> Decision:
    if isinstance(p, UninitializedParameter):
        raise IsoplastError(f"{name} is not initialised yet: run one batch through the model first")
    left_out = _left_out(name, p, module, dims)
    if left_out is not None:
        return Decision(name, p, left_out[0], False, left_out[1])
    role, reason, natural = ("head", "last linear layer", 1) if is_head else _matrix(name, p, module)
    blocks = natural if split is None else split
    try:
        rows = [view.shape[-2] for view in matrix_views(p, batch_dims=dims, split=blocks)]
    except ValueError as error:
        raise IsoplastError(f"{name}: {error}") from None
    if min(rows) < 2:
        return Decision(name, p, "other", False, "its blocks are single rows, which have no spectrum")
    strength = head if is_head else None
    return Decision(name, p, role, strength != 0, reason, blocks, dims, strength)


def _left_out(name: str, p: Tensor, module: nn.Module, dims: int) -> tuple[str, str] | None:
    """Role and reason of a parameter that is no matrix to keep, or None."""
    leaf = name.rsplit(".", 1)[-1]
    kind = type(module).__name__
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embedding", "a table of vectors, not a map between layers"
    if "norm" in kind.lower():
        return "norm", f"scale or shift of {kind}"
    if isinstance(module, nn.utils.parametrize.ParametrizationList) or leaf in (
        "weight_g",
        "weight_v",
        "weight_orig",
    ):
        return "parametrised", "another rule makes the weight from it"
    if getattr(p, "hard_isometry", False):
        return "isometric", "orthogonal by construction: a penalty would fight it"
    if not is_matrix(p, batch_dims=dims):
        if p.ndim < 2:
            return "bias" if "bias" in leaf else "vector", "a vector has no spectrum"
        return (
            "other",
            "one side of the matrix is 1" if p.is_floating_point() else f"{p.dtype} is not real floating",
        )
    if (
        isinstance(module, _CONVOLUTIONS)
        and module.groups > 1
        and module.groups in (p.shape[0], module.in_channels)
    ):
        return "depthwise", "one filter per channel: no channel is mixed with another"
    if isinstance(module, nn.Bilinear):
        return "other", "a bilinear form is no matrix"
    if not isinstance(module, _KNOWN):
        if leaf.startswith("bias"):
            return "bias", "a bias"
        if _POSITIONAL.search(leaf):
            return "embedding", f"named like an embedding in {kind}"
        if p.ndim > 2 and dims == 0:
            return (
                "other",
                f"{p.ndim}-d parameter of {kind}: say batch_dims={{{name!r}: {p.ndim - 2}}} if it is a stack",
            )
    return None


def _matrix(name: str, p: Tensor, module: nn.Module) -> tuple[str, str, int]:
    """Role, reason and number of row blocks of a parameter that is kept isometric."""
    if isinstance(module, nn.MultiheadAttention) and name.endswith("in_proj_weight"):
        return "matrix", "fused q, k, v: 3 matrices", 3
    if isinstance(module, nn.RNNBase):
        gates = 1 if "weight_hr" in name else _GATES[module.mode]  # weight_hr is LSTM's projection
        return (
            "matrix",
            f"{gates} gates of {type(module).__name__}" if gates > 1 else "recurrent layer",
            gates,
        )
    if isinstance(module, _CONVOLUTIONS):
        out = f"kernel seen as {p.shape[0]} x {p[0].numel()}"
        return (
            ("matrix", f"{out}, {module.groups} groups", module.groups)
            if module.groups > 1
            else ("matrix", out, 1)
        )
    if isinstance(module, nn.Linear):
        blocks = _fused(name)
        if blocks > 1 and p.shape[0] % blocks == 0:
            return "matrix", f"named like a fused projection: {blocks} matrices", blocks
        return "matrix", "linear layer", 1
    return "matrix", f"2-d parameter of {type(module).__name__}" if p.ndim == 2 else "stack of matrices", 1
