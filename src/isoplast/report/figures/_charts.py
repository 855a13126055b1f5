"""The two figures that README and documentation show, as static SVG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoplast._core.errors import IsoplastError
from isoplast.report.data._isometry import isometry, positive
from isoplast.report.data._method_runs import Array, MethodRuns, alike, fine_print, over_seeds
from isoplast.report.figures._axes import Scale, score_scale, share_scale
from isoplast.report.figures._palette import style
from isoplast.report.figures._svg import Axes, Line, line_chart


def score_chart(results: Sequence[MethodRuns], title: str | None = None) -> str:
    """The score after each task, a line and a band over seeds per method, as SVG text.

    Example:
        >>> Path("docs/demo.svg").write_text(score_chart(method_runs(load_study("runs/demo"))))
    """
    lines = []
    for result in results:
        mean, low, high = over_seeds(result.score[:, result.trained])
        known = np.isfinite(mean)
        tasks = (result.tasks[result.trained][known] + 1).astype(np.float64)
        lines.append(Line(result.label, result.style, tasks, mean[known], low[known], high[known]))
    marks = dict.fromkeys((s.task + 0.5, f"{s.old} → {s.new}") for result in results for s in result.switches)
    label = results[0].metric.label
    title = title or f"{label.capitalize()} after each task"
    axes = Axes(title, "tasks trained on", _noted(results), references=chances(results), marks=tuple(marks))
    return line_chart(lines, axes, scale_of_scores(results))


def scale_of_scores(results: Sequence[MethodRuns]) -> Scale:
    """The axis that fits the curves of these methods and their bands."""
    edges = [over_seeds(result.score[:, result.trained]) for result in results]
    low, high = (np.concatenate([edge[part] for edge in edges]) for part in (1, 2))
    return _fitting(results, low, high)


def scale_of_lines(
    results: Sequence[MethodRuns], lines: Sequence[Line], levels: Sequence[tuple[float, str]]
) -> Scale:
    """The axis that fits lines with their bands, and levels beside them."""
    beside = np.array([value for value, _ in levels])
    low, high = (np.concatenate([*(getattr(one, edge) for one in lines), beside]) for edge in ("low", "high"))
    return _fitting(results, low, high)


def _fitting(results: Sequence[MethodRuns], low: Array, high: Array) -> Scale:
    scale = share_scale if results[0].metric.name.endswith("accuracy") else score_scale
    return scale(float(np.nanmin(low)), float(np.nanmax(high)))


def sweep_chart(
    results: Sequence[MethodRuns],
    *,
    x: str = "isometry",
    line: str = "lr",
    title: str | None = None,
    x_label: str = "isometry strength λ",
) -> str:
    """The mean score over tasks against a setting (log scale), a line per value of another one, as SVG text.

    Arms in which `x` is absent or 0 have no place on a log axis; they become named horizontal lines.

    Raises:
        IsoplastError: no result has a positive `x`.
    """
    lines, others = swept_lines(results, x=x, line=line)
    scale = scale_of_lines(results, lines, others)
    title = title or f"Mean {results[0].metric.label} over all tasks"
    references = (*chances(results), *others)
    return line_chart(lines, Axes(title, x_label, _noted(results), log_x=True, references=references), scale)


def sweeps(results: Sequence[MethodRuns]) -> bool:
    """Whether a method has several strengths at one learning rate."""
    strengths: dict[tuple[str, float], set[float]] = {}
    for result in results:
        found = isometry(result)
        if found is not None:
            key = str(result.settings.get("method")), float(result.settings["lr"])
            strengths.setdefault(key, set()).add(found.strength)
    return any(len(found) > 1 for found in strengths.values())


def swept_lines(
    results: Sequence[MethodRuns], *, x: str = "isometry", line: str = "lr"
) -> tuple[list[Line], list[tuple[float, str]]]:
    """The mean score over tasks against a setting: lines, and the levels of methods that have no such one.

    Raises:
        IsoplastError: no result has a positive `x`.
    """
    placed = [result for result in results if _setting(result, x)]
    if not placed:
        raise IsoplastError(f"no method of this study has a setting {x!r} above 0 to sweep over")
    values = sorted({result.settings[line] for result in placed})
    lines = []
    for index, value in enumerate(values):
        group = sorted(
            (result for result in placed if result.settings[line] == value),
            key=lambda result: _setting(result, x),
        )
        edges = [over_seeds(_means(result)) for result in group]
        mean, low, high = (np.array([float(edge[part]) for edge in edges]) for part in range(3))
        at = np.array([_setting(result, x) for result in group])
        lines.append(Line(f"{line} {value:g}", style(index), at, mean, low, high))
    others = [
        (float(over_seeds(_means(result))[0]), result.label) for result in results if not _setting(result, x)
    ]
    return lines, others


def _setting(result: MethodRuns, name: str) -> float:
    """A setting of a method, or of a part of it ("adamo.isometry"); 0 where it has none."""
    found = [value for key, value in result.settings.items() if key == name or key.endswith(f".{name}")]
    return next((number for value in found if (number := positive(value))), 0.0)


def _means(result: MethodRuns) -> Array:
    """The mean score over tasks of each seed that has at least one."""
    found = result.score[:, result.trained]
    means: Array = np.nanmean(found[np.isfinite(found).any(axis=1)], axis=1)
    return means


def profile_levels(results: Sequence[MethodRuns], count: int) -> Array:
    """Levels of the score, evenly from the worst to the best that any run reached."""
    every = np.concatenate([result.score[:, result.trained].ravel() for result in results])
    every = every[np.isfinite(every)]
    return np.linspace(every.min(), every.max(), count)


def complete_scores(result: MethodRuns) -> Array:
    """The scores of the runs that have one for every task, shape (runs, tasks)."""
    values = result.score[:, result.trained]
    return values[np.isfinite(values).all(axis=1)]


def chances(results: Sequence[MethodRuns]) -> tuple[tuple[float, str], ...]:
    """The levels of chance as lines, each with its name; none where they differ much from task to task."""
    levels = [result.chance[result.trained] for result in results]
    same = [level[np.isfinite(level)] for level in levels if alike(level)]
    medians = [float(np.median(level)) for level in same if len(level)]
    named = {f"chance {chance:.2g}": chance for chance in medians}
    return tuple(sorted((chance, name) for name, chance in named.items()))


def _noted(results: Sequence[MethodRuns]) -> str:
    """What an axis says: the metric, and the fine print of all figures."""
    return " · ".join(filter(None, (results[0].metric.label, fine_print(results))))
