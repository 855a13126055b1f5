"""Rates, limits and figures from the table of recorded networks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from alarms.figure import curves
from alarms.numbers_judged import judged, others
from alarms.statistics import (
    KINDS,
    Fit,
    Number,
    Share,
    auc,
    column,
    false_alarms,
    fit,
    healthy,
    hits,
    limit,
    lost,
    memorises,
    within_families,
)
from alarms.table import Row, with_truth

RATES = {"critical": 0.005, "warning": 0.02}
"""Of each number; of all numbers together at most 1 and 5 %, which the last table checks."""
Kind = tuple[str, bool]
_ORDER = [(kind, sort) for kind in ("relu", "smooth", "normalised", "recurrent") for sort in (False, True)]
_FEWEST = 20  # looks at lost networks of a kind, below which nothing is claimed for it
_WORTH = 0.2  # of the lost looks: a limit that fewer pass is no help
_RATES = re.compile(r"(?<=<!-- begin of rates -->\n).*(?=<!-- end of rates -->)", re.DOTALL)
_BLOCK = re.compile(r"(?<=# begin of what is written\n).*(?=# end of what is written)", re.DOTALL)


def looks(table: Sequence[Row]) -> list[Row]:
    """The looks that the truth is known of."""
    return [row for row in with_truth(table) if not math.isnan(row["ratio"])]


def of_kind(rows: Sequence[Row], kind: Kind) -> list[Row]:
    """Those of a kind of network, at tasks of one sort."""
    return [row for row in rows if (KINDS[row["family"]], memorises(row)) == kind]


def _title(kind: Kind) -> str:
    return f"{kind[0]}, memorises" if kind[1] else kind[0]


def fits(rows: Sequence[Row]) -> Iterator[tuple[Kind, str, Number, Fit, bool]]:
    """Kind, severity, number and its fit, and whether it becomes a limit of isoplast's.

    It does if, fitted on either half of the families, it keeps its rate of false alarms on the other, and if
    it is passed by a fifth of the lost looks.
    """
    for kind in _ORDER:
        group = of_kind(rows, kind)
        if sum(map(lost, group)) < _FEWEST:
            continue
        for number in judged(rows):
            for severity, rate in RATES.items():
                found = fit(number, group, rate)
                kept = found.false.value <= rate and found.hits.value >= _WORTH
                yield kind, severity, number, found, kept


def summary(rows: Sequence[Row]) -> str:
    """All tables as Markdown."""
    return "\n\n".join([_counts(rows), _areas(rows), _limits(rows), _decision(rows)]) + "\n"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    marks = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *lines))


def _counts(rows: Sequence[Row]) -> str:
    lines = []
    for kind in _ORDER:
        group = of_kind(rows, kind)
        networks = {row["key"] for row in group}
        bad = {row["key"] for row in group if lost(row)}
        families = {row["family"] for row in group}
        looks = (len(group), sum(map(healthy, group)), sum(map(lost, group)))
        lines.append((_title(kind), *map(str, (len(families), len(networks), len(bad), *looks))))
    header = ("kind", "families", "networks", "of these lost", "looks", "went on learning", "lost plasticity")
    return _table(header, lines)


def _areas(rows: Sequence[Row]) -> str:
    """AUC of every number over all networks of a kind, and the mean within families."""
    numbers = [*judged(rows), *others(rows)]
    best = sorted(numbers, key=lambda number: -_auc(number, of_kind(rows, ("relu", True))))
    lines = []
    for number in best:
        cells = []
        for kind in _ORDER:
            group = of_kind(rows, kind)
            whole, (inner, _) = auc(number, group), within_families(number, group)
            cells.append(
                "" if math.isnan(whole) else f"{whole:.2f}{'' if math.isnan(inner) else f' / {inner:.2f}'}"
            )
        if any(cells):
            lines.append((number.name, *cells))
    return _table(("number", *(f"{_title(kind)}: AUC / within families" for kind in _ORDER)), lines)


def _auc(number: Number, rows: Sequence[Row]) -> float:
    found = auc(number, rows)
    return -1.0 if math.isnan(found) else found


def _limits(rows: Sequence[Row], short: bool = False) -> str:
    """All fits, or those alone that became limits."""
    lines = []
    for kind, severity, number, found, kept in fits(rows):
        if short and not kept:
            continue
        score = "" if math.isnan(found.score) else f"{found.score:.2f}"
        early = f"{found.early.count} of {found.early.total}"
        last = () if short else (f"{found.margin:g}", "yes" if kept else "no")
        rates = (str(found.false), str(found.hits), early, score)
        lines.append((_title(kind), severity, number.name, f"{found.value:.3g}", *rates, *last))
    header = ["kind", "severity", "number", "limit", "false alarms (other half)", "hits"]
    header += ["streams warned in time", "score then over the first"]
    return _table(header if short else [*header, "margin", "kept"], lines)


def _decision(rows: Sequence[Row]) -> str:
    """All limits together, as isoplast applies them, each family judged by limits fitted on all others."""
    lines = []
    every = list(fits(rows))
    for kind in _ORDER:
        group = of_kind(rows, kind)
        for severity in RATES:
            kept = [
                (number, found.quantile, found.margin)
                for of, rank, number, found, good in every
                if good and of == kind and (rank == severity or severity == "warning")
            ]
            if not kept:
                lines.append((_title(kind), severity, "no number reaches the rates", ""))
                continue
            rung: set[int] = set()
            for family in {row["family"] for row in group}:
                rest = [row for row in group if row["family"] != family]
                own = [row for row in group if row["family"] == family]
                for number, quantile, margin in kept:
                    beyond = limit(number, rest, quantile, margin)
                    rung |= {id(row) for row in own if number.alarm(row) > beyond}
            wrong = Share(sum(healthy(row) and id(row) in rung for row in group), sum(map(healthy, group)))
            right = Share(sum(lost(row) and id(row) in rung for row in group), sum(map(lost, group)))
            lines.append((_title(kind), severity, str(wrong), str(right)))
    header = ("kind", "severity or worse", "false alarms (family left out)", "hits (family left out)")
    return _table(header, lines)


def _half_dead(rows: Sequence[Row]) -> str:
    """How often half of the units of some layer or more are zero on all inputs."""
    number = column("activity/deadall_max", 1, "half of a layer dead")
    lines = []
    for kind in _ORDER:
        group = of_kind(rows, kind)
        false, right = false_alarms(number, group, 0.5 - 1e-9), hits(number, group, 0.5 - 1e-9)
        if right.count:
            lines.append((_title(kind), str(false), str(right)))
    return _table(("half of a layer dead", "went on learning", "lost plasticity"), lines)


def literal(rows: Sequence[Row]) -> str:
    """The limits as Python, for isoplast.diagnostics.health._limits."""
    lines = ["LIMITS: tuple[Limit, ...] = ("]
    for kind, severity, number, found, kept in fits(rows):
        if kept:
            words = f'"{number.name}", "{kind[0]}", {kind[1]}, "{severity}", {number.sign}, {found.value:.3g}'
            false, right = (f"({one.count}, {one.total})" for one in (found.false, found.hits))
            lines.append(f"    Limit({words}, {false}, {right}),")
    return "\n".join([*lines, ")\n"])


def write(table: Sequence[Row], module: Path, page: Path, guide: Path, figure: Path) -> None:
    """Write the limits into the module, the tables to the page and into the guide, and the figure."""
    rows = looks(table)
    module.write_text(_put(module, _BLOCK, literal(rows)), encoding="utf-8")
    page.write_text(
        "Written by `python benchmarks/calibrate_alarms.py analyse --write`.\n\n" + summary(rows),
        encoding="utf-8",
    )
    tables = "\n\n".join([_counts(rows), _limits(rows, short=True), _decision(rows), _half_dead(rows)])
    guide.write_text(_put(guide, _RATES, f"\n{tables}\n\n"), encoding="utf-8")
    figure.write_text(curves({_title(kind): roc(of_kind(rows, kind)) for kind in _ORDER}), encoding="utf-8")


def _put(path: Path, place: re.Pattern[str], text: str) -> str:
    return place.sub(lambda match: text, path.read_text(encoding="utf-8"))


def roc(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """By number, the rates of false alarms and hits at every limit."""
    found = {}
    if sum(map(lost, rows)) < _FEWEST:
        return {}
    for number in judged(rows):
        limits = sorted(
            {number.alarm(row) for row in rows if not math.isnan(number.alarm(row))}, reverse=True
        )
        points = [
            (false_alarms(number, rows, beyond).value, hits(number, rows, beyond).value) for beyond in limits
        ]
        found[number.name] = [(0.0, 0.0), *points, (1.0, 1.0)]
    return found
