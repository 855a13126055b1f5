"""Weights that hold several matrices: fused projections, gates, groups of channels."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from isoplast._core.layer_kinds._modules import (
    CONVOLUTIONS,
    MAPS,
    RECURRENT,
    TRANSPOSED_CONVOLUTIONS,
    gates,
    gates_of_state,
    stores_transposed,
)
from isoplast._core.layer_kinds._names import own_name, owner_name

_INTERLEAVED = re.compile(r"(?i:query_key_value)|wqkv")
_FUSED = re.compile(r"(?i:(.*_)?w?qkv(_?proj.*|_.*)?|(.*_)?c_attn|w_?pack)")
_INPUT = re.compile(r"(?i:(.*_)?in_proj(_weight)?)")
_PAIRS = {
    ("k", "v"): re.compile(r"(?i:(to_)?w?kv(_proj|_lin|_linear)?|key_value)"),
    ("q", "k"): re.compile(r"(?i:(to_)?w?qk(_proj|_lin|_linear)?)"),
    ("gate", "up"): re.compile(r"(?i:gate_up(_proj)?|w12)"),
}
_SEVERAL = (_INTERLEAVED, _FUSED, _INPUT, *_PAIRS.values())
_SINGLE = re.compile(r"(?i:(to_)?w?_?(q|k|v|query|key|value)(_proj|_lin|_linear)?(_weight)?)")
# Names of language models whose grouped queries, keys and values lie one after the other.
_IN_ORDER = re.compile(r"Wqkv|qkv_proj")

_OUTPUTS = ("o_proj", "out_proj", "to_out", "c_proj", "proj", "dense", "wo", "output", "out", "o", "proj_out")
_QUERIES = ("q_attn", "to_q", "q_proj", "wq", "q", "query")
_HEADS = ("num_heads", "heads", "n_heads", "n_head", "num_attention_heads", "nhead")
_KV_HEADS = (
    "num_kv_heads", "num_key_value_heads", "n_kv_heads", "n_kv_head", "kv_heads", "n_head_kv",
    "num_query_groups", "n_query_groups",
)  # fmt: skip
_HEAD_DIM = ("head_dim", "head_size", "dim_head", "d_head", "attention_head_size")


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the matrices lie in one weight.

    Attributes:
        reason: in a few words.
        parts: what each of them is ("q", "k", "v"), () where nobody knows.
        split: number of equal blocks of rows, or their row counts; negative: blocks of columns of a weight
            that is stored as (in, out), so that -1 is one such matrix.
        doubtful: whether it may hold several matrices and nothing says how, so that it counts as one.
    """

    reason: str
    parts: tuple[str, ...] = ()
    split: int | tuple[int, ...] = 1
    doubtful: bool = False

    def transposed(self) -> Cut:
        """The same cut of a weight that is stored as (in, out)."""
        split = self.split
        return dataclasses.replace(
            self, split=-split if isinstance(split, int) else tuple(-count for count in split)
        )


@dataclasses.dataclass(frozen=True)
class _Beside:
    """What stands beside a projection and tells how it is cut; None where nothing does.

    Attributes:
        heads, kv_heads, head_dim: heads of the queries, heads of keys and values, and their width.
        inner: features that the output projection reads.
        queries: whether the queries have a projection of their own.
        interleaved: whether every head has its queries, key and value together.
        unusual: whether the rows are known to lie in an order that no layout here has.
    """

    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    inner: int | None = None
    queries: bool = False
    interleaved: bool = False
    unusual: bool = False


def cut_of_module(model: nn.Module, name: str, weight: Tensor, *, per_head: bool = False) -> Cut:
    """How the matrices lie in a weight, as its module says.

    Args:
        model: the network.
        name: of the weight in it.
        weight: the weight.
        per_head: whether every head of queries, keys and values is a matrix of its own.
    """
    path, _, leaf = name.rpartition(".")
    module, own = model.get_submodule(path), own_name(name)
    if isinstance(module, CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS):
        return _of_convolution(module, weight, own)
    if isinstance(module, RECURRENT):
        count = gates(module, leaf)
        reason = f"{count} gates of {type(module).__name__}" if count > 1 else "recurrent layer"
        return Cut(reason, split=count)
    swapped = stores_transposed(module)
    known = isinstance(module, (*MAPS, nn.MultiheadAttention)) or swapped
    fused = any(pattern.fullmatch(own) for pattern in _SEVERAL)
    # Most layers are neither fused nor asked for their heads: nothing beside them is looked at.
    beside = _beside_module(model, owner_name(name), own) if fused or per_head else _Beside()
    if isinstance(module, nn.MultiheadAttention) and leaf == "in_proj_weight":
        cut = _thirds()
    else:
        named = _by_name(own, weight.shape, beside, swapped if known else None)
        cut = named or Cut(_plain(module, weight), _single(own))
    if known and per_head:
        cut = _per_head(cut, weight.shape[1 if swapped else 0], beside)
    return cut.transposed() if swapped else cut


