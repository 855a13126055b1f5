"""Sequences of environments, and learners that act in them.

Example:
    >>> import torch
    >>> from isoplast.nn import spec
    >>> environments = control("cartpole", count=8, seed=0)
    >>> network = ActorCritic(spec("mlp", width=16), environments.observation_shape, environments.actions)
    >>> found = rollout(network, environments, environments.reset(), steps=4)
    >>> gae(found, gamma=0.99, decay=0.95).shape
    torch.Size([4, 8])
"""

from isoplast.rl._actor_critic import ActorCritic, log_std_of
from isoplast.rl._churn import churn, q_churn
from isoplast.rl._dqn import (
    Collected,
    DQNSettings,
    Replay,
    Transitions,
    collect,
    learn,
    td_loss,
)
from isoplast.rl._episodes import Episodes, Evaluation, evaluate
from isoplast.rl._graph import GraphedUpdate
from isoplast.rl._ppo import (
    Batch,
    Losses,
    PPOSettings,
    Rollout,
    act,
    as_batch,
    gae,
    log_probability,
    ppo_loss,
    rollout,
    update,
)
from isoplast.rl.environments._control import Acrobot, CartPole, Control, control
from isoplast.rl.environments._environments import Actions, Environments, Step
from isoplast.rl.environments._gymnasium import Gymnasium
from isoplast.rl.environments._minatar import MinAtar
from isoplast.rl.environments._shifted import Shifted
from isoplast.rl.problems._control_problem import ShiftedControl
from isoplast.rl.problems._gymnasium_problem import GymnasiumSequence
from isoplast.rl.problems._minatar_problem import ContinualMinAtar
from isoplast.rl.problems._octax import ContinualOctax, Octax
from isoplast.rl.problems._problem import EnvironmentProblem, EnvironmentSequence, EnvironmentTask
from isoplast.rl.problems._slippery_ant import SlipperyAnt

__all__ = [
    "Acrobot",
    "Actions",
    "ActorCritic",
    "Batch",
    "CartPole",
    "Collected",
    "ContinualMinAtar",
    "ContinualOctax",
    "Control",
    "DQNSettings",
    "EnvironmentProblem",
    "EnvironmentSequence",
    "EnvironmentTask",
    "Environments",
    "Episodes",
    "Evaluation",
    "GraphedUpdate",
    "Gymnasium",
    "GymnasiumSequence",
    "Losses",
    "MinAtar",
    "Octax",
    "PPOSettings",
    "Replay",
    "Rollout",
    "Shifted",
    "ShiftedControl",
    "SlipperyAnt",
    "Step",
    "Transitions",
    "act",
    "as_batch",
    "churn",
    "collect",
    "control",
    "evaluate",
    "gae",
    "learn",
    "log_probability",
    "log_std_of",
    "ppo_loss",
    "q_churn",
    "rollout",
    "td_loss",
    "update",
]
