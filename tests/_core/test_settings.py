"""Settings as plain values: numbers of numpy and torch are those of Python, and nothing else passes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import numpy as np
import pytest
import torch

from isoplast._core.errors import IsoplastError
from isoplast._core.settings import check_fields, converted, plain
from isoplast._core.text import shown


@dataclasses.dataclass(frozen=True)
class Made:
    rate: float = 0.1
    count: int = 1
    on: bool = False
    word: str = "a"
    every: int | Literal["auto"] = "auto"
    choice: Literal[1, 2] = 1
    betas: tuple[float, float] = (0.9, 0.999)
    limit: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "thing")


NUMBERS = [
    np.float64(0.5),
    np.float32(0.5),
    np.float16(0.5),
    np.longdouble(0.5),
    np.array(0.5),
    np.logspace(-3, -1, 3)[1] * 0 + 0.5,
    torch.tensor(0.5),
    torch.tensor(0.5, dtype=torch.bfloat16),
    torch.tensor(0.5, requires_grad=True),
    torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64)),
    0.5,
]
WHOLE = [3, np.int64(3), np.uint8(3), np.arange(4)[3], np.array(3), torch.tensor(3), torch.tensor(3).int()]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_any_number_is_a_number_of_python(value: Any) -> None:
    made = Made(rate=value, limit=value)
    assert (type(made.rate), made.rate) == (float, 0.5)
    assert made == Made(rate=0.5, limit=0.5)
    assert hash(made) == hash(Made(rate=0.5, limit=0.5))


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_any_whole_number_is_one_of_python(value: Any) -> None:
    made = Made(count=value, rate=value, every=value)
    assert (type(made.count), made.count) == (int, 3)
    assert (type(made.rate), made.rate) == (float, 3.0)
    assert type(made.every) is int
    assert json.dumps(dataclasses.asdict(made))


def test_the_value_is_the_numbers_own_and_not_what_was_meant() -> None:
    assert Made(rate=np.float32(0.1)).rate == float(np.float32(0.1)) != 0.1


@pytest.mark.parametrize("value", [np.bool_(True), np.array(True), torch.tensor(True), True], ids=repr)
def test_a_truth_value_stays_one(value: Any) -> None:
    assert Made(on=value).on is True
    for field in ("rate", "count", "choice"):
        with pytest.raises(IsoplastError, match=f"{field} of thing is True: it must be"):
            Made(**{field: value})


def test_a_number_is_no_truth_value() -> None:
    for value in (1, np.int64(1), 1.0, torch.tensor(1)):
        with pytest.raises(IsoplastError, match="on of thing is 1"):
            Made(on=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "betas",
    [[0.5, 1], np.array([0.5, 1.0]), torch.tensor([0.5, 1.0]), (np.float32(0.5), torch.tensor(1))],
    ids=repr,
)
def test_vectors_are_lists(betas: Any) -> None:
    assert Made(betas=betas).betas == (0.5, 1.0)
    assert {type(item) for item in Made(betas=betas).betas} == {float}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate", np.nan),
        ("rate", np.array([0.5])),
        ("rate", np.array([[0.5]])),
        ("rate", torch.tensor(float("inf"))),
        ("rate", torch.empty((), device="meta")),
        ("rate", np.complex64(1)),
        ("rate", 10**400),
        ("rate", 10**5000),
        ("rate", "0.5"),
        ("count", np.float64(3.0)),
        ("count", torch.tensor(3.0)),
        ("choice", 1.0),
        ("choice", np.int64(3)),
        ("word", np.int64(3)),
        ("betas", np.arange(3.0)),
        ("betas", [[0.5] * 10**5, 0.5]),
        ("word", b"x" * 10**6),
        ("every", "au\x1b[2Jto"),
    ],
    ids=lambda value: shown(value)[:20],
)
def test_anything_else_is_refused_in_one_short_line(field: str, value: Any) -> None:
    with pytest.raises(IsoplastError, match=f"{field} of thing is .*: it must be") as error:
        Made(**{field: value})
    message = str(error.value)
    assert message.isprintable()
    assert len(message) <= 400


def test_a_word_of_numpy_is_a_word() -> None:
    assert type(Made(word=np.array(["ab"])[0]).word) is str


def test_settings_of_a_mapping_are_converted_and_named() -> None:
    assert converted(Made, "thing", {"count": np.int8(2)}) == {"count": 2}
    with pytest.raises(IsoplastError, match="unknown setting of thing 'cuont': did you mean 'count'"):
        converted(Made, "thing", {"cuont": 2})


def test_plain_leaves_other_things_alone() -> None:
    matrix = np.eye(2)
    assert plain(matrix) is matrix
    thing = object()
    assert plain(thing) is thing
