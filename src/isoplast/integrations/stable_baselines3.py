"""A callback for Stable-Baselines3, and the hidden units of its policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from torch import nn

from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import Monitor
from isoplast.integrations._follow import Follow
from isoplast.methods import Method
from isoplast.model import UnitGroup, declare_units

try:
    from stable_baselines3.common.callbacks import BaseCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"isoplast.integrations.stable_baselines3 needs {error.name}: pip install stable-baselines3",
        name=error.name,
    ) from None


class PlasticityCallback(BaseCallback):
    """Runs a method or a monitor, or both, in a training by Stable-Baselines3.

    Every step of the policy's optimizer counts, not every step of the environment. The policy's hidden units
    are declared, as :func:`declare_policy_units` finds them, unless the user declared others: torch.fx cannot
    trace these policies.

    Args:
        method: a method's name, or a method; see :class:`isoplast.integrations.Follow` for which ones.
        monitor: settings of :class:`isoplast.Monitor`, such as ``{"measures": ["weights"]}``; None for none.
            Its numbers are recorded in the algorithm's logger as "plasticity/...".
        network: the part of the policy to follow; by default the policy, or the Q-network of DQN.
        optimizer: finds its optimizer in the algorithm; by default that of the policy.
        task: tells the number of the task from the algorithm at every step of the environment, for methods
            that need task boundaries: ``lambda algorithm: algorithm.num_timesteps // 100_000``.
        settings: of the method.

    Example:
        >>> callback = PlasticityCallback("redo", every=100)  # doctest: +SKIP
        >>> PPO("MlpPolicy", env).learn(10_000, callback=callback)  # doctest: +SKIP
    """

    def __init__(
        self,
        method: str | Method | None = None,
        *,
        monitor: dict[str, Any] | None = None,
        network: Callable[[nn.Module], nn.Module] | None = None,
        optimizer: Callable[[Any], Any] | None = None,
        task: Callable[[Any], int] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        make = None if monitor is None else lambda net, opt: Monitor(net, opt, **monitor)
        self.follow = Follow(method, make, **settings)
        self._network, self._optimizer, self._task = network, optimizer, task
        self._recorded = 0
        self._watched: Any = None

    @property
    def monitor(self) -> Monitor | None:
        """The monitor, from the start of the training on."""
        return self.follow.monitor

    def _on_training_start(self) -> None:
        policy = self.model.policy
        followed = self._network(policy) if self._network else getattr(policy, "q_net", policy)
        find = self._optimizer or _policy_optimizer
        if self.follow.method is not None and not hasattr(followed, "isoplast_units"):
            chains = list(_chains(followed))
            if chains:
                declare_units(followed, _groups(followed, chains))
        self.follow.start(followed, find(self.model))
        self._watch(followed)

    def _on_step(self) -> bool:
        if self._task is not None and (self.follow.steps == 0 or self._task(self.model) != self.follow.task):
            self.follow.new_task()
        return True

    def _on_rollout_start(self) -> None:
        records = [] if self.monitor is None else self.monitor.records
        if records and records[-1]["step"] > self._recorded:
            self._recorded = int(records[-1]["step"])
            for name, value in records[-1].items():
                if "/" in name:
                    self.logger.record(f"plasticity/{name}", value)
        if self.monitor is not None:
            self.monitor.pause()  # a rollout is no training of the network

    def _on_training_end(self) -> None:
        self.follow.stop()
        if self._watched is not None:
            vars(self._watched).pop("evaluate_actions", None)
            self._watched = None

    def _watch(self, policy: Any) -> None:
        """Lets the method see the observations of PPO and A2C, which train by evaluate_actions."""
        evaluate = getattr(policy, "evaluate_actions", None)
        if evaluate is None:
            return

        def watched(obs: Any, actions: Any) -> Any:
            self.follow.saw(obs)
            return evaluate(obs, actions)

        policy.evaluate_actions = watched
        self._watched = policy


def declare_policy_units(policy: nn.Module) -> nn.Module:
    """Declares the hidden units of a policy with dense networks, which torch.fx cannot trace.

    Units are those between two linear layers of the actor, the critic and Q-networks, the last ones being
    read by the heads ``action_net`` and ``value_net``. Those of a feature extractor of images, which actor
    and critic read both, are not among them.

    Args:
        policy: ``algorithm.policy``, or a Q-network.

    Returns:
        The policy.

    Raises:
        IsoplastError: for a policy without two linear layers in a row: declare its units by hand.
    """
    return declare_units(policy, _groups(policy, list(_chains(policy))))


def _groups(policy: nn.Module, chains: list[list[tuple[str, nn.Module]]]) -> list[UnitGroup]:
    groups = []
    for chain in chains:
        linear = [index for index, (_, module) in enumerate(chain) if isinstance(module, nn.Linear)]
        for first, second in pairwise(linear):
            between = [name for name, _ in chain[first + 1 : second]]
            activation = between[-1] if between else None
            groups.append(
                UnitGroup.of(
                    policy, producer=chain[first][0], consumer=chain[second][0], activation=activation
                )
            )
    if not groups:
        raise IsoplastError(
            f"{type(policy).__name__} has no two linear layers in a row: declare its units by hand with "
            "isoplast.methods.declare_units(policy, [UnitGroup.of(...)])"
        )
    return groups


def _chains(policy: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """The modules of each Sequential of dense layers in the order of the data, with its head."""
    heads = {"policy_net": "action_net", "value_net": "value_net"}
    for name, module in policy.named_modules():
        if not isinstance(module, nn.Sequential) or not any(isinstance(m, nn.Linear) for m in module):
            continue
        if any(not isinstance(part, nn.Linear) and list(part.parameters()) for part in module):
            continue  # convolutions and norms: not known well enough
        chain = [(f"{name}.{index}".lstrip("."), part) for index, part in module.named_children()]
        owner, _, leaf = name.rpartition(".")
        head = heads.get(leaf) if owner.endswith("mlp_extractor") else None
        if head is not None and isinstance(getattr(policy, head, None), nn.Linear):
            chain.append((head, getattr(policy, head)))
        yield chain


def _policy_optimizer(algorithm: Any) -> Any:
    optimizer = getattr(algorithm.policy, "optimizer", None)
    if optimizer is None:
        raise IsoplastError(
            f"the policy of {type(algorithm).__name__} has no single optimizer: say which one, with its "
            "network: network=lambda policy: policy.critic, "
            "optimizer=lambda algorithm: algorithm.critic.optimizer"
        )
    return optimizer
