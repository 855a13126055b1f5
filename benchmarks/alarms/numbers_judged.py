"""The numbers that are compared: those that isoplast's findings use, and those that did not make it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from alarms.statistics import Number, column
from alarms.table import Row

_START = ("task0", "fresh")


def judged(rows: Sequence[Row]) -> list[Number]:
    """Numbers that a finding may be about, by the names that isoplast gives them.

    "since" compares a network with itself at its start, where that is known; the others do without.
    """
    starts, families = _starts(rows), {row["family"]: row for row in rows if row["time"] in _START}

    def start_of(row: Row) -> Row:
        return starts.get(row["key"]) or families.get(row["family"], {})

    def dormant(row: Row) -> float:
        found = row.get("activity/dormant256_max", math.nan)  # few networks have no more than 256 inputs
        return float(row.get("activity/dormantall_max", math.nan) if math.isnan(found) else found)

    def dormant_since(row: Row) -> float:
        now, then = _listed(row, "activity/dormant_list"), _listed(start_of(row), "activity/dormant_list")
        if now and then:
            return max(one - other for one, other in zip(now, then, strict=True))
        return dormant(row) - dormant(start_of(row))  # of the networks that were recorded before lists were

    def rank_since(row: Row) -> float:
        name = "activity/feature_rank_list"
        now, then = _listed(row, name), _listed(start_of(row), name)
        if now and then:
            return min((one / other for one, other in zip(now, then, strict=True) if other), default=math.nan)
        return _over(row, start_of(row), "activity/feature_rank_min")

    return [
        Number("growth", 1, _growth, 1.0),
        Number("dormant units since", 1, dormant_since),
        Number("feature rank since", -1, rank_since, 1.0),
        Number("dormant units", 1, dormant),
        Number("feature rank", -1, lambda row: float(row.get("activity/feature_rank_min", math.nan)), 1.0),
    ]


def _growth(row: Row) -> float:
    """No number under Muon, whose steps lift all singular values alike: 6.6 in a network that learns on."""
    return math.nan if row["recipe"].startswith("muon") else float(row.get("weights/growth_mean", math.nan))


def others(rows: Sequence[Row]) -> list[Number]:
    """Everything else that was recorded."""
    starts = _starts(rows)

    def since(name: str, sign: int) -> Number:
        of: Callable[[Row], float] = lambda row: _over(row, starts.get(row["key"], {}), name)  # noqa: E731
        return Number(f"{name} over its start", sign, of)

    names = {
        1: (
            *("weights/largest_max", "weights/growth_max", "weights/distance", "weights/norm"),
            *("weights/condition_max", "weights/gram_max", "activity/dead256_max", "activity/deadall_max"),
            *("activity/dormant025_max", "activity/saturated_max"),
            *("activity/linearised_max", "activity/duplicates_max", "ntk/condition", "jacobian/condition"),
            *("jacobian/zero", "loss/gradient", "loss/size", "loss/noise", "ready/flat", "optimizer/still"),
            "update/ratio",
        ),
        -1: (
            *("weights/rank_min", "activity/effective_rank_min"),
            *("activity/stable_rank_min", "activity/telling_min", "activity/feature_rank_last"),
            *("ntk/effective", "ntk/participation", "ntk/removes0.01", "jacobian/mean"),
            *("loss/gradient_rank", "ready/signal", "ready/share", "ready/soft_signal", "ready/soft_share"),
        ),
    }
    found = [column(name, sign) for sign, group in names.items() for name in group]
    found += [since("activity/effective_rank_min", -1), since("ntk/condition", 1)]
    probes = (("random", 70), ("kept", 70), ("head", 70), ("head", 200), ("head", 300), ("teacher", 300))
    for probe, steps in probes:
        for twin in ("fresh", "trained"):
            found.append(column(f"probe/{probe}/score{steps}/{twin}", -1))
    return found


def _starts(rows: Sequence[Row]) -> dict[str, Row]:
    return {row["key"]: row for row in rows if row["time"] in _START}


def _listed(row: Row, name: str) -> list[float]:
    value = row.get(name)
    return [float(part) for part in value.split(";")] if isinstance(value, str) and value else []


def _over(row: Row, start: Row, name: str) -> float:
    then = start.get(name, math.nan)
    return float(row.get(name, math.nan)) / then if then else math.nan
