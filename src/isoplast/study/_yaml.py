"""Reading YAML as people expect it: 1e-3 is a number, and a key given twice is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

from isoplast._core.errors import IsoplastError

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where 1e-3 is a word and the later one of two equal keys wins."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As written: once merge keys (<<) are resolved, a key may rightly be there twice.
        node = super().compose_mapping_node(anchor)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        for key in keys:
            if keys.count(key) > 1:
                raise IsoplastError(f"line {node.start_mark.line + 1}: {key!r} is given twice")
        return node


def _check_ends(value: Any, above: tuple[int, ...] = ()) -> None:
    """Refuse what holds itself, by an alias to a value around it."""
    if id(value) in above:
        raise IsoplastError("an alias (*) stands inside the value it names: write the value out")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_ends(item, (*above, id(value)))


_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, source: str) -> Any:
    """The contents of a YAML document.

    Args:
        text: the document.
        source: where it comes from, for the error message.

    Raises:
        IsoplastError: for what is not YAML, for a key given twice, and for what holds itself.
    """
    try:
        contents = yaml.load(text, Loader=_Loader)
        _check_ends(contents)
    except IsoplastError as error:
        raise IsoplastError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise IsoplastError(f"{source}:{where} is not YAML: {getattr(error, 'problem', error)}") from None
    return contents


def dump_yaml(contents: Any) -> str:
    """A YAML document with the keys in the order given, one setting per line."""
    return yaml.safe_dump(contents, sort_keys=False, allow_unicode=True, width=100)
