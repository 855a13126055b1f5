"""The one sentence on top of the page, said from the data alone.

It speaks of the mean over seeds. What an arm could lose is the margin over chance that it had after the first
task; the words for its fate are chosen by the fraction of this margin that is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isoplast.report.data._arms import Arm, Array, over_seeds

# Of the margin, at most a tenth left at the end: "falls"; at least four fifths left at all times: "stays".
_LOST, _KEPT = 0.1, 0.8
# A margin below 0.05 on the first task is no learning that could be lost.
_LEARNED = 0.05
# More arms than these are counted by fate instead of told one by one.
_TOLD = 5
# Of those counted together, so many are named.
_NAMED = 3
_WORDS = ("falls", "above", "dips")  # where more is better
_FATES = {
    "single": "ran one task",
    "switched": "changed their method on the way",
    "unlearned": "never learned",
    "rises": "rose from near chance",
    "collapses": "lost more than 90 % of it",
    "declines": "lost part of it",
    "recovers": "dipped and recovered",
    "keeps": "kept at least 80 % of it throughout",
}


def headline(arms: Sequence[Arm]) -> str:
    """What became of each arm's ability to learn, in one sentence.

    Args:
        arms: at least one with a finished task.

    Example:
        "Adam falls from 0.91 to 0.11 within 10 tasks; AdamO stays at 0.85 or above (24 tasks, mean over 2
        seeds; chance is 0.10)."
    """
    told = [arm for arm in arms if len(_curve(arm))]
    body = "; ".join(f"{arm.label} {_fate(arm)}" for arm in told) if len(told) <= _TOLD else _by_fate(told)
    return f"{body} ({_scope(told)})."


def fate(arm: Arm) -> str:
    """What became of an arm, in one word: a key of `_FATES`."""
    curve = _curve(arm)
    if len(curve) == 1:
        return "single"
    if arm.switches:
        return "switched"
    left = _margins(arm)
    margin, enough = left[0], _LEARNED * _scale(arm)
    if margin < enough:
        return "rises" if left[-1] >= enough else "unlearned"
    if left[-1] <= _LOST * margin:
        return "collapses"
    if left.min() >= _KEPT * margin:
        return "keeps"
    return "declines" if left[-1] < _KEPT * margin else "recovers"


def _curve(arm: Arm) -> Array:
    """The score after each task that was trained on, mean over seeds."""
    mean, _, _ = over_seeds(arm.score[:, arm.trained])
    return mean[np.isfinite(mean)]


def _margins(arm: Arm) -> Array:
    """How much better than chance each of these scores is, whatever the direction of better."""
    sign = -1.0 if arm.metric.higher_is_better is False else 1.0
    return sign * (_curve(arm) - (0.0 if math.isnan(arm.chance) else arm.chance))


def _scale(arm: Arm) -> float:
    """What a margin is measured by: 1 for shares, chance itself for errors."""
    errors = arm.metric.higher_is_better is False and not math.isnan(arm.chance)
    return abs(arm.chance) if errors else 1.0


def _fate(arm: Arm) -> str:
    curve, left = _curve(arm), _margins(arm)
    best, worst = curve[left.argmax()], curve[left.argmin()]
    first, last = curve[0], curve[-1]
    gone = int(np.argmax(left <= _LOST * left[0]))
    lowest = int(left.argmin()) + 1
    falls, below, dips = ("rises", "below", "climbs") if arm.metric.higher_is_better is False else _WORDS
    return {
        "single": lambda: f"reaches {first:.2f} on its one task",
        "switched": lambda: _rescue(arm),
        "unlearned": lambda: f"never gets past {best:.2f}",
        "rises": lambda: f"gets from {first:.2f} to {last:.2f}",
        "collapses": lambda: f"{falls} from {first:.2f} to {curve[gone]:.2f} within {gone + 1} tasks",
        "keeps": lambda: f"stays at {worst:.2f} or {below}",
        "declines": lambda: f"declines from {first:.2f} to {last:.2f}",
        "recovers": lambda: f"{dips} to {worst:.2f} after {lowest} tasks and ends at {last:.2f}",
    }[fate(arm)]()


def _rescue(arm: Arm) -> str:
    """The way from the last score before the (last) change of method to the last one after it."""
    mean, _, _ = over_seeds(arm.score)
    switch = arm.switches[-1]
    before = mean[(arm.tasks == switch.task - 1) & np.isfinite(mean)]
    after = mean[(arm.tasks >= switch.task) & np.isfinite(mean)]
    if not len(before) or not len(after):
        return f"goes on with {switch.new} after {_count(switch.task, 'task')}"
    verb = "climbs" if after[-1] > before[0] else "goes"
    return (
        f"{verb} from {before[0]:.2f} after {_count(switch.task, 'task')} with {switch.old} "
        f"to {after[-1]:.2f} after {len(after)} more with {switch.new}"
    )


def _by_fate(arms: Sequence[Arm]) -> str:
    groups = {name: [arm for arm in arms if fate(arm) == name] for name in _FATES}
    said = [f"{len(group)} {_FATES[name]} ({_ends(group)})" for name, group in groups.items() if group]
    return f"Of {len(arms)} arms, by the margin over chance after the first task, " + "; ".join(said)


def _ends(arms: Sequence[Arm]) -> str:
    """The first names of a group, and the range of its last accuracies."""
    names = ", ".join(f"“{arm.label}”" for arm in arms[:_NAMED])  # quoted: swept labels hold commas
    more = f" and {len(arms) - _NAMED} more" if len(arms) > _NAMED else ""
    ends = [f"{_curve(arm)[-1]:.2f}" for arm in arms]
    low, high = min(ends), max(ends)
    return f"{names}{more}: last task {low}" + (f" to {high}" if low != high else "")


def _scope(arms: Sequence[Arm]) -> str:
    tasks = _count(max(len(_curve(arm)) for arm in arms), "task")
    counts = sorted({len(arm.seeds) for arm in arms})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds = "one seed" if counts == [1] else f"mean over {n} seeds"
    chances = sorted({f"{arm.chance:.2f}" for arm in arms if not math.isnan(arm.chance)})
    return f"{tasks}, {seeds}" + (f"; chance is {' or '.join(chances)}" if chances else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
