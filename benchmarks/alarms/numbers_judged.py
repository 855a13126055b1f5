"""The numbers that are compared: those that isoplast's findings use, and those that did not make it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from alarms.statistics import Number, column
from alarms.table import Row

_START = ("task0", "fresh")


def judged(rows: Sequence[Row]) -> list[Number]:
    """Numbers that a finding may be about, by the names that isoplast gives them.

    A network is compared with itself at its start; isoplast compares it with a freshly drawn one where the
    start is not known.
    """
    starts, families = _starts(rows), {row["family"]: row for row in rows if row["time"] in _START}

    def start_of(row: Row) -> Row:
        return starts.get(row["key"]) or families.get(row["family"], {})

    def more_dormant(row: Row) -> float:
        start = start_of(row)
        now, then = _listed(row, "activity/dormant_list"), _listed(start, "activity/dormant_list")
        if now and then:
            return max(one - other for one, other in zip(now, then, strict=True))
        name = "activity/dormantall_max"  # of the networks that were recorded before lists were
        return float(row.get(name, math.nan)) - float(start.get(name, math.nan))

    def feature_share(row: Row) -> float:
        start = start_of(row)
        now, then = _listed(row, "activity/feature_rank_list"), _listed(start, "activity/feature_rank_list")
        if now and then:
            return min((one / other for one, other in zip(now, then, strict=True) if other), default=math.nan)
        return _over(row, start, "activity/feature_rank_min")

    return [
        column("weights/growth_mean", 1, "growth"),
        Number("dormant units", 1, more_dormant),
        Number("feature rank", -1, feature_share),
    ]


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
            *("activity/dormant256_max", "activity/dormant025_max", "activity/saturated_max"),
            *("activity/linearised_max", "activity/duplicates_max", "ntk/condition", "jacobian/condition"),
            *("jacobian/zero", "loss/gradient", "loss/size", "loss/noise", "ready/flat", "optimizer/still"),
            "update/ratio",
        ),
        -1: (
            *("weights/rank_min", "activity/feature_rank_min", "activity/effective_rank_min"),
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
