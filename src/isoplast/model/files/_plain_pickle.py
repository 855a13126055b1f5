"""A pickle, read step by step: no class in it is ever imported, stand-ins take the place of its objects."""

from __future__ import annotations

import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import IO, Any, TypeAlias

from isoplast._core.errors import IsoplastError
from isoplast.model.files._stand_in import StandIn
from isoplast.model.files._torch_values import Foreign, plain_key, value_by_name

# A pickle of weights takes about 20 steps a tensor. A step makes an empty dictionary of 64 bytes at most and
# takes 1.5 microseconds: 3 s and 128 MB.
_STEPS = 2_000_000

_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)


def read_pickle(
    file: IO[bytes], storage: Callable[..., Any], find: Callable[[str], Any] = value_by_name
) -> Any:
    """The next pickle in a file.

    Args:
        file: read up to the end of the pickle.
        storage: makes a storage of tensors from the parts of its identifier.
        find: the function or value that a name stands for.

    Raises:
        Foreign: it makes an object in a way that is not known here.
        IsoplastError, ValueError and others: it is damaged.
    """
    machine = _Machine(storage, find)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step > _STEPS:
            raise IsoplastError(f"holds more than {_STEPS:,} values: save the weights alone")
        if opcode.name == "STOP":
            return machine.stack.pop()
        action = _ACTIONS.get(opcode.name)
        if action is None:
            raise Foreign(f"that the pickle makes by {opcode.name}")
        action(machine, argument)
    raise EOFError


class _Machine:
    """The stack on which a pickle builds its value."""

    def __init__(self, storage: Callable[..., Any], find: Callable[[str], Any]) -> None:
        self.storage = storage
        self.value_by_name = find
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def marked(self) -> list[Any]:
        """What stands above the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.drop()

    def drop(self) -> None:
        self.stack = self.below.pop()

    def put(self, place: int | None = None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def find(self, name: str) -> None:
        self.stack.append(self.value_by_name(name.replace(" ", ".").replace("__builtin__.", "builtins.")))

    def find_on_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise IsoplastError("is damaged: the name of an object is no text")
        self.find(f"{module} {name}")

    def call(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*arguments)

    def make(self) -> None:
        """An object without its initialisation, from its class, arguments and perhaps named ones."""
        arguments = self.stack.pop()
        self.stack[-1] = self.class_named(self.stack[-1])(*arguments)

    def make_with_names(self) -> None:
        self.stack.pop()
        self.make()

    def make_from_mark(self) -> None:
        kind, *arguments = self.marked()
        self.push(self.class_named(kind)(*arguments))

    def make_by_name(self, name: str) -> None:
        arguments = self.marked()
        self.find(name)
        self.stack[-1] = self.class_named(self.stack[-1])(*arguments)

    @staticmethod
    def class_named(kind: Any) -> Callable[..., Any]:
        """What makes an instance of a class: a name, or one of the few that are known."""
        if not callable(kind):
            raise IsoplastError(f"is damaged: {type(kind).__name__} is used as a class")
        return kind  # type: ignore[no-any-return]

    def refer(self) -> None:
        self.stack.append(self.storage(*self.stack.pop()))

    def build(self) -> None:
        """The state of a stand-in, or the versions of the modules, which a state dict carries along."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, StandIn):
            made.state = state
            return
        if type(made) is not OrderedDict or not isinstance(state, dict):
            raise Foreign(type(made).__name__)
        if "_metadata" in state:
            made._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def extend(self, items: list[Any]) -> None:
        made = self.stack[-1]
        if isinstance(made, StandIn):
            made.entries.update(enumerate(items, len(made.entries)))
            return
        if type(self.stack[-1]) is not list:
            raise IsoplastError(f"is damaged: {type(self.stack[-1]).__name__} is extended")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        made = self.stack[-1]
        if type(made) not in (dict, OrderedDict, Counter, StandIn):
            raise IsoplastError(f"is damaged: {type(made).__name__} gets entries")
        entries = made.entries if isinstance(made, StandIn) else made
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[key if isinstance(key, StandIn) else plain_key(key)] = value

    def add_items(self) -> None:
        items = self.marked()
        if isinstance(self.stack[-1], StandIn):
            return
        if type(self.stack[-1]) is not set:
            raise IsoplastError(f"is damaged: {type(self.stack[-1]).__name__} gets elements")
        self.stack[-1].update(map(plain_key, items))

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def make_tuple(self, size: int) -> None:
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def make_dict(self) -> None:
        items = self.marked()
        self.stack.append({})
        self.set_items(items)


_Action: TypeAlias = Callable[[_Machine, Any], None]
_ACTIONS: dict[str, _Action] = {
    **dict.fromkeys(_VALUES, _Machine.push),
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.drop(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "LIST": lambda machine, _: machine.push(machine.marked()),
    "DICT": lambda machine, _: machine.make_dict(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.marked()),
    "FROZENSET": lambda machine, _: machine.push(frozenset(map(plain_key, machine.marked()))),
    "ADDITEMS": lambda machine, _: machine.add_items(),
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": lambda machine, _: machine.find_on_stack(),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.make(),
    "NEWOBJ_EX": lambda machine, _: machine.make_with_names(),
    "OBJ": lambda machine, _: machine.make_from_mark(),
    "INST": lambda machine, name: machine.make_by_name(name),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.refer(),
    "MEMOIZE": _Machine.put,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
}
