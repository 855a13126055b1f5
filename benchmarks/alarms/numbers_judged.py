"""The numbers that are compared: those that isoplast's findings use, and those that did not make it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alarms.statistics import Number, column
from alarms.table import Row


def judged() -> list[Number]:
    """Numbers that a finding may be about, by the names that isoplast gives them."""
    return [
        column("weights/growth_mean", 1, "growth"),
        column("activity/dormant256_max", 1, "dormant units"),
        column("activity/feature_rank_min", -1, "feature rank"),
    ]


def others(rows: Sequence[Row]) -> list[Number]:
    """Everything else that was recorded."""
    starts = {row["key"]: row for row in rows if row["time"] in ("task0", "fresh")}

    def since(name: str, sign: int) -> Number:
        def of(row: Row) -> float:
            start = starts.get(row["key"], {}).get(name, math.nan)
            return float(row.get(name, math.nan)) / start if start else math.nan

        return Number(f"{name} over its start", sign, of)

    names = {
        1: (
            *("weights/largest_max", "weights/growth_max", "weights/distance", "weights/norm"),
            *("weights/condition_max", "weights/gram_max", "activity/dead256_max", "activity/deadall_max"),
            *("activity/dormant025_max", "activity/saturated_max", "activity/linearised_max"),
            *("activity/duplicates_max", "ntk/condition", "jacobian/condition", "jacobian/zero"),
            *("loss/gradient", "loss/size", "loss/noise", "ready/flat", "optimizer/still", "update/ratio"),
        ),
        -1: (
            *("weights/rank_min", "activity/effective_rank_min", "activity/stable_rank_min"),
            *("activity/telling_min", "activity/feature_rank_last", "ntk/effective", "ntk/participation"),
            *("ntk/removes0.01", "jacobian/mean", "loss/gradient_rank", "ready/signal", "ready/share"),
            *("ready/soft_signal", "ready/soft_share", "ready/one_norm"),
        ),
    }
    found = [column(name, sign) for sign, group in names.items() for name in group]
    found += [since("activity/feature_rank_min", -1), since("ntk/condition", 1)]
    for probe, steps in (
        ("random", 70),
        ("kept", 70),
        ("head", 70),
        ("head", 200),
        ("head", 300),
        ("teacher", 300),
    ):
        for twin in ("fresh", "trained"):
            found.append(column(f"probe/{probe}/score{steps}/{twin}", -1))
    return found
