"""Messages and tables: one line each, whatever is quoted in them."""

from __future__ import annotations

import pickle
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplast._core.errors import IsoplastError, unknown
from isoplast._core.text import LONGEST, escaped, one_line, shown, text_table

HOSTILE = "\x1b]0;owned\x07\x1b[2J\n\r\u202e\u2028\x9b\ud800\x00"


@settings(deadline=None)  # times say nothing on a busy machine
@given(st.text())
def test_escaped_text_is_printable_and_stays_as_it_is(text: str) -> None:
    found = escaped(text)
    assert found.isprintable()
    assert escaped(found) == found
    if text.isprintable():
        assert found == text


def test_escapes_are_those_of_python() -> None:
    assert escaped(HOSTILE) == r"\x1b]0;owned\x07\x1b[2J\n\r\u202e\u2028\x9b\ud800\x00"
    assert escaped("größer 数 é") == "größer 数 é"


@settings(deadline=None)  # times say nothing on a busy machine
@given(st.text(max_size=2000), st.integers(60, 500))
def test_one_line_is_short_and_keeps_both_ends(text: str, longest: int) -> None:
    found = one_line(text, longest)
    assert found.isprintable()
    assert len(found) <= longest
    if len(escaped(text)) <= longest:
        assert found == escaped(text)
    else:
        assert " ... " in found
        assert escaped(text).startswith(found[:20])
        assert escaped(text).endswith(found[-20:])


@pytest.mark.parametrize("size", [10**3, 10**7])
def test_every_error_is_one_short_line_that_ends_with_the_way_out(size: int) -> None:
    error = IsoplastError(f"layer {HOSTILE * (size // len(HOSTILE))}: delete it")
    assert len(str(error)) == LONGEST == 400
    assert str(error).isprintable()
    assert str(error).startswith(r"layer \x1b]0;owned")
    assert str(error).endswith(": delete it")


def test_a_kind_of_error_obeys_and_an_error_survives_a_process() -> None:
    class Kind(IsoplastError):
        pass

    assert str(Kind("a\nb")) == r"a\nb"
    error = pickle.loads(pickle.dumps(IsoplastError("a\nb")))
    assert (type(error), str(error)) == (IsoplastError, r"a\nb")


def test_unknown_names_are_listed_as_far_as_they_fit() -> None:
    assert str(unknown("thing", "abd", ["b", "abc"])) == (
        "unknown thing 'abd': did you mean 'abc'? Known: abc, b"
    )
    many = str(unknown("thing", "name7", [f"name{i}" for i in range(1000)]))
    assert len(many) <= 400
    assert many.startswith("unknown thing 'name7': did you mean 'name7'? Known: name0, name1, name10,")
    listed = many.split("Known: ")[1].split(" and ")[0].count(",") + 1
    assert many.endswith(f" and {1000 - listed} more")


@pytest.mark.parametrize("name", [HOSTILE, "x" * 10**6, 5, None, ("a",)])
def test_an_unknown_name_may_be_anything(name: object) -> None:
    message = str(unknown("thing", name, ["y" * 1000, HOSTILE]))  # type: ignore[arg-type]
    assert len(message) <= 400
    assert message.isprintable()


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        HOSTILE,
        list(range(10**6)),
        {str(i): i for i in range(1000)},
        10**5000,
        -(10**5000),
        {1, 2},
        b"\x1b" * 10**5,
        1e400,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_shortly(value: object) -> None:
    assert len(shown(value)) <= 400
    assert shown(value).isprintable()


def test_a_value_of_any_depth_is_shown() -> None:
    deep: list[object] = []
    for _ in range(sys.getrecursionlimit() * 3):
        deep = [deep]
    assert shown(deep) == "[[[[[...]]]]]"


def test_a_value_that_cannot_be_shown_is_named() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown(Broken()).startswith("<Broken instance at")


def test_short_values_are_shown_as_python_writes_them() -> None:
    for value in (0.1, "a'b", None, [1, 2], {"a": 1}, (1,), True, 10**20):
        assert shown(value) == repr(value)


def test_a_table_is_aligned() -> None:
    rows = [("head", "1.2", "a"), ("0", "10.25", "long")]
    assert text_table(("layer", "max", ""), rows) == ("layer    max\nhead     1.2     a\n0      10.25  long")
    assert text_table(("layer", "max", ""), rows, right=False) == (
        "layer  max\nhead   1.2    a\n0      10.25  long"
    )
    assert text_table(("a", "b"), []) == "a  b"


def test_a_table_has_a_line_for_each_row_whatever_the_cells_hold() -> None:
    table = text_table(("layer", "max"), [(HOSTILE, HOSTILE), ("b", "1")])
    assert len(table.split("\n")) == 3
    assert table.replace("\n", "").isprintable()


@settings(deadline=None)  # times say nothing on a busy machine
@given(st.lists(st.text(max_size=60), min_size=1, max_size=5), st.integers(20, 80))
def test_names_lose_their_beginning_where_the_line_would_be_too_long(names: list[str], width: int) -> None:
    table = text_table(("layer", "max"), [(name, "12.5") for name in names], width=width)
    lines = table.split("\n")
    assert len(lines) == len(names) + 1
    assert max(map(len, lines)) <= max(width, 8 + 2 + 4)
    for name, line in zip(names, lines[1:], strict=True):
        shown_name = line.removesuffix("12.5").rstrip().removeprefix("...")
        assert escaped(name).rstrip().endswith(shown_name)
