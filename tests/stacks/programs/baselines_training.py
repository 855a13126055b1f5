"""Stable-Baselines3: AdamO by policy_kwargs, resets of policies that fx cannot trace, the monitor, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN, PPO, SAC

from isoplast import AdamO, param_groups
from isoplast.integrations.stable_baselines3 import PlasticityCallback

ADAMO = {"optimizer_class": AdamO, "optimizer_kwargs": {"isometry": 0.1}}
SHORT = {"n_steps": 64, "batch_size": 32, "n_epochs": 4, "seed": 0, "device": "cpu"}


def optimizer_class(folder: Path, **_: Any) -> None:
    """PPO, DQN and SAC train with AdamO, which is saved and loaded with the algorithm."""
    ppo = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=ADAMO, **SHORT)
    assert isinstance(ppo.policy.optimizer, AdamO)
    assert ppo.policy.optimizer.report().matrices == 5  # the critic ends in a single row
    ppo.learn(256)
    ppo.save(folder / "ppo")
    again = PPO.load(folder / "ppo")
    assert isinstance(again.policy.optimizer, AdamO)
    saved, loaded = ppo.policy.optimizer.state_dict(), again.policy.optimizer.state_dict()
    assert saved["state"].keys() == loaded["state"].keys() != set()
    assert loaded["param_groups"][0]["isometry"] == 0.1
    for index, entry in saved["state"].items():
        assert torch.equal(entry["exp_avg"], loaded["state"][index]["exp_avg"])
        assert entry.get("isometry_owed") == loaded["state"][index].get("isometry_owed")
    dqn = DQN("MlpPolicy", "CartPole-v1", policy_kwargs=ADAMO, learning_starts=32, seed=0, device="cpu")
    dqn.learn(64)
    assert dqn.policy.optimizer.report().matrices == 3
    sac = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=ADAMO, learning_starts=16, seed=0, device="cpu")
    sac.learn(24)
    assert isinstance(sac.critic.optimizer, AdamO)
    assert isinstance(sac.actor.optimizer, AdamO)


def isometric(**_: Any) -> None:
    """Its layers stay near isometry where Adam's leave it; the heads of actor and critic can be left free."""
    spreads = []
    for isometry in (0.0, 1.0):
        ppo = PPO("MlpPolicy", "CartPole-v1", learning_rate=1e-2, **SHORT)
        groups = param_groups(ppo.policy, isometry=isometry, head=0.0)
        kept = {d.name for d in groups.decisions if d.isometric and d.strength != 0}
        hidden = {f"mlp_extractor.{net}.{i}.weight" for net in ("policy_net", "value_net") for i in (0, 2)}
        assert kept == hidden, kept
        ppo.policy.optimizer = AdamO(groups, lr=1e-2, isometry=isometry)
        ppo.learn(512)
        values = torch.linalg.svdvals(ppo.policy.mlp_extractor.value_net[2].weight.detach())
        spreads.append(float(values.max() / values.min()))
    assert spreads[1] < 0.5 * spreads[0], spreads


def resets(**_: Any) -> None:
    """ReDo and a monitor behind PPO's and DQN's steps: dormant units are reset, tasks are counted."""
    for make in (_ppo, _dqn, _sac):
        algorithm, network, where = make()
        callback = PlasticityCallback(
            "redo",
            monitor={"measures": ["weights"], "budget": 0.9},
            task=lambda algorithm: algorithm.num_timesteps // 100,
            every=2,
            tau=0.1,
            **where,
        )
        layer = network[0]
        with torch.no_grad():
            layer.bias[:8] = -1e3  # eight units that never fire
        algorithm.learn(256, callback=callback)
        assert callback.follow.steps > 10
        assert callback.follow.task >= 1
        assert callback.monitor is not None
        assert np.all(layer.bias.detach()[:8].abs().numpy() < 1), "the dead units were not reset"
        assert callback.monitor.records[-1].keys() - {"step"}
        assert "evaluate_actions" not in vars(algorithm.policy), "a hook was left behind"


def _ppo() -> tuple[Any, Any, dict[str, Any]]:
    relu = {"activation_fn": torch.nn.ReLU, **ADAMO}
    ppo = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=relu, **SHORT)
    return ppo, ppo.policy.mlp_extractor.policy_net, {}


def _dqn() -> tuple[Any, Any, dict[str, Any]]:
    dqn = DQN("MlpPolicy", "CartPole-v1", policy_kwargs=ADAMO, learning_starts=32, seed=0, device="cpu")
    return dqn, dqn.policy.q_net.q_net, {}


def _sac() -> tuple[Any, Any, dict[str, Any]]:
    sac = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=ADAMO, learning_starts=232, seed=0, device="cpu")
    where = {
        "network": lambda policy: policy.critic,
        "optimizer": lambda algorithm: algorithm.critic.optimizer,
    }
    return sac, sac.critic.qf0, where
