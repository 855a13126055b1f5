"""How well a number tells networks that lost plasticity from those that went on learning."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.stats import beta

from alarms.plan import FAMILIES
from alarms.table import HEALTHY, LOST, Row

KINDS = {family.name: family.kind for family in FAMILIES} | {"cifar10/resnet:8": "normalised"}
"""The kind of network by family."""


def _halves() -> dict[str, int]:
    """Every other family of each type of network: both halves know all types, on different data."""
    types: dict[str, list[str]] = {}
    for name in KINDS:
        types.setdefault(name.partition("/")[2].partition(":")[0], []).append(name)
    return {
        name: (place + offset) % 2
        for offset, names in enumerate(types.values())
        for place, name in enumerate(names)
    }


HALF = _halves()
"""The families' halves."""


@dataclass(frozen=True)
class Number:
    """A number by which to judge.

    Attributes:
        name: what it is called.
        sign: 1 where it grows as plasticity is lost, -1 where it falls.
        of: from a row; NaN where it cannot say.
        origin: what it is where nothing has changed, or in an ideal network.
    """

    name: str
    sign: int
    of: Callable[[Row], float]
    origin: float = 0.0

    def alarm(self, row: Row) -> float:
        """The number, so signed that it grows with the alarm."""
        return self.sign * self.of(row)


def column(name: str, sign: int, title: str = "") -> Number:
    """A column of the table."""
    return Number(title or name, sign, lambda row: float(row.get(name, math.nan)))


@dataclass(frozen=True)
class Share:
    """A share with its 95 % confidence interval (Clopper and Pearson)."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        low = beta.ppf(0.025, self.count, self.total - self.count + 1) if self.count else 0.0
        high = beta.ppf(0.975, self.count + 1, self.total - self.count) if self.count < self.total else 1.0
        return float(low), float(high)

    def __str__(self) -> str:
        if not self.total:
            return "none"
        low, high = self.interval
        return f"{self.value:.1%} of {self.total} ({low:.1%} to {high:.1%})"


def lost(row: Row) -> bool:
    """Whether the network learned less than 70 % of what fresh ones learn of the next task."""
    return bool(row["ratio"] < LOST)


def healthy(row: Row) -> bool:
    """Whether it learned more than 95 % of the next task, and of all later ones that were recorded.

    An alarm at a network that learns now and no longer some tasks later is early, not false.
    """
    return bool(row["later"] > HEALTHY)


def memorises(row: Row) -> bool:
    """Whether the network has learned to give neighbouring inputs different answers.

    By its targets: random ones, and the classes of CIFAR-10, whose images have neighbours of other classes.
    isoplast sees it in the outputs (0.5 to 1 in such networks, 0.01 to 0.44 in others).
    """
    hard = row["history"] == "random" or row["data"].startswith("cifar")
    return bool(hard and row["data"] != "text" and row["time"] not in ("task0", "fresh"))


def auc(number: Number, rows: Sequence[Row]) -> float:
    """The chance that a lost network has a higher alarm than a healthy one."""
    bad = [value for row in rows if lost(row) and not math.isnan(value := number.alarm(row))]
    good = [value for row in rows if healthy(row) and not math.isnan(value := number.alarm(row))]
    if not bad or not good:
        return math.nan
    wins = sum((one > other) + 0.5 * (one == other) for one in bad for other in good)
    return wins / len(bad) / len(good)


def within_families(number: Number, rows: Sequence[Row], key: str = "family") -> tuple[float, int]:
    """The mean AUC of families that have three of each kind, and their number."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[str(row[key])].append(row)
    found = [
        auc(number, group)
        for group in groups.values()
        if sum(map(lost, group)) > 2 < sum(map(healthy, group))
    ]
    found = [value for value in found if not math.isnan(value)]
    return (sum(found) / len(found) if found else math.nan), len(found)


QUANTILES = (0.005, 0.02)
MARGINS = tuple(step / 20 for step in range(3, 41))
"""Of the distance from a number's origin to the edge of the healthy looks: unseen families reach further."""


def limit(number: Number, rows: Sequence[Row], rate: float, margin: float) -> float:
    """The alarm beyond which at most `rate` of the healthy looks lie, and a margin beyond that."""
    values = sorted(v for row in rows if healthy(row) and not math.isnan(v := number.alarm(row)))
    if not values:
        return math.inf
    edge = values[-1 - int(rate * len(values))]
    return edge + margin * (edge - number.sign * number.origin)


def false_alarms(number: Number, rows: Sequence[Row], beyond: float) -> Share:
    """Of healthy looks with the number, those that are beyond a limit."""
    values = [v for row in rows if healthy(row) and not math.isnan(v := number.alarm(row))]
    return Share(sum(value > beyond for value in values), len(values))


def hits(number: Number, rows: Sequence[Row], beyond: float) -> Share:
    """Of looks at networks that lost plasticity."""
    values = [v for row in rows if lost(row) and not math.isnan(v := number.alarm(row))]
    return Share(sum(value > beyond for value in values), len(values))


@dataclass(frozen=True)
class Fit:
    """A limit of a number, as it comes out of two halves of the families.

    Attributes:
        value: the stricter of the two limits, signed as the number is.
        quantile, margin: share of healthy looks beyond its edge, and the smallest of `MARGINS` beyond that
            with which each half's limit keeps its rate on the other.
        false: false alarms of each half's limit on the other half: an upper bound for `value`.
        hits: of `value` on both halves.
        early, score: see `lead`.
    """

    value: float
    quantile: float
    margin: float
    false: Share
    hits: Share
    early: Share
    score: float


def fit(number: Number, rows: Sequence[Row], rate: float) -> Fit:
    """Fit a limit on either half of the families and measure it on the other.

    Of the limits that keep the rate, which lie a margin beyond a quantile of the healthy looks, the lowest.
    """
    found = [_fit(number, rows, rate, quantile) for quantile in sorted({rate, min(QUANTILES)})]
    good = [one for one in found if one.false.value <= rate]
    return min(good or found, key=lambda one: number.sign * one.value)


def _fit(number: Number, rows: Sequence[Row], rate: float, quantile: float) -> Fit:
    halves = [[row for row in rows if HALF[row["family"]] == half] for half in (0, 1)]
    for margin in MARGINS:
        limits = [limit(number, half, quantile, margin) for half in halves]
        crossed = [
            false_alarms(number, half, beyond) for half, beyond in zip(halves, limits[::-1], strict=True)
        ]
        false = Share(sum(one.count for one in crossed), sum(one.total for one in crossed))
        if false.value <= rate:
            break
    strict = max(limits)
    value = number.sign * strict
    return Fit(value, quantile, margin, false, hits(number, rows, strict), *lead(number, rows, strict))


def lead(number: Number, rows: Sequence[Row], beyond: float) -> tuple[Share, float]:
    """Of streams that lost plasticity, those that rang before their score was below 80 % of its first value.

    Also the median over the streams that rang of the score at that time, over the first one.
    """
    streams: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["history"] in ("random", "shift", "inputs"):
            streams[str(row["key"])].append(row)
    early, total, scores = 0, 0, []
    for looks in streams.values():
        if not any(map(lost, looks)):
            continue
        total += 1
        looks = sorted(looks, key=lambda row: row["tasks"])
        rung = next((row for row in looks if number.alarm(row) > beyond), None)
        if rung is None:
            continue
        first = looks[0]["next"]  # what the network, still fresh, learned of the first task
        now = rung["score"] if rung["tasks"] else first
        scores.append(now / first)
        early += now >= 0.8 * first
    scores.sort()
    return Share(early, total), (scores[len(scores) // 2] if scores else math.nan)
