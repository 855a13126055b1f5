"""PPO learns from at least three times as many steps a second as the usual ones, on one CPU.

Continual MinAtar's Breakout with the same network (two 4 x 64 MLPs) and the same settings (rollouts of 128
steps, 4 epochs, 4 minibatches), training included, one after the other in one process:

* ours: gymnax's game, as many copies as are best here (--copies);
* a PPO as CleanRL writes it: the authors' game in gymnasium's SyncVectorEnv, eight copies;
* Stable-Baselines3's PPO on the same eight copies.

With more copies a minibatch is larger, as four of them make a pass in each. Printed: steps a second, the
ratio, and the share of our time in the environment, the policy and the update.

    python benchmarks/ppo_throughput.py [--copies 64] [--updates 6] [--threads 1]

Needs isoplast[rl], minatar and, for the last, stable-baselines3.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isoplast.methods import training
from isoplast.nn import spec
from isoplast.rl import Actions, ActorCritic, Environments, MinAtar, PPOSettings, Step, rollout, update

ROLLOUT, MINIBATCHES, PEER_COPIES = 128, 4, 8
SAMPLES = ROLLOUT * PEER_COPIES // MINIBATCHES  # of a peer's minibatch
NET = {"width": 64, "depth": 4, "gain": 2**0.5}


class Timed(Environments):
    """Environments that add up the time spent in them."""

    def __init__(self, inner: Environments) -> None:
        self.inner, self.seconds = inner, 0.0
        self.count, self.device, self.limit = inner.count, inner.device, inner.limit
        self.observation_shape, self.actions = inner.observation_shape, inner.actions

    def reset(self) -> Tensor:
        return self.inner.reset()

    def step(self, actions: Tensor) -> Step:
        start = time.perf_counter()
        found = self.inner.step(actions)
        self.seconds += time.perf_counter() - start
        return found


def ours(copies: int, updates: int) -> tuple[float, dict[str, float]]:
    """Steps a second, and the shares of the time."""
    settings = PPOSettings(environments=copies, rollout=ROLLOUT, minibatches=MINIBATCHES)
    environments = Timed(MinAtar("breakout", copies, seed=0))
    network = ActorCritic(spec("mlp", **NET), environments.observation_shape, environments.actions)
    run = training("adam", network, lr=2.5e-4, clip_norm=settings.clip_norm)
    seen = environments.reset()
    acting = learning = 0.0
    for number in range(updates + 1):
        if number == 1:  # the first one compiles
            acting = learning = environments.seconds = 0.0
        start = time.perf_counter()
        found = rollout(run.model, environments, seen, ROLLOUT)
        middle = time.perf_counter()
        update(lambda closure, inputs: run.step(closure, inputs=inputs), run.model, found, settings)
        acting, learning = acting + middle - start, learning + time.perf_counter() - middle
        seen = found.next_observation
    total = acting + learning
    shares = {
        "environment": environments.seconds / total,
        "policy": (acting - environments.seconds) / total,
        "update": learning / total,
    }
    return updates * settings.samples / total, shares


def breakout() -> Any:
    """The authors' game, its channels first and padded to ten, as ours sees it."""
    import gymnasium
    import minatar.gym
    import numpy as np

    if "MinAtar/Breakout-v0" not in gymnasium.registry:
        minatar.gym.register_envs()

    class Padded(gymnasium.ObservationWrapper):  # type: ignore[misc,type-arg]
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            self.observation_space = gymnasium.spaces.Box(0, 1, (10, 10, 10), np.float32)

        def observation(self, observation: Any) -> Any:
            found = np.zeros((10, 10, 10), dtype=np.float32)
            found[: observation.shape[2]] = observation.transpose(2, 0, 1)
            return found

    game = gymnasium.make("MinAtar/Breakout-v0", disable_env_checker=True)
    return Padded(gymnasium.wrappers.TimeLimit(game, 1000))


