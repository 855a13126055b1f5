"""What each parameter of a network is (matrix, head, embedding, bias, ...), with a reason for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from isoplast._core import layer_kinds as kinds
from isoplast._core.errors import IsoplastError
from isoplast.isometry import Split, is_matrix, matrix_views

_KNOWN = (*kinds.MAPS, *kinds.RECURRENT, nn.MultiheadAttention)


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
        split: number of equal row blocks, or their row counts; negative for columns, as in
            :func:`isoplast.isometry.matrix_views`.
        batch_dims: leading dimensions that count matrices.
        strength: its own strength, or None for the one of the whole model.
        operator: the stride of a convolution that is to be isometric as an operator, else None.
        parts: what the matrices in it are, in their order: ("q", "k", "v") of a fused projection, numbered
            where each head is a matrix ("q0", "q1", ...), ("q",) of one that is not fused; () where nothing
            says so.
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
    parts: tuple[str, ...] = ()

    @property
    def layout(self) -> dict[str, Any]:
        """The keywords with which :func:`isoplast.isometry.matrix_views` finds its matrices."""
        return {"batch_dims": self.batch_dims, "split": self.split}


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
    outputs = {found.layer: found.reason for found in kinds.heads(model)}
    if head is not None and not outputs:
        raise IsoplastError(
            f"head={head:g} was asked for, and {type(model).__name__} has no linear layer or convolution: "
            "leave head out"
        )
    asked = _Asked(model, outputs, head, split or {}, batch_dims or {}, per_head)
    decisions = []
    for p, found in owners.items():
        name, module = found[0]
        if any(fnmatch(name, pattern) for pattern in exclude):
            decisions.append(Decision(name, p, "excluded", False, "named in exclude"))
        elif len(found) > 1:
            others = " and ".join(other for other, _ in found[1:])
            decisions.append(Decision(name, p, "tied", False, f"the same tensor as {others}"))
        else:
            decisions.append(asked.decide(name, p, module))
    return decisions


@dataclass(frozen=True)
class _Asked:
    """A model and what its user said about it."""

    model: nn.Module
    outputs: Mapping[nn.Module, str]  # the output layers, with the reasons
    head: float | None
    split: Mapping[str, Split]
    batch_dims: Mapping[str, int]
    per_head: bool

    def decide(self, name: str, p: Tensor, module: nn.Module) -> Decision:
        """The decision about a parameter that stands for itself."""
        if isinstance(p, UninitializedParameter):
            raise IsoplastError(f"{name} is not initialised yet: run one batch through the model first")
        split, dims = _match(self.split, name), _match(self.batch_dims, name)
        said = split is not None or dims is not None
        if dims is None:
            dims = int(p.ndim == 3 and not isinstance(module, _KNOWN) and kinds.named_experts(name))
        left_out = _left_out(name, p, module, dims, said)
        if left_out is not None:
            return Decision(name, p, left_out[0], False, left_out[1])
        cut = kinds.cut_of_module(self.model, name, p, per_head=self.per_head)
        blocks, parts = (cut.split, cut.parts) if split is None else (split, ())
        try:
            rows = [view.shape[-2] for view in matrix_views(p, batch_dims=dims, split=blocks)]
        except ValueError as error:
            raise IsoplastError(f"{name}: {error}") from None
        if min(rows) < 2:
            return Decision(name, p, "other", False, "its blocks are single rows, which have no spectrum")
        reason = cut.reason
        if dims and not said:
            reason = f"{p.shape[0]} experts: a matrix each{'; ' + reason if cut.doubtful else ''}"
        if module not in self.outputs:
            return Decision(name, p, "matrix", True, reason, blocks, dims, parts=parts)
        reason = self.outputs[module]
        return Decision(name, p, "head", self.head != 0, reason, blocks, dims, self.head, parts=parts)


def _match(settings: Mapping[str, Any], name: str) -> Any:
    return next((value for pattern, value in settings.items() if fnmatch(name, pattern)), None)


def _left_out(name: str, p: Tensor, module: nn.Module, dims: int, said: bool) -> tuple[str, str] | None:
    """Role and reason of a parameter that is no matrix to keep, or None; `said`: its user says it is one."""
    leaf = name.rpartition(".")[2]
    kind = type(module).__name__
    if kinds.is_embedding(module):
        return "embedding", "a table of vectors, not a map between layers"
    if kinds.is_normalisation(module):
        return "norm", f"scale or shift of {kind}"
    if isinstance(module, nn.utils.parametrize.ParametrizationList) or kinds.named_parametrised(leaf):
        return "parametrised", "another rule makes the weight from it"
    if kinds.is_orthogonal_by_construction(p):
        return "isometric", "orthogonal by construction: a penalty would fight it"
    if not is_matrix(p, batch_dims=dims):
        if p.ndim < 2:
            return "bias" if "bias" in leaf else "vector", "a vector has no spectrum"
        real = p.is_floating_point()
        return "other", "one side of the matrix is 1" if real else f"{p.dtype} is not real floating"
    if kinds.is_left_to_its_authors(p):
        return "other", "its authors marked it as free of weight decay"
    if kinds.is_depthwise(module):
        return "depthwise", "one filter per channel: no channel is mixed with another"
    if isinstance(module, nn.Bilinear):
        return "other", "a bilinear form is no matrix"
    return None if isinstance(module, _KNOWN) else _no_map(name, p, kind, dims, said)


def _no_map(name: str, p: Tensor, kind: str, dims: int, said: bool) -> tuple[str, str] | None:
    """The same for a parameter of a module that nobody knows: its name and shape alone speak."""
    leaf = name.rpartition(".")[2]
    if kinds.named_bias(leaf):
        return "bias", "a bias"
    if kinds.named_embedding(leaf) and not said:
        return "embedding", f"named like an embedding in {kind}"
    if p.ndim > 2 and dims == 0:
        stack = f"batch_dims={{{name!r}: {p.ndim - 2}}}"
        return "other", f"{p.ndim}-d parameter of {kind}: say {stack} if it is a stack"
    if not kinds.named_map(leaf) and not said:
        return "other", f"{p.ndim}-d parameter of {kind}: say split={{{name!r}: 1}} if it maps features"
    return None