def cut_of_state(state: Mapping[str, Any], name: str, weight: Tensor) -> Cut:
    """The same for a tensor of a state dict, told from the names and shapes beside it."""
    leaf = name.rpartition(".")[2]
    recurrent = state.get(name.replace("weight_ih", "weight_hh"))
    if leaf.startswith(("weight_ih", "weight_hh")) and isinstance(recurrent, Tensor) and recurrent.ndim == 2:
        projection = state.get(re.sub("weight_[ih]h", "weight_hr", name))
        return Cut("recurrent layer", split=gates_of_state(weight, recurrent, projection))
    own, owner = own_name(name), owner_name(name)

    def width(part: str) -> int | None:
        path = f"{owner}.{part}".lstrip(".")
        stored = (state.get(f"{path}.weight"), state.get(f"{path}.0.weight"))
        found = [each for each in stored if isinstance(each, Tensor) and each.ndim == 2]
        return found[0].shape[1] if found else None

    named = _by_name(own, weight.shape, _Beside(inner=_inner(own, width), queries=_apart(width)), None)
    return named or Cut("matrix", _single(own))


def _of_convolution(module: Any, weight: Tensor, own: str) -> Cut:
    kernel = f"kernel seen as {weight.shape[0]} x {weight[0].numel()}"
    if module.groups > 1:
        return Cut(f"{kernel}, {module.groups} groups", split=module.groups)
    if _FUSED.fullmatch(own):
        return Cut(f"{kernel}; if it holds q, k and v, say split=3", doubtful=True)
    return Cut(kernel)


def _plain(module: nn.Module, weight: Tensor) -> str:
    if isinstance(module, MAPS):
        return "linear layer"
    if stores_transposed(module):
        return "linear layer, stored as (in, out)"
    return f"2-d parameter of {type(module).__name__}" if weight.ndim == 2 else "stack of matrices"


def _single(own: str) -> tuple[str, ...]:
    """What a projection that is not fused is, by its name."""
    found = _SINGLE.fullmatch(own)
    return (found[2][0].lower(),) if found else ()


def _beside_module(model: nn.Module, owner: str, own: str) -> _Beside:
    module = model.get_submodule(owner)

    def number(names: Sequence[str]) -> int | None:
        sources = (module, getattr(module, "config", None))
        found = (getattr(source, name, None) for source in sources for name in names)
        return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)

    def width(part: str) -> int | None:
        layer = module._modules.get(part)
        for inner in layer.modules() if layer is not None else ():
            if isinstance(inner, nn.Linear):
                return inner.in_features or None
            if stores_transposed(inner):
                return inner.get_parameter("weight").shape[0]
        return None

    return _Beside(
        number(_HEADS),
        number(_KV_HEADS),
        number(_HEAD_DIM),
        _inner(own, width),
        _apart(width),
        # GPT-BigCode says it in the one way, the transformers for images of timm in the other.
        interleaved=getattr(module, "multi_query", None) is False
        or getattr(module, "head_first", False) is True,
        unusual=type(module).__name__.startswith("CodeGen"),  # q, v, k in four slices for four machines
    )


def _inner(own: str, width: Callable[[str], int | None]) -> int | None:
    """The number of features that the output projection beside a projection reads."""
    parts = ("out_proj",) if _INPUT.fullmatch(own) else _OUTPUTS
    return next((found for part in parts if (found := width(part)) is not None), None)


def _apart(width: Callable[[str], int | None]) -> bool:
    return any(width(part) is not None for part in _QUERIES)


def _by_name(own: str, shape: Sequence[int], beside: _Beside, swapped: bool | None) -> Cut | None:
    """The cut of a weight named like a fused projection, by rows; None for any other name.

    Args:
        own: its name.
        shape: its shape, (out, in).
        beside: what stands beside it.
        swapped: whether the shape is (in, out) instead; None: if three times as many columns as rows say so,
            and then the cut is by columns.
    """
    if len(shape) != 2:
        several = any(pattern.fullmatch(own) for pattern in _SEVERAL)
        return Cut(f"nothing says how each holds the parts of {own}", doubtful=True) if several else None
    told = swapped is None and shape[1] == 3 * shape[0]
    rows, columns = (shape[1], shape[0]) if swapped or told else shape
    cut = _rule(own, rows, columns, beside)
    return cut.transposed() if cut is not None and told and cut.split != 1 else cut


