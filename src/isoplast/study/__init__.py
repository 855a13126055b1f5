"""What to run, running it, and reading it back.

Example:
    >>> run = Run(data={"name": "digits", "samples": 128}, method="adamo")
    >>> run.id.startswith("random-labels-digits-mlp-adamo-lr0.001-s0-")
    True
"""

from isoplast.study._metrics import METRICS, Metric, metric, metrics_table
from isoplast.study._open_run import OpenRun, open_run
from isoplast.study._parts import Part, foreign_parts
from isoplast.study._run_study import run_study
from isoplast.study._spec import Run, Switch
from isoplast.study._study import Study, builtin_studies, find_study
from isoplast.study._tuning import Axis, Choice, Tuning, freeze, said, select, sweep
from isoplast.study._yaml import parse_yaml
from isoplast.study.executors._base import EXECUTORS, Display, Executor, Job, Outcome, make_executor
from isoplast.study.executors._inline import InlineExecutor
from isoplast.study.executors._local import LocalExecutor
from isoplast.study.executors._ray import RayExecutor
from isoplast.study.executors._slurm import SlurmExecutor
from isoplast.study.executors._worker import worker
from isoplast.study.run._dqn import DQN
from isoplast.study.run._execute import Progress, RunFailed, execute, module_path
from isoplast.study.run._instruments import INSTRUMENTS, measure_network, score
from isoplast.study.run._learner import LEARNERS, Diverged, Learner, LearnerSpec, Recipe
from isoplast.study.run._ppo import PPO
from isoplast.study.run._provenance import git_words
from isoplast.study.run._supervised import Supervised
from isoplast.study.sinks._base import SINKS, Sink, Source
from isoplast.study.sinks._tensorboard import TensorBoard
from isoplast.study.sinks._wandb import WeightsAndBiases
from isoplast.study.store._directory import RunDirectory, Status
from isoplast.study.store._files import read_rows, strict_json
from isoplast.study.store._frame import load_runs, load_study
from isoplast.study.store._index import read_index
from isoplast.study.store._lock import RunLocked

__all__ = [
    "DQN",
    "EXECUTORS",
    "INSTRUMENTS",
    "LEARNERS",
    "METRICS",
    "PPO",
    "SINKS",
    "Axis",
    "Choice",
    "Display",
    "Diverged",
    "Executor",
    "InlineExecutor",
    "Job",
    "Learner",
    "LearnerSpec",
    "LocalExecutor",
    "Metric",
    "OpenRun",
    "Outcome",
    "Part",
    "Progress",
    "RayExecutor",
    "Recipe",
    "Run",
    "RunDirectory",
    "RunFailed",
    "RunLocked",
    "Sink",
    "SlurmExecutor",
    "Source",
    "Status",
    "Study",
    "Supervised",
    "Switch",
    "TensorBoard",
    "Tuning",
    "WeightsAndBiases",
    "builtin_studies",
    "execute",
    "find_study",
    "foreign_parts",
    "freeze",
    "git_words",
    "load_runs",
    "load_study",
    "make_executor",
    "measure_network",
    "metric",
    "metrics_table",
    "module_path",
    "open_run",
    "parse_yaml",
    "read_index",
    "read_rows",
    "run_study",
    "said",
    "score",
    "select",
    "strict_json",
    "sweep",
    "worker",
]
