"""Reading YAML as people expect it: the words and numbers of YAML 1.2, and a key given twice is an error.

PyYAML follows YAML 1.1, where 010 is eight, 1:30 is ninety, 1e-3 is a word, `no` is false, a date is an
object, and the later one of two equal keys wins.

Reference: YAML 1.2.2, section 10.3 (core schema), https://yaml.org/spec/1.2.2/.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import yaml

from isoplast._core.errors import IsoplastError
from isoplast._core.text import shown

# A study is a page or two; these bound what a file may cost: PyYAML reads about 0.2 MB in a second, and
# calls itself for every level.
_CHARACTERS = 200_000
_DEPTH = 40
_VALUES = 50_000  # once every alias is written out
_LONGEST_NUMBER = 400  # characters; whole numbers of more than 4300 digits Python does not even write

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"  # 1_000 as Python writes it
_FLOAT = rf"[-+]?(?:(?:\.{_DIGITS}|{_DIGITS}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))"

# tag -> what is written so, the characters it begins with, its value
_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text in ("true", "True", "TRUE")),
    "int": (
        rf"[-+]?{_DIGITS}|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+",
        "-+0123456789",
        lambda text: int(text, 0) if text[:2] in ("0o", "0x", "0b") else int(text),
    ),
    "float": (
        rf"{_FLOAT}|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
    "merge": (r"<<", "<", lambda text: text),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012
    yaml_constructors: ClassVar[dict[str | None, Callable[..., Any]]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (f"{_TAG}seq", f"{_TAG}map")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.merged = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _DEPTH:
            raise IsoplastError(f"line {self.line + 1}: values stand more than {_DEPTH} deep in others")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As written: once merge keys (<<) are resolved, a key may rightly be there twice.
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise IsoplastError(f"{_line(key)}a key must be a word or a number")
            if key.tag == _MERGE:
                continue
            value = self.construct_object(key)
            if value in keys:
                raise IsoplastError(f"{_line(node)}{shown(value)} is given twice")
            keys.add(value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what its merge keys name into a mapping: its own keys win, then those named first.

        PyYAML's own keeps a key as often as it is named: thirty mappings that each merge one twice make 10^9.
        """
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        named = [value for key, value in node.value if key.tag == _MERGE]
        if not named:
            return
        node.value = own  # a mapping that merges itself ends here
        pairs: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for value in named:
            for mapping in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
                if not isinstance(mapping, yaml.MappingNode):
                    raise IsoplastError(f"{_line(mapping)}<< wants a mapping, or a list of them")
                self.flatten_mapping(mapping)
                self.merged += len(mapping.value)
                if self.merged > _VALUES:
                    raise IsoplastError(f"{_line(mapping)}<< makes more than {_VALUES:,} values")
                pairs |= {(key.tag, key.value): (key, value) for key, value in mapping.value}
        pairs |= {(key.tag, key.value): (key, value) for key, value in own}
        node.value = list(pairs.values())

    def construct_scalar_of(self, node: yaml.Node) -> Any:
        """A scalar whose tag, found by what is written or given, is one of `_SCALARS`."""
        name = node.tag.removeprefix(_TAG)
        text = self.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else ""
        pattern, _, convert = _SCALARS[name]
        if not isinstance(node, yaml.ScalarNode) or not re.fullmatch(pattern, text):
            raise IsoplastError(f"{_line(node)}{shown(node.value)} is no {name}")
        if len(text) > _LONGEST_NUMBER:
            raise IsoplastError(f"{_line(node)}a number of {len(text):,} characters")
        return convert(text)

    def construct_text(self, node: yaml.Node) -> str:
        """Text; control characters would reach terminals and names of files."""
        text = str(super().construct_scalar(node))  # type: ignore[arg-type]
        for char in text:
            if not char.isprintable() and unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t":
                raise IsoplastError(f"{_line(node)}{shown(text)} holds the control character {char!r}")
        return text

    def construct_unknown(self, node: yaml.Node) -> Any:
        raise IsoplastError(f"{_line(node)}the tag {shown(node.tag.replace(_TAG, '!!'))} is not known here")


for _name, (_pattern, _first, _) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first))
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct_scalar_of)
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"\Z"), [""])
_Loader.add_constructor(f"{_TAG}str", _Loader.construct_text)
_Loader.add_constructor(None, _Loader.construct_unknown)


class _Unusual(Exception):
    """Something that `_Loader` has to judge."""


