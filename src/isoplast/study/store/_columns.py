"""The rows of many runs as columns: parsed at once where they are as every run of ours writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from isoplast._core.errors import IsoplastError
from isoplast.study._metrics import METRICS, Metric, metric
from isoplast.study.store._directory import RunDirectory
from isoplast.study.store._files import checked_lines, parsed_rows

if TYPE_CHECKING:
    import polars as pl

# JSON has no infinity: rows hold these words. polars reads no number for them, so that these stand for them
# while it reads; where one of these is there already all is read row by row.
_WORDS = {
    b'"inf"': (b"1.7976931348623157e+308", math.inf),
    b'"-inf"': (b"-1.7976931348623157e+308", -math.inf),
    b'"nan"': (b"1.7976931348623155e+308", math.nan),
}


def metric_columns(directories: Sequence[RunDirectory]) -> tuple[pl.DataFrame, list[int]]:
    """The metrics of all rows of these runs, and how many rows each run has.

    Returns:
        A column for each metric that some row has, and for those of source "run", in the order of `METRICS`,
        then those of other people's learners as they come. One that is null in every row may be left out.

    Raises:
        IsoplastError: a file is damaged, or a value is of another kind than its metric.
    """
    lines = [checked_lines(directory.metrics) for directory in directories]
    found = _at_once(lines)
    counts = [len(one) for one in lines]
    return (_row_by_row(directories, lines) if found is None else found), counts


def _at_once(lines: Sequence[Sequence[bytes]]) -> pl.DataFrame | None:
    """All rows by polars, many times as fast as one by one; None if anything in them is unusual.

    Texts are taken as they stand: a number in the place of one is no error here.
    """
    import polars as pl

    some = [row for one in lines for row in parsed_rows([*one[:2], *one[-1:]])]
    schema = _schema([name for row in some for name in row])
    if not some:
        return None
    whole = b"\n".join(line for one in lines for line in one)
    words: dict[bytes, int] = {}
    if b'inf"' in whole or b'nan"' in whole:
        if any(sign in whole for sign, _ in _WORDS.values()):
            return None
        words = {word: count for word in _WORDS if (count := whole.count(word))}
    for word in words:
        whole = whole.replace(word, _WORDS[word][0])
    # Of each row one more, the checksum.
    values = whole.count(b'": ') - whole.count(b'": null') - sum(map(len, lines))
    try:
        frame = pl.read_ndjson(whole, schema={name: _dtype(one) for name, one in schema.items()})
    except pl.exceptions.PolarsError:
        return None
    if frame.height * frame.width - sum(frame.null_count().row(0)) != values:  # some rows have other metrics
        return None
    depths = {name: _depth(one) for name, one in schema.items() if one.kind == "number"}
    for word, count in words.items():
        sign, value = float(_WORDS[word][0]), _WORDS[word][1]
        held = {name: _held(frame[name], depth, sign) for name, depth in depths.items()}
        if sum(held.values()) != count:  # the others are texts
            return None
        frame = frame.with_columns(_replaced(name, depths[name], sign, value) for name in held if held[name])
    return frame


def _schema(names: Sequence[str]) -> dict[str, Metric]:
    present = {*names}
    known = {one.name: one for one in METRICS if one.name in present or one.source == "run"}
    return known | {name: metric(name) for name in names if name not in known}


def _held(column: pl.Series, depth: int, sign: float) -> int:
    """How often a number stands in a column."""
    for _ in range(depth):
        column = column.explode()
    return int((column == sign).sum())


def _replaced(name: str, depth: int, sign: float, value: float) -> Any:
    import polars as pl

    def replaced(column: pl.Expr) -> pl.Expr:
        return pl.when(column == sign).then(pl.lit(value)).otherwise(column)

    column, inner = pl.col(name), replaced(pl.element())
    if depth == 0:
        return replaced(column).alias(name)
    return column.list.eval(inner if depth == 1 else pl.element().list.eval(inner))


def _row_by_row(directories: Sequence[RunDirectory], lines: Sequence[Sequence[bytes]]) -> pl.DataFrame:
    """The same, one row after the other: says which value of which file is wrong."""
    import polars as pl

    rows = [
        (directory, row)
        for directory, one in zip(directories, lines, strict=True)
        for row in parsed_rows(one)
    ]
    names = dict.fromkeys(name for _, row in rows for name in row)
    schema = _schema(list(names))
    values = {
        name: [_value(one, row.get(name), where) for where, row in rows] for name, one in schema.items()
    }
    return pl.DataFrame(values, schema={name: _dtype(one) for name, one in schema.items()})


def _depth(one: Metric) -> int:
    """How many lists stand around a value."""
    return {"task": 0, "quantile": 2}.get(one.per, 1)


def _dtype(one: Metric) -> Any:
    import polars as pl

    found: Any = {"number": pl.Float64, "count": pl.Int64, "text": pl.String}[one.kind]
    for _ in range(_depth(one)):
        found = pl.List(found)
    return found


def _value(one: Metric, value: Any, where: RunDirectory) -> Any:
    """A value as the frame wants it. JSON has no infinity: rows hold the words that float() reads."""
    try:
        return None if value is None else _nested(one, value, _depth(one))
    except (TypeError, ValueError):
        raise IsoplastError(
            f"{where.metrics}: {one.name} is {str(value)[:60]!r}, which is no {one.kind}: "
            f"delete {where.path} and run again"
        ) from None


def _nested(one: Metric, value: Any, depth: int) -> Any:
    if depth:
        if not isinstance(value, list):
            raise TypeError
        return [None if item is None else _nested(one, item, depth - 1) for item in value]
    if one.kind == "text":
        if not isinstance(value, str):
            raise TypeError
        return value
    return int(value) if one.kind == "count" else float(value)
