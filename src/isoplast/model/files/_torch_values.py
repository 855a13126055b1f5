"""What the pickles of torch.save are made of: tensors, storages, plain values, each checked as it is made."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.storage import TypedStorage

from isoplast._core.errors import IsoplastError
from isoplast.model.files._stand_in import Name, StandIn

# A tensor may be larger than its storage where it repeats one row (expand): such ones are buffers, and small.
_REPEATED = 64 << 20  # bytes

_DIMENSIONS = 32
_LARGEST = 1 << 48  # numbers, those of an empty tensor (0, n) too: beyond, sizes overflow when it is used


class Foreign(Exception):
    """A Python object that cannot even be stood in for, by its name."""


@dataclass(frozen=True)
class StorageType:
    """A class of storages, as the pickle names it."""

    dtype: torch.dtype


def typed(data: torch.UntypedStorage, dtype: torch.dtype) -> TypedStorage:
    """A storage as numbers of a type."""
    return TypedStorage(wrap_storage=data, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def storage_of_bytes(data: bytes) -> torch.UntypedStorage:
    """A storage that holds a copy of these bytes."""
    if not data:
        return torch.empty(0, dtype=torch.uint8).untyped_storage()
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()


def plain_key(key: Any) -> Any:
    """A key of a dictionary, if its hash takes no time: a tuple of tuples of tuples takes for ever.

    Raises:
        IsoplastError: it is another object.
    """
    parts = key if type(key) is tuple else (key,)
    for part in parts:
        if not (part is None or type(part) in (str, bytes, int, float, bool, complex, torch.dtype)):
            raise IsoplastError(f"is damaged: a key of a dictionary is {type(part).__name__}")
    return key


def _whole(numbers: Sequence[int]) -> tuple[int, ...]:
    """Whole numbers >= 0, as a size or a stride has them; what is not is never handed on, nor shown."""
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise IsoplastError("is damaged: the size, stride or offset of a tensor is wrong")
    return tuple(numbers)


def value_by_name(name: str) -> Any:
    """The function or value that a pickle means by this name; a `Name` where it is not known here."""
    if name in _KNOWN:
        return _KNOWN[name]
    module, _, last = name.rpartition(".")
    if module in ("torch", "torch.storage") and last.endswith("Storage"):
        if last in ("UntypedStorage", "TypedStorage"):
            return StorageType(torch.uint8)
        if last in _STORAGES:
            return StorageType(_STORAGES[last])
    if module == "torch":
        value = vars(torch).get(last)
        if isinstance(value, torch.dtype | torch.qscheme):
            return value
    return Name(name)


_STORAGES = {
    f"{kind}Storage": dtype
    for kind, dtype in {
        **{"Double": torch.float64, "Float": torch.float32, "Half": torch.float16},
        **{"BFloat16": torch.bfloat16, "ComplexDouble": torch.complex128, "ComplexFloat": torch.complex64},
        **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8},
        **{"Byte": torch.uint8, "Bool": torch.bool},
        **{"QInt8": torch.qint8, "QUInt8": torch.quint8, "QInt32": torch.qint32},
    }.items()
}


def _view(
    storage: TypedStorage, offset: int, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """The tensor that these numbers describe, if it lies in its storage."""
    size, stride = _whole(size), _whole(stride)
    (offset,) = _whole([offset])
    if len(size) != len(stride) or len(size) > _DIMENSIONS or math.prod(filter(None, size)) > _LARGEST:
        raise IsoplastError("is damaged: the size, stride or offset of a tensor is wrong")
    data = storage._untyped_storage
    room = data.nbytes() // dtype.itemsize
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count and last >= room:
        raise IsoplastError(f"is damaged: a tensor of {_shape(size)} reaches beyond its {room:,} numbers")
    if count > room and count * dtype.itemsize > _REPEATED:
        raise IsoplastError(f"repeats {room:,} numbers in a tensor of {_shape(size)}: save it contiguous")
    tensor = torch.empty(0, dtype=dtype)
    with torch.no_grad():
        tensor.set_(data, offset, size, stride)
    # Numbers that stand in several places cannot be edited in place, as repair does.
    repeats = any(length > 1 and not step for length, step in zip(size, stride, strict=True))
    return tensor.contiguous() if repeats or count > room else tensor


def _shape(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _tensor(
    storage: TypedStorage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Mapping[str, bool] | None = None,
) -> Tensor:
    return _typed_tensor(storage, offset, size, stride, requires_grad, hooks, storage.dtype, metadata)


def _typed_tensor(
    storage: TypedStorage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype,
    metadata: Mapping[str, bool] | None = None,
) -> Tensor:
    tensor = _view(storage, offset, size, stride, dtype)
    if metadata and metadata.get("conj"):
        tensor = tensor.conj()
    if metadata and metadata.get("neg"):
        tensor = torch._neg_view(tensor)
    return tensor.requires_grad_(bool(requires_grad))


def _quantized_tensor(
    storage: TypedStorage,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    quantizer: tuple[Any, ...],
    requires_grad: bool = False,
    hooks: Any = None,
) -> Tensor:
    plain = all(type(part) in (int, float) or isinstance(part, Tensor) for part in quantizer[1:])
    if not plain or not isinstance(quantizer[0], torch.qscheme):
        raise Foreign("torch._utils._rebuild_qtensor")
    whole = _view(storage, offset, size, stride, {torch.qint32: torch.int32}.get(storage.dtype, torch.uint8))
    if whole.shape != torch.Size(size) or not whole.is_contiguous():
        raise Foreign("torch._utils._rebuild_qtensor")
    return torch._utils._rebuild_qtensor(  # type: ignore[no-any-return,no-untyped-call]
        storage, offset, tuple(size), tuple(stride), quantizer, False, OrderedDict()
    )


def _sparse_tensor(layout: torch.layout, data: tuple[Any, ...]) -> Tensor:
    count = 2 if layout is torch.sparse_coo else 3  # indices and values; torch takes nested lists as well
    parts, size = data[:count], _whole(data[count])
    if not all(isinstance(one, Tensor) and one.layout == torch.strided and not one.is_meta for one in parts):
        raise IsoplastError("is damaged: the parts of a sparse tensor are no numbers")
    if layout is torch.sparse_coo:
        indices, values = parts
        return torch.sparse_coo_tensor(indices, values, size, check_invariants=True)
    outer, inner, values = parts
    return torch.sparse_compressed_tensor(outer, inner, values, size, layout=layout, check_invariants=True)


def _meta_tensor(
    dtype: torch.dtype, size: Sequence[int], stride: Sequence[int], requires_grad: bool
) -> Tensor:
    return torch.empty_strided(_whole(size), _whole(stride), dtype=dtype, device="meta")


def _parameter(data: Tensor, requires_grad: bool, hooks: Any = None) -> nn.Parameter:
    return nn.Parameter(data.detach(), requires_grad=bool(requires_grad))


def _parameter_with_state(data: Tensor, requires_grad: bool, hooks: Any, state: Any) -> nn.Parameter:
    parameter = _parameter(data, requires_grad)
    _set_attributes(parameter, state)
    return parameter


def _typed(make: Any, kind: Any, args: Sequence[Any], state: Any) -> Any:
    """A tensor with attributes, or of a subclass: of a sharded one that is whole here, its only shard."""
    if kind is not _TENSOR:
        name = kind.name if isinstance(kind, Name) else type(kind).__name__
        parts = state if isinstance(state, tuple) else (state,)  # attributes, and those in slots
        shard = next((part["_local_tensor"] for part in parts if part and "_local_tensor" in part), None)
        whole = isinstance(shard, Tensor) and len(args) > 2 and shard.shape == args[2]
        return shard if whole else StandIn(name, tuple(args))
    if make not in _MAKERS:
        raise Foreign("torch._tensor._rebuild_from_type_v2")
    tensor = make(*args)
    _set_attributes(tensor, state)
    return tensor


def _set_attributes(tensor: Tensor, state: Any) -> None:
    """Those that somebody gave a tensor; none of those that every tensor has."""
    if isinstance(state, dict):
        own = {
            key: value for key, value in state.items() if isinstance(key, str) and not hasattr(Tensor, key)
        }
        tensor.__dict__.update(own)


def _ordered(pairs: Sequence[Sequence[Any]] = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((plain_key(key), value) for key, value in pairs)


def _counter(counts: Mapping[Any, Any] | None = None) -> Counter[Any]:
    return Counter({plain_key(key): count for key, count in (counts or {}).items()})


def _default(make: Any = None, entries: Any = ()) -> dict[Any, Any]:
    """A defaultdict without its default, whose making would be a call."""
    return {plain_key(key): value for key, value in dict(entries).items()}


def _set(items: Sequence[Any] = ()) -> set[Any]:
    return {plain_key(item) for item in items}


def _bytes(text: str, encoding: str) -> bytes:
    """How a pickle of protocol 2 writes bytes."""
    if type(text) is not str or type(encoding) is not str:
        raise IsoplastError("is damaged: bytes are made of something other than text")
    return text.encode("latin-1" if encoding == "latin1" else "ascii")


def _bytearray(content: bytes = b"") -> bytearray:
    if not isinstance(content, bytes):  # a number would be a length, of any size
        raise IsoplastError("is damaged: a bytearray is made of something other than bytes")
    return bytearray(content)


def _size(sizes: Sequence[int] = ()) -> torch.Size:
    return torch.Size(_whole(sizes))


def _complex(real: float = 0.0, imaginary: float = 0.0) -> complex:
    if not {type(real), type(imaginary)} <= {int, float}:
        raise IsoplastError("is damaged: a complex number is made of something else")
    return complex(real, imaginary)


def _layout(name: str) -> torch.layout:
    if type(name) is not str or name not in _LAYOUTS:
        raise IsoplastError("is damaged: it names no layout of tensors")
    return _LAYOUTS[name]


def _device(name: str, index: int | None = None) -> torch.device:
    if type(name) is not str or type(index) not in (int, type(None)):
        raise IsoplastError("is damaged: it names no device")
    return torch.device(name) if index is None else torch.device(name, index)


_TENSOR = "the class of tensors"  # named, never called: it would make one of any size
_LAYOUTS = {
    str(layout): layout
    for layout in (
        *(torch.strided, torch.sparse_coo, torch.sparse_csr),
        *(torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc),
    )
}
_MAKERS: tuple[Callable[..., Tensor], ...] = (
    *(_tensor, _typed_tensor, _quantized_tensor),
    *(_sparse_tensor, _meta_tensor, _parameter, _parameter_with_state),
)
_KNOWN: dict[str, Any] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "collections.defaultdict": _default,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "builtins.bytearray": _bytearray,
    "_codecs.encode": _bytes,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.Tensor": _TENSOR,
    "torch.serialization._get_layout": _layout,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_qtensor": _quantized_tensor,
    "torch._utils._rebuild_sparse_tensor": _sparse_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
    "torch._tensor._rebuild_from_type_v2": _typed,
}