def _rule(own: str, rows: int, columns: int, beside: _Beside) -> Cut | None:
    if _INTERLEAVED.fullmatch(own) or (beside.interleaved and _FUSED.fullmatch(own)):
        return _interleaved(rows, beside)
    if _INPUT.fullmatch(own):
        return _input(rows, columns, beside)
    if _FUSED.fullmatch(own):
        if beside.unusual:
            return _unknown(rows)
        return _queries_keys_values(rows, columns, beside, in_order=bool(_IN_ORDER.fullmatch(own)))
    parts = next((parts for parts, pattern in _PAIRS.items() if pattern.fullmatch(own)), None)
    return None if parts is None else _halves(*parts) if rows % 2 == 0 else Cut("linear layer")


def _thirds() -> Cut:
    return Cut("fused q, k, v: 3 matrices", ("q", "k", "v"), 3)


def _halves(first: str, second: str) -> Cut:
    return Cut(f"fused {first}, {second}: 2 matrices", (first, second), 2)


def _grouped(queries: int, others: int) -> Cut:
    if queries == others:
        return _thirds()
    return Cut("fused q, k, v of grouped queries: 3 matrices", ("q", "k", "v"), (queries, others, others))


def _unknown(rows: int) -> Cut:
    return Cut(f"nothing says how its {rows} rows hold q, k, v: one matrix unless split says", doubtful=True)


def _queries_keys_values(rows: int, columns: int, beside: _Beside, *, in_order: bool) -> Cut:
    """Queries, then keys, then values: the heads say how many rows of each, or the output projection."""
    heads, kv_heads = beside.heads, beside.kv_heads
    if heads and kv_heads:
        size = beside.head_dim or rows // (heads + 2 * kv_heads)
        fits = (heads + 2 * kv_heads) * size == rows
        return _grouped(heads * size, kv_heads * size) if fits else _unknown(rows)
    width = heads * beside.head_dim if heads and beside.head_dim else beside.inner
    width = columns if width is None and rows == 3 * columns else width
    if width is None:
        return _unknown(rows)
    if beside.queries and rows == 2 * width:
        return _halves("k", "v")
    others, odd = divmod(rows - width, 2)
    if odd or not 0 < others <= width:
        return _unknown(rows)
    size = beside.head_dim or (width // heads if heads else 0)
    certain = others == width or in_order or (size > 0 and others % size == 0)
    return _grouped(width, others) if certain else _unknown(rows)


def _interleaved(rows: int, beside: _Beside) -> Cut:
    """Megatron's layout: for each head of keys and values its queries, its keys, its values.

    The rows of q as a whole lie apart: every head is a matrix of its own.
    """
    heads = beside.heads
    groups = beside.kv_heads or heads
    if not heads or not groups or heads % groups:
        return Cut("q, k, v may be interleaved head by head: one matrix unless split says", doubtful=True)
    size, rest = divmod(rows, heads + 2 * groups)
    if rest or (beside.head_dim or size) != size:
        return _unknown(rows)
    parts = tuple(f"{part}{i}" for i in range(groups) for part in "qkv")
    if groups == 1:
        return _grouped(heads * size, size)
    split = 3 * groups if groups == heads else (heads // groups * size, size, size) * groups
    return Cut(f"q, k, v interleaved head by head: {3 * groups} matrices", parts, split)


def _input(rows: int, columns: int, beside: _Beside) -> Cut:
    """The input projection of attention (q, k, v) or of a gated state-space layer (x and its gate)."""
    if beside.inner is None:
        return _thirds() if rows == 3 * columns else Cut("linear layer")
    parts, rest = divmod(rows, beside.inner)
    if rest == 0 and parts in (1, 2, 3):
        return {1: Cut("linear layer"), 2: _halves("x", "gate"), 3: _thirds()}[parts]
    return Cut(f"nothing says which parts its {rows} rows hold: one matrix unless split says", doubtful=True)


def _per_head(cut: Cut, rows: int, beside: _Beside) -> Cut:
    """A matrix for each head of the queries, keys and values in a cut by rows."""
    heads = {"q": beside.heads, "k": beside.kv_heads or beside.heads, "v": beside.kv_heads or beside.heads}
    counts = [heads.get(part) for part in cut.parts]
    split = cut.split
    sizes = [rows // split] * split if isinstance(split, int) else list(split)
    pairs = [(size, count) for size, count in zip(sizes, counts, strict=False) if count and size % count == 0]
    if not cut.parts or len(pairs) != len(sizes):
        return cut
    blocks = [size // count for size, count in pairs for _ in range(count)]
    labels = tuple(
        f"{part}{i}" for part, (_, count) in zip(cut.parts, pairs, strict=True) for i in range(count)
    )
    equal = len(set(blocks)) == 1
    reason = f"{', '.join(cut.parts)} head by head: {len(blocks)} matrices"
    return Cut(reason, labels, len(blocks) if equal else tuple(blocks))
