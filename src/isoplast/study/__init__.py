"""What to run, running it, and reading it back.

Example:
    >>> run = Run(data="digits", samples=128, tasks=2, epochs=1, method="adamo")
    >>> run.id.startswith("random-labels-digits-mlp-adamo-lr0.001-s0-")
    True
"""

from isoplast.study._spec import Run, Switch
from isoplast.study._study import Study, builtin_studies, find_study
from isoplast.study.executors._local import Display, Outcome, run_study
from isoplast.study.run._execute import Failed, Progress, execute
from isoplast.study.store._directory import RunDirectory, Status
from isoplast.study.store._files import Busy
from isoplast.study.store._frame import load_runs, load_study

__all__ = [
    "Busy",
    "Display",
    "Failed",
    "Outcome",
    "Progress",
    "Run",
    "RunDirectory",
    "Status",
    "Study",
    "Switch",
    "builtin_studies",
    "execute",
    "find_study",
    "load_runs",
    "load_study",
    "run_study",
]
