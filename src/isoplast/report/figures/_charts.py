"""The two figures that README and documentation show, as static SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.report.data._arms import Arm, Array, over_seeds
from isoplast.report.figures._palette import style
from isoplast.report.figures._svg import Axes, Line, line_chart


def score_chart(arms: Sequence[Arm], title: str | None = None) -> str:
    """The score after each task, a line and a band over seeds per arm, as SVG text.

    Example:
        >>> Path("docs/demo.svg").write_text(score_chart(arms(load_study("runs/demo"))))
    """
    lines = []
    for arm in arms:
        mean, low, high = over_seeds(arm.score[:, arm.trained])
        known = np.isfinite(mean)
        tasks = (arm.tasks[arm.trained][known] + 1).astype(np.float64)
        lines.append(Line(arm.label, arm.style, tasks, mean[known], low[known], high[known]))
    marks = dict.fromkeys((s.task + 0.5, f"{s.old} → {s.new}") for arm in arms for s in arm.switches)
    label = arms[0].metric.label
    title = title or f"{label.capitalize()} after each task"
    axes = Axes(title, "tasks trained on", label, references=_chance(arms), marks=tuple(marks))
    return line_chart(lines, axes)


def sweep_chart(
    arms: Sequence[Arm],
    *,
    x: str = "isometry",
    line: str = "lr",
    title: str | None = None,
    x_label: str = "isometry strength λ",
) -> str:
    """The mean score over tasks against a setting (log scale), a line per value of another one, as SVG text.

    Arms in which `x` is absent or 0 have no place on a log axis; they become named horizontal lines.

    Raises:
        IsoplastError: no arm has a positive `x`.
    """
    placed = [arm for arm in arms if arm.settings.get(x)]
    if not placed:
        raise IsoplastError(f"no arm of this study has a setting {x!r} above 0 to sweep over")
    values = sorted({arm.settings[line] for arm in placed})
    lines = []
    for index, value in enumerate(values):
        group = sorted(
            (arm for arm in placed if arm.settings[line] == value), key=lambda arm: arm.settings[x]
        )
        edges = [over_seeds(_means(arm)) for arm in group]
        mean, low, high = (np.array([float(edge[part]) for edge in edges]) for part in range(3))
        at = np.array([float(arm.settings[x]) for arm in group])
        lines.append(Line(f"{line} {value:g}", style(index), at, mean, low, high))
    others = [(float(over_seeds(_means(arm))[0]), arm.label) for arm in arms if not arm.settings.get(x)]
    references = (*_chance(arms), *others)
    label = arms[0].metric.label
    title = title or f"Mean {label} over all tasks"
    return line_chart(lines, Axes(title, x_label, label, log_x=True, references=references))


def _means(arm: Arm) -> Array:
    """The mean score over tasks of each seed that has at least one."""
    scores = arm.score[:, arm.trained]
    means: Array = np.nanmean(scores[np.isfinite(scores).any(axis=1)], axis=1)
    return means


def _chance(arms: Sequence[Arm]) -> tuple[tuple[float, str], ...]:
    return tuple(
        (c, f"chance {c:.2g}") for c in sorted({arm.chance for arm in arms if np.isfinite(arm.chance)})
    )
