"""The one sentence on top of the page, said from the data alone.

It speaks of the mean over seeds. What a method could lose is the margin over chance that it had after the
first task; the words for what became of it are chosen by the fraction of this margin that is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isoplast.report.data._method_runs import Array, MethodRuns, alike, exploratory, failures, over_seeds
from isoplast.report.data._numbers import scores

# Of the margin, at most a tenth left at the end: "falls"; at least four fifths left at all times: "stays".
_LOST, _KEPT = 0.1, 0.8
# A margin below 0.05 on the first task is no learning that could be lost.
_LEARNED = 0.05
# So many methods are told one by one, in a sentence of at most three lines on a desk; more are counted by
# what became of them.
_TOLD, _LONGEST = 5, 330
_FATES = {
    "keeps": "kept 80 % or more{margin}",
    "declines": "lost part{margin}",
    "collapses": "lost 90 % or more{margin}",
    "recovers": "dipped and recovered",
    "rises": "rose from near chance",
    "unlearned": "never learned",
    "switched": "changed the method on the way",
    "uneven": "had tasks on scales of their own",
    "single": "ran one task",
}


def headline(results: Sequence[MethodRuns]) -> str:
    """What became of each method's ability to learn, in one sentence.

    Args:
        results: at least one with a finished task.

    Example:
        "Adam falls from 0.91 to 0.14 within 10 tasks; AdamO stays at 0.85 or above (24 tasks, mean over 2
        seeds, exploratory; chance is 0.10)."
    """
    one_by_one = "; ".join(f"{result.label} {_told(result)}" for result in results)
    scope = _scope(results)
    if len(results) > _TOLD or len(one_by_one) + len(scope) > _LONGEST:
        return f"{_by_fate(results)}."
    return f"{one_by_one} ({scope})."


def fate(result: MethodRuns) -> str:
    """What became of a method, in one word: a key of `_FATES`."""
    curve = scores(result).curve
    if len(curve) == 1:
        return "single"
    if result.switches:
        return "switched"
    if not _on_one_scale(result):
        return "uneven"
    left = _margins(result)
    margin = left[0]
    if margin < _LEARNED:
        return "rises" if left[-1] >= _LEARNED else "unlearned"
    if left[-1] <= _LOST * margin:
        return "collapses"
    if left.min() >= _KEPT * margin:
        return "keeps"
    return "declines" if left[-1] < _KEPT * margin else "recovers"


def _margins(result: MethodRuns) -> Array:
    """How much better than the chance of its task each score of the curve is; of errors the share of it."""
    reached = scores(result)
    margins: Array = result.sign * (reached.curve - np.nan_to_num(reached.chance))
    return margins / np.abs(reached.chance) if result.sign < 0 and np.all(reached.chance) else margins


def _on_one_scale(result: MethodRuns) -> bool:
    """Whether what one task gives above chance can be set beside what another gives: not of other games."""
    shares = result.sign < 0 or result.metric.name.endswith("accuracy")
    return shares or alike(scores(result).chance)


def _told(result: MethodRuns) -> str:
    reached = scores(result)
    curve, left = reached.curve, _margins(result)
    first, last, worst = reached.first.mean, reached.last.mean, reached.worst.mean
    gone, lowest = int(np.argmax(left <= _LOST * left[0])), int(left.argmin())
    falls, dips = ("rises", "climbs") if result.sign < 0 else ("falls", "dips")
    return {
        "single": lambda: f"reaches {first:.2f} on its one task",
        "uneven": lambda: f"reaches {reached.mean.mean:.2f} in the mean",
        "switched": lambda: _rescue(result),
        "unlearned": lambda: f"never gets past {curve[left.argmax()]:.2f}",
        "rises": lambda: f"gets from {first:.2f} to {last:.2f}",
        "collapses": lambda: f"{falls} from {first:.2f} to {curve[gone]:.2f} within {gone + 1} tasks",
        "keeps": lambda: f"stays at {_rounded(worst, result.sign)}",
        "declines": lambda: f"declines from {first:.2f} to {last:.2f}",
        "recovers": lambda: f"{dips} to {worst:.2f} after {lowest + 1} tasks and ends at {last:.2f}",
    }[fate(result)]()


def _rounded(worst: float, sign: float) -> str:
    """The bound that all scores keep, rounded to its own side: "0.89 or above" is not true of 0.885."""
    if sign < 0:
        return f"{math.ceil(100 * worst - 1e-6) / 100:.2f} or below"
    return f"{math.floor(100 * worst + 1e-6) / 100:.2f} or above"


def _rescue(result: MethodRuns) -> str:
    """The way from the last score before the (last) change of method to the last one after it."""
    mean, _, _ = over_seeds(result.score)
    switch = result.switches[-1]
    before = mean[(result.tasks == switch.task - 1) & np.isfinite(mean)]
    after = mean[(result.tasks >= switch.task) & np.isfinite(mean)]
    if not len(before) or not len(after):
        return f"goes on with {switch.new} after {_count(switch.task, 'task')}"
    verb = "climbs" if after[-1] > before[0] else "goes"
    return (
        f"{verb} from {before[0]:.2f} after {_count(switch.task, 'task')} with {switch.old} "
        f"to {after[-1]:.2f} after {len(after)} more with {switch.new}"
    )


def _by_fate(results: Sequence[MethodRuns]) -> str:
    """How many methods met which fate; the names and numbers are in the table below."""
    fates = [fate(result) for result in results]
    said: list[str] = []
    for name, words in _FATES.items():
        if name in fates:
            margin = "" if said else f" of their {results[0].metric.label} above chance"
            said.append(f"{fates.count(name)} {words.format(margin=margin)}")
    notes = "; ".join([*(["exploratory"] if exploratory(results) else []), *failures(results)])
    words = f"Over {_tasks(results)}, of {len(results)} methods {', '.join(said)}"
    return f"{words} ({notes})" if notes else words


def _tasks(results: Sequence[MethodRuns]) -> str:
    return _count(max(len(scores(result).curve) for result in results), "task")


def _scope(results: Sequence[MethodRuns]) -> str:
    counts = sorted({len(result.seeds) for result in results})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds = "one seed" if counts == [1] else f"mean over {n} seeds"
    said = [f"{_tasks(results)}, {seeds}{', exploratory' if exploratory(results) else ''}"]
    known = np.concatenate([scores(result).chance for result in results])
    chances = [f"{chance:.2f}" for chance in np.unique(known[np.isfinite(known)])]
    levels = list(dict.fromkeys(chances))
    if levels:
        level = " or ".join(levels) if len(levels) <= 2 else f"{levels[0]} to {levels[-1]}, by task"
        said.append(f"chance is {level}")
    return "; ".join([*said, *failures(results)])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
