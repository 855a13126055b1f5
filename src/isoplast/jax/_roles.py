"""What each array in a tree of parameters is for, by the layers of flax, equinox and haiku."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import jax
import jax.numpy as jnp

from isoplast._core.errors import IsoplastError
from isoplast.jax._layout import Layout

_FUSED = re.compile(r"(qkv|c_attn|query_key_value|in_proj)", re.IGNORECASE)
_EMBEDDING = re.compile(r"(embed|token|pos_|position)", re.IGNORECASE)
_HEADS_OUT = re.compile(r"(query|key|value)$", re.IGNORECASE)
_KERNELS = ("kernel", "w")  # flax and haiku put the outputs last; equinox has "weight", outputs first


@dataclass(frozen=True)
class Role:
    """What is done with one array, and why.

    Attributes:
        name: its path in the tree, such as "Dense_0/kernel".
        shape: its shape.
        role: "matrix", "embedding", "norm", "vector", "depthwise", "excluded" or "other".
        layout: how it is seen as matrices; None if it is left alone.
        reason: why, in a few words.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    layout: Layout | None
    reason: str


class Roles(tuple[Role, ...]):
    """One :class:`Role` per array, in the order of the tree's leaves; printing shows all of them."""

    def __str__(self) -> str:
        rows = [("parameter", "shape", "role", "isometry", "reason")]
        for r in self:
            shape = "x".join(map(str, r.shape)) or "scalar"
            rows.append((r.name, shape, r.role, "no" if r.layout is None else "yes", r.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [[c.ljust(w) for c, w in zip(row, widths, strict=False)] + [row[4]] for row in rows]
        return "\n".join("  ".join(line) for line in lines)

    def require_matrix(self) -> None:
        """Refuses isometry that would silently do nothing.

        Raises:
            IsoplastError: naming some of the arrays that are there instead.
        """
        if any(r.layout is not None for r in self):
            return
        shown = "; ".join(f"{r.name} {r.shape}: {r.reason}" for r in self[:3]) or "no array at all"
        more = f" and {len(self) - 3} more" if len(self) > 3 else ""
        raise IsoplastError(
            f"isometry was asked for, but there is no matrix to keep isometric ({shown}{more}): set "
            "isometry=0, or say what the matrices are with roles=roles(params, layouts=...); a mask or a "
            "flattening around the transformation may have hidden them"
        )


def roles(params: Any, *, exclude: Iterable[str] = (), layouts: Mapping[str, Layout] | None = None) -> Roles:
    """Sorts a tree of parameters into arrays that are kept isometric and others, with a reason for each.

    Known are the layers of equinox, by their types, and those of flax and haiku, by the names and shapes of
    their arrays: kernels (in, out) and (..., in, out), attention with an axis of heads, embeddings, norms.
    What is not known for certain is left alone, and its reason says so.

    Args:
        params: the tree that the optimizer gets: ``variables["params"]`` of flax.linen,
            ``nnx.state(model, nnx.Param)``, ``equinox.filter(model, equinox.is_inexact_array)``, a dict.
        exclude: shell patterns of names to leave alone, such as "encoder/*".
        layouts: layouts by name pattern, such as {"*/experts": Layout((1,), (2,))}; they come first.

    Returns:
        One :class:`Role` per array; ``print`` it to see them.

    Raises:
        IsoplastError: for a pattern that matches nothing, or a layout that does not fit.

    Example:
        >>> params = {"Embed_0": {"embedding": jnp.ones((50, 8))}, "Dense_0": {"kernel": jnp.ones((8, 4))}}
        >>> print(roles(params))
        parameter          shape  role       isometry  reason
        Dense_0/kernel     8x4    matrix     yes       8 inputs, 4 outputs
        Embed_0/embedding  50x8   embedding  no        a table of vectors, not a map between layers
    """
    layouts = dict(layouts or {})
    found = [_role(path, leaf, layer) for path, leaf, layer in _leaves(params)]
    patterns = [*exclude, *layouts]
    for pattern in patterns:
        if not any(fnmatch(r.name, pattern) for r in found):
            example = f"; names look like {found[0].name!r}" if found else ""
            raise IsoplastError(f"no parameter is named like {pattern!r}{example}")
    return Roles(_chosen(r, exclude, layouts) for r in found)


def _chosen(role: Role, exclude: Iterable[str], layouts: Mapping[str, Layout]) -> Role:
    """The role as the caller's patterns want it."""
    if any(fnmatch(role.name, pattern) for pattern in exclude):
        return Role(role.name, role.shape, "excluded", None, "named in exclude")
    wanted = next((layout for pattern, layout in layouts.items() if fnmatch(role.name, pattern)), None)
    if wanted is None:
        return role
    wanted.check(role.name, role.shape)
    rows, columns = wanted.sides(role.shape)
    return Role(role.name, role.shape, "matrix", wanted, f"{columns} inputs, {rows} outputs, as told")


def _leaves(params: Any) -> list[tuple[tuple[str, ...], Any, Any]]:
    """Path, array and, where it is one of equinox's, the layer that owns it."""
    equinox = sys.modules.get("equinox")
    if equinox is None:
        return [(_names(path), leaf, None) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    found: list[tuple[tuple[str, ...], Any, Any]] = []

    def visit(path: tuple[Any, ...], node: Any, layer: Any) -> None:
        layer = node if isinstance(node, equinox.Module) else layer
        children, _ = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda n: n is not node)
        if len(children) == 1 and not children[0][0]:
            found.append((_names(path), node, layer))
            return
        for step, child in children:
            visit((*path, *step), child, layer)

    visit((), params, None)
    return found


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The steps of a key path as words, without the attribute of flax's variables that holds the array."""
    if len(path) > 1 and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    keys = (getattr(step, "key", getattr(step, "name", getattr(step, "idx", step))) for step in path)
    return tuple(map(str, keys))


def _role(path: tuple[str, ...], leaf: Any, layer: Any) -> Role:
    name, shape = "/".join(path), tuple(jnp.shape(leaf))
    role, layout, reason = _left_out(path, leaf, layer) or _matrix(path, shape, layer)
    if layout is not None and min(layout.sides(shape)) < 2:
        role, layout, reason = "other", None, "one side of the matrix is 1"
    return Role(name, shape, role, layout, reason)


Judged = tuple[str, Layout | None, str]


def _left_out(path: tuple[str, ...], leaf: Any, layer: Any) -> Judged | None:
    kind = type(layer).__name__ if layer is not None else (path[-2] if len(path) > 1 else "")
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return "other", None, f"{jnp.result_type(leaf)} is not real floating"
    if "norm" in kind.lower():
        return "norm", None, f"scale or shift of {kind}"
    if jnp.ndim(leaf) < 2:
        return "vector", None, "a vector has no spectrum"
    if _EMBEDDING.search(path[-1]) or (layer is not None and kind == "Embedding"):
        return "embedding", None, "a table of vectors, not a map between layers"
    if layer is None and path[-1].startswith("bias"):
        return "other", None, "a bias"
    return None


def _matrix(path: tuple[str, ...], shape: tuple[int, ...], layer: Any) -> Judged:
    return _flax(path, shape) if layer is None else _equinox(path, shape, layer)


def _flax(path: tuple[str, ...], shape: tuple[int, ...]) -> Judged:
    """A kernel by its name, its owner's name and its shape; the outputs are last."""
    owner = path[-2] if len(path) > 1 else ""
    ndim = len(shape)
    if ndim == 2:
        blocks = 3 if _FUSED.search(owner) and shape[1] % 3 == 0 else 1
        return _of(Layout((0,), (1,), blocks), shape, "fused q, k, v" if blocks > 1 else "")
    if path[-1] not in _KERNELS:
        return (
            "other",
            None,
            f"a {ndim}-d array of unknown use: say layouts={{{'/'.join(path)!r}: Layout(...)}}",
        )
    convolution = Layout(tuple(range(ndim - 1)), (ndim - 1,))
    if ndim == 3 and not owner.lower().startswith("conv"):
        if _HEADS_OUT.search(owner):
            return _of(Layout((0,), (1, 2)), shape, "all heads together")
        if owner.lower() == "out":
            return _of(Layout((0, 1), (2,)), shape, "all heads together")
        return "other", None, f"a 3-d kernel of unknown use: say layouts={{{'/'.join(path)!r}: Layout(...)}}"
    if shape[-2] == 1:
        hint = f"{'/'.join(path)!r}: Layout({convolution.inputs}, {convolution.outputs})"
        return "depthwise", None, f"one input channel: a depthwise kernel, or say layouts={{{hint}}}"
    return _of(convolution, shape, "a convolution")


def _equinox(path: tuple[str, ...], shape: tuple[int, ...], layer: Any) -> Judged:
    """A weight by the type of its layer; the outputs are first."""
    kind, ndim = type(layer).__name__, len(shape)
    weight = path[-1].startswith("weight")
    if kind.startswith("Conv") and weight:
        groups = int(getattr(layer, "groups", 1))
        if groups > 1 and groups in (shape[0], getattr(layer, "in_channels", 0)):
            return "depthwise", None, "one filter per channel: no channel is mixed with another"
        note = f"a convolution of {groups} groups" if groups > 1 else "a convolution"
        return _of(Layout(tuple(range(1, ndim)), (0,), groups), shape, note)
    if kind in ("GRUCell", "LSTMCell") and weight:
        gates = 3 if kind == "GRUCell" else 4
        return _of(Layout((1,), (0,), gates), shape, f"{gates} gates")
    if ndim == 2:
        blocks = 3 if any(map(_FUSED.search, path[-2:])) and shape[0] % 3 == 0 else 1
        return _of(Layout((1,), (0,), blocks), shape, "fused q, k, v" if blocks > 1 else "")
    return "other", None, f"a {ndim}-d array of {kind}: say layouts={{{'/'.join(path)!r}: Layout(...)}}"


def _of(layout: Layout, shape: tuple[int, ...], note: str) -> Judged:
    rows, columns = layout.sides(shape)
    count = f"{layout.blocks} x " if layout.blocks > 1 else ""
    return "matrix", layout, f"{columns} inputs, {count}{rows} outputs" + (f", {note}" if note else "")
