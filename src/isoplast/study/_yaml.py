"""Reading YAML as people expect it: 1e-3 is a number, and a key given twice is an error."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from isoplast._errors import IsoplastError


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where 1e-3 is a word and the later one of two equal keys wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise IsoplastError(f"line {node.start_mark.line + 1}: {key!r} is given twice")
        return super().construct_mapping(node, deep=deep)


_FLOAT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(text: str, source: str) -> Any:
    """The contents of a YAML document.

    Args:
        text: the document.
        source: where it comes from, for the error message.

    Raises:
        IsoplastError: for what is not YAML, and for a key given twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except IsoplastError as error:
        raise IsoplastError(f"{source}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark is not None else ""
        raise IsoplastError(f"{source}:{where} is not YAML: {getattr(error, 'problem', error)}") from None


def dump(contents: Any) -> str:
    """A YAML document with the keys in the order given, one setting per line."""
    return yaml.safe_dump(contents, sort_keys=False, allow_unicode=True, width=100)
