"""What to run, running it, and reading it back.

Example:
    >>> run = Run(data="digits", samples=128, tasks=2, epochs=1, method="adamo")
    >>> run.id.startswith("random-labels-digits-mlp-adamo-lr0.001-s0-")
    True
"""

from isoplast.study._spec import Run, Switch
from isoplast.study._study import Study, builtin_studies, find_study
from isoplast.study._yaml import parse_yaml
from isoplast.study.executors._local import Display, Outcome, run_study
from isoplast.study.run._execute import FORMAT, Progress, RunFailed, execute
from isoplast.study.run._provenance import git_words
from isoplast.study.run._train import Trainer
from isoplast.study.store._directory import RunDirectory, Status
from isoplast.study.store._files import RunLocked, read_rows, strict_json
from isoplast.study.store._frame import load_runs, load_study
from isoplast.study.store._index import read_index

__all__ = [
    "FORMAT",
    "Display",
    "Outcome",
    "Progress",
    "Run",
    "RunDirectory",
    "RunFailed",
    "RunLocked",
    "Status",
    "Study",
    "Switch",
    "Trainer",
    "builtin_studies",
    "execute",
    "find_study",
    "git_words",
    "load_runs",
    "load_study",
    "parse_yaml",
    "read_index",
    "read_rows",
    "run_study",
    "strict_json",
]
