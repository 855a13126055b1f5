"""PPO learns from at least three times as many steps a second as the usual ones, on one CPU.

MinAtar's Breakout with the same network (two 4 x 64 MLPs) and the same settings (rollouts of 128 steps, 4
epochs, 4 minibatches), training included, one after the other in one process. Seconds are those of the
process's own processor time, all of its threads together, so that it matters less what else the machine does:

* ours: gymnax's game, as many copies as are best here (--copies);
* a PPO as CleanRL writes it: the authors' game in gymnasium's SyncVectorEnv, eight copies;
* Stable-Baselines3's PPO on the same eight copies.

With more copies a minibatch is larger, as four of them make a pass in each. Printed: steps a second, the
ratio, and the share of our time in the environment, the policy and the update.

With --device cuda ours alone, on a GPU, which must reach 300 000 steps/s with 2048 copies: Breakout with the
update started kernel by kernel and with the update as one CUDA graph, and the other three games with the
graph; and how far the weights of the two kinds of update are apart after three of them. The shares are
measured afterwards, with a wait for the GPU around each part.

    python benchmarks/ppo_throughput.py [--copies 256] [--updates 3]
    python benchmarks/ppo_throughput.py --device cuda [--copies 2048] [--updates 20]

Needs isoplast[rl] and, on the CPU, minatar and for the last of the three stable-baselines3.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isoplast.methods import Training, training
from isoplast.nn import spec
from isoplast.rl import (
    Actions,
    ActorCritic,
    Environments,
    GraphedUpdate,
    Losses,
    MinAtar,
    PPOSettings,
    Rollout,
    Step,
    rollout,
    update,
)

ROLLOUT, MINIBATCHES, PEER_COPIES, PEER_UPDATES = 128, 4, 8, 24
SAMPLES = ROLLOUT * PEER_COPIES // MINIBATCHES  # of a peer's minibatch
NET = {"width": 64, "depth": 4, "gain": 2**0.5}


class Timed(Environments):
    """Environments that add up the time spent in them, where `waits` until the device is done with it."""

    def __init__(self, inner: Environments) -> None:
        self.inner, self.seconds, self.waits = inner, 0.0, False
        self.count, self.device, self.limit = inner.count, inner.device, inner.limit
        self.observation_shape, self.actions = inner.observation_shape, inner.actions

    def reset(self) -> Tensor:
        return self.inner.reset()

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        if self.waits:
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, actions: Tensor) -> Step:
        start = self.now()
        found = self.inner.step(actions)
        self.seconds += self.now() - start
        return found


class Ours:
    """Our PPO on a game.

    Args:
        game: its name.
        settings: how it learns.
        device: where.
    """

    def __init__(self, game: str, settings: PPOSettings, device: str) -> None:
        self.settings = settings
        self.environments = Timed(MinAtar(game, settings.environments, seed=0, device=device))
        self.run = agent(settings, device)
        self.learn = learner(self.run, settings)
        self.seen = self.environments.reset()
        self.reward = 0.0

    def train(self, updates: int, waits: bool) -> tuple[float, dict[str, float]]:
        """The time of some updates, and its shares, which mean something where the clock waits."""
        environments = self.environments
        environments.waits = True
        acting = learning = environments.seconds = 0.0
        begin = environments.now()
        environments.waits = waits
        for _ in range(updates):
            start = environments.now()
            found = rollout(self.run.model, environments, self.seen, self.settings.rollout)
            middle = environments.now()
            self.learn(found)
            acting, learning = acting + middle - start, learning + environments.now() - middle
            self.seen = found.next_observation
        environments.waits = True
        total = environments.now() - begin
        self.reward = found.rewards.mean().item()
        shares = {
            "environment": environments.seconds / total,
            "policy": (acting - environments.seconds) / total,
            "update": learning / total,
        }
        return total, shares


def agent(settings: PPOSettings, device: str) -> Training:
    """A fresh network with Adam."""
    network = ActorCritic(spec("mlp", **NET), MinAtar.observation_shape, MinAtar.actions)
    return training("adam", network, lr=2.5e-4, clip_norm=settings.clip_norm, device=device)


def learner(run: Training, settings: PPOSettings) -> Callable[[Rollout], Losses]:
    """What does an update on a rollout."""
    if settings.graph is not None:
        return GraphedUpdate(run, settings)
    return lambda found: update(lambda loss, x: run.step(loss, inputs=x), run.model, found, settings)


def ours(copies: int, updates: int) -> tuple[float, dict[str, float]]:
    """Steps a second on the CPU, and the shares of the time."""
    settings = PPOSettings(environments=copies, rollout=ROLLOUT, minibatches=MINIBATCHES)
    mine = Ours("breakout", settings, "cpu")
    mine.train(1, True)  # compiles
    seconds, shares = mine.train(updates, True)
    return updates * settings.samples / seconds, shares


def on_gpu(copies: int, updates: int) -> None:
    """Measure and print what a GPU does."""
    # JAX would take three quarters of the memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, jax {jax.__version__}, on "
        f"{jax.devices()[0]}",
        flush=True,
    )
    kinds: list[tuple[str, Literal["update"] | None]] = [("breakout", None)]
    kinds += [(game, "update") for game in ("breakout", "asterix", "space_invaders", "freeway")]
    for game, graph in kinds:
        said = f"{game}, {copies} copies, update {'as a CUDA graph' if graph else 'kernel by kernel'}"
        try:
            settings = PPOSettings(environments=copies, rollout=ROLLOUT, minibatches=MINIBATCHES, graph=graph)
            torch.manual_seed(0)
            mine = Ours(game, settings, "cuda")
            first, _ = mine.train(3, True)  # compiles, and captures
            before = mine.reward
            seconds, _ = mine.train(updates, False)
            _, shares = mine.train(2, True)
            parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            print(
                f"{said}: {updates * settings.samples / seconds:,.0f} steps/s ({parts}; the first three "
                f"updates took {first:.1f} s; reward a step {before:.4f}, {updates} updates later "
                f"{mine.reward:.4f}; torch held at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB)",
                flush=True,
            )
            del mine
        except Exception:
            print(f"{said}: failed", flush=True)
            traceback.print_exc()
    try:
        print(f"weights after three updates of either kind differ by at most {apart():.2g}", flush=True)
    except Exception:
        traceback.print_exc()


def apart() -> float:
    """The largest difference of a weight between the two kinds of update, on the same rollouts."""
    found = []
    for graph in (None, "update"):
        settings = PPOSettings(environments=64, rollout=ROLLOUT, minibatches=MINIBATCHES, graph=graph)
        torch.manual_seed(1)
        run = agent(settings, "cuda")
        learn = learner(run, settings)
        environments = MinAtar("breakout", settings.environments, seed=1, device="cuda")
        seen = environments.reset()
        actor = agent(settings, "cuda").model  # acts for both, unchanged
        for _ in range(3):
            acted = rollout(actor, environments, seen, ROLLOUT)
            seen = acted.next_observation
            learn(acted)
        found.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    return (found[0] - found[1]).abs().max().item()


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

    # without its sticky actions, which ours does not have
    game = gymnasium.make("MinAtar/Breakout-v0", sticky_action_prob=0.0, disable_env_checker=True)
    return Padded(gymnasium.wrappers.TimeLimit(game, 1000))


def cleanrl_style(updates: int) -> float:
    """Steps a second of a PPO that is written as CleanRL writes it."""
    import gymnasium

    environments = gymnasium.vector.SyncVectorEnv([breakout] * PEER_COPIES)
    network = ActorCritic(spec("mlp", **NET), (10, 10, 10), Actions(6))
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-4, eps=1e-5)
    seen = torch.from_numpy(environments.reset(seed=0)[0])
    done = torch.zeros(PEER_COPIES)
    start = time.process_time()
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
    return updates * ROLLOUT * PEER_COPIES / (time.process_time() - start)


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
    start = time.process_time()
    agent.learn(steps)
    return steps / (time.process_time() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--copies", type=int, help="256, on a GPU 2048")
    parser.add_argument("--updates", type=int, help="3, on a GPU 20")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        on_gpu(arguments.copies or 2048, arguments.updates or 20)
        return
    arguments.copies, arguments.updates = arguments.copies or 256, arguments.updates or 3
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps, shares = ours(arguments.copies, arguments.updates)
    said = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    print(f"ours, {arguments.copies} copies: {steps:,.0f} steps/s ({said})")
    peers: dict[str, Callable[[int], float]] = {"CleanRL's way": cleanrl_style}
    if importlib.util.find_spec("stable_baselines3"):
        peers["Stable-Baselines3"] = stable_baselines
    for name, peer in peers.items():
        found = peer(PEER_UPDATES)
        print(
            f"{name}, {PEER_COPIES} copies: {found:,.0f} steps/s; ours is {steps / found:.1f} times as fast"
        )


if __name__ == "__main__":
    main()