class _Quick(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads what `_SIMPLE` documents say, by libyaml where it is there."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def construct_text(self, node: yaml.Node) -> str:
        text = str(self.construct_scalar(node))
        if not text.isprintable():
            raise _Unusual
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):  # a key is there twice
            raise _Unusual
        return found

    yaml_constructors: ClassVar[dict[str | None, Callable[..., Any]]] = {
        **_Loader.yaml_constructors,
        f"{_TAG}str": construct_text,
    }


# Specifications are such documents, and a study has thousands: no brackets, aliases, merge keys, tags, blocks
# of text or deep nesting.
_NOT_SIMPLE = re.compile(r"[\[\]{}&*!?<>|%@`\t\r]|^---|^\.\.\.|- +-|^ {20}", re.MULTILINE)
_SIMPLE_CHARACTERS = 20_000


class _Dumper(yaml.SafeDumper):
    """Puts between quotes what either version of YAML would take for something other than text."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar(f"{_TAG}str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
for _name, (_pattern, _first, _) in _SCALARS.items():
    _Dumper.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


@functools.lru_cache(maxsize=1024)  # a report reads each specification several times
def _quickly(text: str) -> Any:
    return _Quick(text).get_single_data()


def parse_yaml(text: str, source: str) -> Any:
    """The contents of a YAML document.

    Args:
        text: the document.
        source: where it comes from, for the error message.

    Returns:
        Mappings, lists, text, numbers, true, false and null, and nothing else.

    Raises:
        IsoplastError: for what is not YAML, for a key given twice, for what holds itself, and for more than
            a study can need: 200 000 characters, 40 levels, 50 000 values once its aliases are written out.

    Example:
        >>> parse_yaml("{seeds: [010, 1_000], lr: 1e-3, name: no, at: 1:30}", "study")
        {'seeds': [10, 1000], 'lr': 0.001, 'name': 'no', 'at': '1:30'}
    """
    if len(text) <= _SIMPLE_CHARACTERS and not _NOT_SIMPLE.search(text):
        with contextlib.suppress(yaml.YAMLError, UnicodeError, IsoplastError, _Unusual):
            return copy.deepcopy(_quickly(text))
    try:
        if len(text) > _CHARACTERS:
            raise IsoplastError(f"{len(text):,} characters are more than the {_CHARACTERS:,} read here")
        contents = _Loader(text).get_single_data()
        _count(contents, {}, set())
    except IsoplastError as error:
        separator = ", " if str(error).startswith("line ") else ": "
        raise IsoplastError(f"{source}{separator}{error}") from None
    except yaml.reader.ReaderError as error:
        character = error.character if isinstance(error.character, int) else ord(error.character)
        line = text[: error.position].count("\n") + 1
        raise IsoplastError(f"{source}, line {line}: {chr(character)!r} is no character of a text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise IsoplastError(
            f"{source}{where}: this is not YAML: {getattr(error, 'problem', error)}"
        ) from None
    return contents


def line_of(text: str, path: Sequence[Any]) -> int | None:
    """The line, counted from 1, in which a value is written.

    Args:
        text: a document that `parse_yaml` reads.
        path: keys of mappings and places in lists; where it leads further than the document, its end counts
            for nothing.

    Returns:
        The line of the last key, or of the entry of a list; None if the document has not even the first.

    Example:
        >>> line_of("net:\\n  name: mlp\\n  width: 0", ("net", "width"))
        3
    """
    loader = _Loader(text)
    node, found = loader.get_single_node(), None
    for step in path:
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            pairs = [(key, value) for key, value in node.value if loader.construct_object(key) == step]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            pairs = [(value, value) for value in node.value[step : step + 1]]
        else:
            break
        if not pairs:
            break
        found, node = pairs[0]
    return None if found is None else found.start_mark.line + 1


def _line(node: Any) -> str:
    return f"line {node.start_mark.line + 1}: "


def _count(value: Any, counts: dict[int, int], above: set[int]) -> int:
    """How many values a value is once its aliases are written out; refuses what holds itself."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) in above:
        raise IsoplastError("an alias (*) stands inside the value it names: write the value out")
    if id(value) not in counts:
        above.add(id(value))
        items = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count(item, counts, above) for item in items)
        above.remove(id(value))
    if counts[id(value)] > _VALUES:
        raise IsoplastError(f"more than {_VALUES:,} values, its aliases (*) written out")
    return counts[id(value)]


def dump_yaml(contents: Any) -> str:
    """A YAML document with the keys in the order given, one setting per line."""
    return yaml.dump(contents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
