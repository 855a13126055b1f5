"""What to run, running it, and reading it back.

Example:
    >>> run = Run(data={"name": "digits", "samples": 128}, method="adamo")
    >>> run.id.startswith("random-labels-digits-mlp-adamo-lr0.001-s0-")
    True
"""

from isoplast.study._compare import SettingPath, by_problem, flat_settings, varying
from isoplast.study._metrics import METRICS, Metric, metric, metrics_table
from isoplast.study._open_run import OpenRun, open_run
from isoplast.study._parts import Part, foreign_parts
from isoplast.study._plan import IsometryTime, PlannedMethod, plan_study
from isoplast.study._ranking import Ranking, edition, rank_methods
from isoplast.study._run_study import run_study
from isoplast.study._spec import Run, Switch
from isoplast.study._study import Study, builtin_studies, builtin_tunings, find_study, find_tuning
from isoplast.study._yaml import parse_yaml
from isoplast.study.executors._base import EXECUTORS, Display, Executor, Job, Outcome, make_executor
from isoplast.study.executors._cores import usable_cores
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
from isoplast.study.sinks._base import SINKS, SentRun, Sink
from isoplast.study.sinks._tensorboard import TensorBoard
from isoplast.study.sinks._wandb import WeightsAndBiases
from isoplast.study.store._directory import RunDirectory, Status
from isoplast.study.store._files import read_rows, strict_json
from isoplast.study.store._find import all_runs, disk_use, find_results, holds_results, run_directories
from isoplast.study.store._follow import FollowedRun, Follower
from isoplast.study.store._frame import load_runs, load_study
from isoplast.study.store._index import read_index
from isoplast.study.store._lock import RunLocked
from isoplast.study.store._remove import remove_runs
from isoplast.study.tuning._freeze import freeze, frozen_study
from isoplast.study.tuning._results import NotSwept
from isoplast.study.tuning._select import Choice, select
from isoplast.study.tuning._space import Axis
from isoplast.study.tuning._sweep import sweep, trials
from isoplast.study.tuning._tuning import Tuning

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
    "FollowedRun",
    "Follower",
    "InlineExecutor",
    "IsometryTime",
    "Job",
    "Learner",
    "LearnerSpec",
    "LocalExecutor",
    "Metric",
    "NotSwept",
    "OpenRun",
    "Outcome",
    "Part",
    "PlannedMethod",
    "Progress",
    "Ranking",
    "RayExecutor",
    "Recipe",
    "Run",
    "RunDirectory",
    "RunFailed",
    "RunLocked",
    "SentRun",
    "SettingPath",
    "Sink",
    "SlurmExecutor",
    "Status",
    "Study",
    "Supervised",
    "Switch",
    "TensorBoard",
    "Tuning",
    "WeightsAndBiases",
    "all_runs",
    "builtin_studies",
    "builtin_tunings",
    "by_problem",
    "disk_use",
    "edition",
    "execute",
    "find_results",
    "find_study",
    "find_tuning",
    "flat_settings",
    "foreign_parts",
    "freeze",
    "frozen_study",
    "git_words",
    "holds_results",
    "load_runs",
    "load_study",
    "make_executor",
    "measure_network",
    "metric",
    "metrics_table",
    "module_path",
    "open_run",
    "parse_yaml",
    "plan_study",
    "rank_methods",
    "read_index",
    "read_rows",
    "remove_runs",
    "run_directories",
    "run_study",
    "score",
    "select",
    "strict_json",
    "sweep",
    "trials",
    "usable_cores",
    "varying",
    "worker",
]
