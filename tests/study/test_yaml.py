"""YAML as people expect it, and files that are none: damaged, hostile, or far too large for a study."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from isoplast._core.errors import IsoplastError
from isoplast.study import Run, Study, _yaml, builtin_studies
from isoplast.study._yaml import dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-010", -10),
        ("08", 8),
        ("0", 0),
        ("+5", 5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("0b11", 3),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5e+3", -1500.0),
        ("010.5", 10.5),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("1e400", math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # Words, all of them something else in YAML 1.1.
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("2026-02-31", "2026-02-31"),
        ("2026-11-26 20:30:00", "2026-11-26 20:30:00"),
        ("=", "="),
        ("1__0", "1__0"),
        ("_1", "_1"),
        ("1e", "1e"),
        ("0o8", "0o8"),
        ("'010'", "010"),
        ("!!str 010", "010"),
        ("!!float 1", 1.0),
    ],
)
def test_words_and_numbers_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = parse_yaml(f"[{text}, x]" if text else "a:", "study")
    found = found[0] if text else found["a"]
    assert (type(found), found) == (type(value), value)


def test_a_study_runs_the_seeds_that_are_written() -> None:
    study = Study.parse("name: a\nmethods: [adam]\nseeds: [010, 011, 0_8]")
    assert [run.seed for run in study.runs] == [10, 11, 8]
    with pytest.raises(IsoplastError, match="1:30"):
        Study.parse("name: a\nmethods: [adam]\nseeds: [1:30]")


@pytest.mark.parametrize(
    "text",
    ["{a: 1, a: 2}", "{a: 1, 'a': 2}", "{1: a, 0x1: b}", "{1: a, 1.0: b}", "{~: 1, null: 2}", "a: 1\na: 1"],
)
def test_a_key_given_twice_is_refused(text: str) -> None:
    with pytest.raises(IsoplastError, match=r"^study, line 1: .* is given twice"):
        parse_yaml(text, "study")


def test_merge_keys() -> None:
    assert parse_yaml("{a: 1, <<: {b: 2, a: 3}}", "s") == {"a": 1, "b": 2}
    assert parse_yaml("{<<: [{a: 1}, {a: 2, b: 3}], c: 4}", "s") == {"a": 1, "b": 3, "c": 4}
    assert parse_yaml("{x: &x {a: 1, <<: {b: 2}}, y: {<<: *x, a: 5}}", "s")["y"] == {"a": 5, "b": 2}
    assert parse_yaml("&a {<<: *a, b: 1}", "s") == {"b": 1}


WORDS = st.text() | st.sampled_from(
    ["010", "1e-3", "no", "Yes", "1:30", "08", "2026-01-01", "0o17", "1_000", ".inf", "~", "", "<<", "=", "y"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS
VALUES = st.recursive(SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(WORDS, of, max_size=3))


@settings(deadline=None)  # times say nothing on a busy machine
@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = dump_yaml({"a": value})
    try:
        found = parse_yaml(text, "s")
    except IsoplastError as error:
        assert "control character" in str(error) or "no character" in str(error)  # noqa: PT017
    else:
        assert found == {"a": value}


@settings(deadline=None)  # times say nothing on a busy machine
@given(st.lists(WORDS, max_size=5).filter(lambda words: all(word.isprintable() for word in words)))
def test_written_text_is_text_for_readers_of_yaml_1_1_as_well(words: list[str]) -> None:
    assert yaml.safe_load(dump_yaml(words)) == words


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], k{i}: 1}}\n" for i in range(1, 30)
)
WIDE_MERGE = f"a: &a {{{', '.join(f'k{i}: {i}' for i in range(5000))}}}\nb: {{<<: [{'*a,' * 20000}]}}"

HOSTILE = {
    "NUL": "a: \0",
    "escaped NUL": 'a: "\\0"',
    "escape": 'a: "\\e[2J"',
    "key with an escape": '"\\e]0;owned\\a": 1',
    "raw escape": "a: \x1b[2J",
    "surrogate": "a: \ud800",
    "deep lists": "[" * 100_000,
    "deep mappings": "{a: " * 50_000,
    "deep blocks": "- " * 90_000,
    "deep keys": "? " * 90_000,
    "closed deep lists": "[" * 300 + "]" * 300,
    "python object": "a: !!python/object/apply:os.system ['touch owned']",
    "python name": "a: !!python/name:os.system",
    "own tag": "a: !" + "x" * 10_000 + " 1",
    "binary": "a: !!binary AAAA",
    "impossible date": "a: !!timestamp 2026-02-31",
    "set": "!!set {a}",
    "no int": "!!int abc",
    "no bool": "!!bool abc",
    "int of a list": "!!int [1]",
    "text of a list": "!!str [1]",
    "list of text": "!!seq x",
    "5000 digits": "a: " + "9" * 5000,
    "5000 hex digits": "a: 0x" + "f" * 5000,
    "list as key": "? [a]\n: 1",
    "itself": "&a [*a]",
    "itself as key": "&a {? *a : 1}",
    "itself in a mapping": "&a {b: {c: *a}}",
    "laughs": LAUGHS,
    "wide merge": WIDE_MERGE,
    "merge of a word": "<<: x",
    "merge of words": "<<: [x, y]",
    "unknown alias": "a: *" + "b" * 10_000,
    "two documents": "a: 1\n---\nb: 1",
    "open list": "a: [1,\n\nb:",
    "tab": "\ta: b",
    "200 kB of keys": "? a\n" * 50_000,
    "two megabytes": "x" * 2_000_000,
    "many values": "[" + "1," * 60_000 + "]",
}


@pytest.mark.timeout(100)  # the longest takes 1 s, 6 s with its memory traced; one that doubles never ends
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_study_is_refused_in_one_short_line(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(IsoplastError, match=r"^study[:,]") as error:
        parse_yaml(HOSTILE[name], "study")
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 400


def test_merges_of_merges_end() -> None:
    found = parse_yaml(MERGES, "study")
    assert len(found["a29"]) == 30


def test_the_line_is_named() -> None:
    with pytest.raises(IsoplastError, match=r"^study, line 3: 'c' is given twice"):
        parse_yaml("a: 1\nb:\n  c: 1\n  c: 2", "study")
    with pytest.raises(IsoplastError, match=r"^study, line 2: '\\x07' is no character"):
        parse_yaml("a: 1\nb: \x07", "study")
    with pytest.raises(IsoplastError, match=r"^study, line 3: this is not YAML: expected"):
        parse_yaml("a: [1\n\nb: 1", "study")


def test_text_of_several_lines_is_no_control_character() -> None:
    assert parse_yaml("about: |\n  one\n  two\ttabs\n", "s") == {"about": "one\ntwo\ttabs\n"}


LINE = st.tuples(
    st.integers(0, 4),
    st.sampled_from(["", "- "]),
    st.sampled_from(["a", "b", "010", "1", "1.0", "true", "no", "'a'", '"\\u0041"', "#", "\u03bb"]),
    st.sampled_from(
        [":", ": 1e-3", ": 010", ": x y", ": no", ": '010'", ': "\\e"', ":x", ": - 1", ": ~ # c", ""]
    ),
)


@settings(max_examples=500)
@given(lines=st.lists(LINE, max_size=8))
def test_simple_documents_are_read_quickly_and_alike(lines: list[tuple[int, str, str, str]]) -> None:
    text = "\n".join(f"{' ' * (2 * depth)}{dash}{key}{value}" for depth, dash, key, value in lines)

    def read() -> Any:
        try:
            return repr(parse_yaml(text, "study"))
        except IsoplastError as error:
            return str(error)

    quick = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_yaml, "_SIMPLE_CHARACTERS", -1)
        assert read() == quick


@pytest.mark.parametrize("study", builtin_studies().values(), ids=lambda path: path.stem)
def test_the_specifications_of_runs_are_simple_documents(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in Study.load(study).runs[:40]:
        text = run.to_yaml()
        monkeypatch.setattr(_yaml, "_Loader", None)
        mapping = parse_yaml(text, "spec")
        monkeypatch.undo()
        assert Run.from_mapping(mapping) == run


def test_what_was_read_may_be_changed() -> None:
    parse_yaml("net:\n  width: 3\n", "spec")["net"]["width"] = 4
    assert parse_yaml("net:\n  width: 3\n", "spec") == {"net": {"width": 3}}