def cleanrl_style(updates: int) -> float:
    """Steps a second of a PPO that is written as CleanRL writes it."""
    import gymnasium

    environments = gymnasium.vector.SyncVectorEnv([breakout] * PEER_COPIES)
    network = ActorCritic(spec("mlp", **NET), (10, 10, 10), Actions(6))
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-4, eps=1e-5)
    seen = torch.from_numpy(environments.reset(seed=0)[0])
    done = torch.zeros(PEER_COPIES)
    start = time.perf_counter()
    for _ in range(updates):
        shape = (ROLLOUT, PEER_COPIES)
        observations, actions = torch.zeros(*shape, 10, 10, 10), torch.zeros(shape)
        logs, rewards, dones, values = (torch.zeros(shape) for _ in range(4))
        for step in range(ROLLOUT):
            observations[step], dones[step] = seen, done
            with torch.no_grad():
                outputs = network(seen)
                policy = torch.distributions.Categorical(logits=outputs[:, :6])
                action = policy.sample()
            actions[step], logs[step], values[step] = action, policy.log_prob(action), outputs[:, 6]
            found, reward, terminated, truncated, _ = environments.step(action.numpy())
            rewards[step] = torch.from_numpy(reward)
            seen, done = torch.from_numpy(found), torch.from_numpy(terminated | truncated).float()
        with torch.no_grad():
            following, advantage = network(seen)[:, 6], torch.zeros(PEER_COPIES)
            advantages = torch.zeros(shape)
            for step in reversed(range(ROLLOUT)):
                going = 1 - (done if step == ROLLOUT - 1 else dones[step + 1])
                later = following if step == ROLLOUT - 1 else values[step + 1]
                delta = rewards[step] + 0.99 * later * going - values[step]
                advantages[step] = advantage = delta + 0.99 * 0.95 * going * advantage
        flat = [part.flatten(0, 1) for part in (observations, actions, logs, advantages, advantages + values)]
        for _ in range(4):
            for rows in torch.randperm(ROLLOUT * PEER_COPIES).split(SAMPLES):
                batch, chosen, old, gain, wanted = (part[rows] for part in flat)
                outputs = network(batch)
                policy = torch.distributions.Categorical(logits=outputs[:, :6])
                ratio = (policy.log_prob(chosen) - old).exp()
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                surrogate = torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()
                value_loss = 0.5 * (outputs[:, 6] - wanted).square().mean()
                loss = surrogate - 0.01 * policy.entropy().mean() + 0.5 * value_loss
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 0.5)
                optimizer.step()
    return updates * ROLLOUT * PEER_COPIES / (time.perf_counter() - start)


def stable_baselines(updates: int) -> float:
    """Steps a second of Stable-Baselines3's PPO."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    layers = [64] * 4
    agent = PPO(
        "MlpPolicy",
        DummyVecEnv([breakout] * PEER_COPIES),
        learning_rate=2.5e-4,
        n_steps=ROLLOUT,
        batch_size=SAMPLES,
        n_epochs=4,
        ent_coef=0.01,
        policy_kwargs={"net_arch": {"pi": layers, "vf": layers}, "activation_fn": nn.ReLU},
        device="cpu",
    )
    agent.learn(ROLLOUT * PEER_COPIES)
    steps = updates * ROLLOUT * PEER_COPIES
    start = time.perf_counter()
    agent.learn(steps)
    return steps / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--copies", type=int, default=64)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    steps, shares = ours(arguments.copies, arguments.updates)
    said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    print(f"ours, {arguments.copies} copies: {steps:,.0f} steps/s ({said})")
    peers: dict[str, Callable[[int], float]] = {"CleanRL's way": cleanrl_style}
    if importlib.util.find_spec("stable_baselines3"):
        peers["Stable-Baselines3"] = stable_baselines
    for name, peer in peers.items():
        found = peer(arguments.updates)
        print(
            f"{name}, {PEER_COPIES} copies: {found:,.0f} steps/s; ours is {steps / found:.1f} times as fast"
        )


if __name__ == "__main__":
    main()
