"""PPO's learning curve and Stable-Baselines3's lie within each other's 95 % bands, with equal settings.

CartPole (the same dynamics: tests/rl/test_control.py compares every step) or, with isoplast[rl] and minatar,
MinAtar's Breakout. Networks, gains, optimizer, minibatches, discount, truncation and losses are those of our
settings. For each seed the mean return of the episodes that ended in each tenth of the training; the
bands are t intervals of the mean over seeds. results/ holds what came out, which --read prints again.

    python benchmarks/ppo_learns_like_stable_baselines.py [--game cartpole] [--steps 65536] [--seeds 5]
    python benchmarks/ppo_learns_like_stable_baselines.py --read results/ppo_breakout.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy import stats
from torch import nn

from isoplast.methods import training
from isoplast.nn import spec
from isoplast.rl import ActorCritic, Episodes, MinAtar, PPOSettings, control, rollout, update

SETTINGS = PPOSettings(environments=8, rollout=128, epochs=4, minibatches=4)
LR, PARTS, LAYERS = 1e-3, 10, [64, 64]


def ours(game: str, seed: int, updates: int) -> list[float | None]:
    """The learning curve of our PPO."""
    torch.manual_seed(seed)
    make = MinAtar if game == "breakout" else control
    environments = make(game, SETTINGS.environments, seed)
    net = spec("mlp", width=LAYERS[0], depth=len(LAYERS), activation="tanh", gain=2**0.5)
    network = ActorCritic(net, environments.observation_shape, environments.actions)
    run = training("adam", network, lr=LR, clip_norm=SETTINGS.clip_norm)
    seen, episodes = environments.reset(), Episodes(SETTINGS.environments)
    for _ in range(updates):
        found = rollout(run.model, environments, seen, SETTINGS.rollout)
        episodes.add(found.rewards, found.terminated | found.truncated)
        update(lambda closure, inputs: run.step(closure, inputs=inputs), run.model, found, SETTINGS)
        seen = found.next_observation
    return episodes.curve(PARTS)


def theirs(game: str, seed: int, updates: int) -> list[float | None]:
    """The learning curve of Stable-Baselines3's PPO."""
    import gymnasium
    from ppo_throughput import breakout
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Returns(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.rewards: list[Any] = []
            self.dones: list[Any] = []

        def _on_step(self) -> bool:
            self.rewards.append(self.locals["rewards"].copy())
            self.dones.append(self.locals["dones"].copy())
            return True

    make = breakout if game == "breakout" else lambda: gymnasium.make("CartPole-v1")
    agent = PPO(
        "MlpPolicy",
        DummyVecEnv([make] * SETTINGS.environments),
        learning_rate=LR,
        n_steps=SETTINGS.rollout,
        batch_size=SETTINGS.samples // SETTINGS.minibatches,
        n_epochs=SETTINGS.epochs,
        gamma=SETTINGS.gamma,
        gae_lambda=SETTINGS.gae_lambda,
        clip_range=SETTINGS.clip,
        ent_coef=SETTINGS.entropy,
        vf_coef=SETTINGS.value / 2,  # its value loss has no factor of a half
        max_grad_norm=SETTINGS.clip_norm,
        policy_kwargs={
            "net_arch": {"pi": LAYERS, "vf": LAYERS},
            "activation_fn": nn.Tanh,
            "optimizer_kwargs": {"eps": 1e-8},
        },
        seed=seed,
        device="cpu",
    )
    returns = Returns()
    agent.learn(updates * SETTINGS.samples, callback=returns)
    episodes = Episodes(SETTINGS.environments)
    shape = (updates, SETTINGS.rollout, SETTINGS.environments)
    rewards = torch.from_numpy(np.array(returns.rewards)).reshape(shape)
    dones = torch.from_numpy(np.array(returns.dones)).reshape(shape)
    for rewarded, done in zip(rewards, dones, strict=True):
        episodes.add(rewarded, done)
    return episodes.curve(PARTS)


AGENTS: dict[str, Callable[[str, int, int], list[float | None]]] = {
    "isoplast": ours,
    "Stable-Baselines3": theirs,
}


def measure(game: str, steps: int, seeds: int) -> pl.DataFrame:
    """The learning curves of both: a row for each agent, seed and tenth."""
    rows = [
        {"game": game, "steps": steps, "agent": agent, "seed": seed, "tenth": tenth, "return": value}
        for agent, learn in AGENTS.items()
        for seed in range(seeds)
        for tenth, value in enumerate(learn(game, seed, steps // SETTINGS.samples), 1)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def band(found: pl.DataFrame, agent: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean over the seeds in each tenth, and half the width of its 95 % interval."""
    own = found.filter(pl.col("agent") == agent).sort("seed", "tenth")
    curves = own["return"].to_numpy().reshape(-1, PARTS)
    seeds = len(curves)
    return curves.mean(0), stats.t.ppf(0.975, seeds - 1) * curves.std(0, ddof=1) / seeds**0.5


def bands_meet(found: pl.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether the bands of both meet in each tenth."""
    (mean, half), (their_mean, their_half) = (band(found, agent) for agent in AGENTS)
    return abs(mean - their_mean) <= half + their_half


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--game", choices=("cartpole", "breakout"), default="cartpole")
    parser.add_argument("--steps", type=int, default=65_536)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="a table of the curves")
    parser.add_argument("--read", type=Path, help="such a table, instead of training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.read is not None:
        found = pl.read_csv(arguments.read)
    else:
        found = measure(arguments.game, arguments.steps, arguments.seeds)
    if arguments.write is not None:
        found.write_csv(arguments.write, float_precision=3)
    game, steps, seeds = found["game"][0], found["steps"][0], found["seed"].n_unique()
    print(f"{game}, {steps:,} steps, {seeds} seeds: mean return, 95 % interval")
    print("| tenth | isoplast | Stable-Baselines3 | bands meet |")
    print("|---|---|---|---|")
    bands = [band(found, agent) for agent in AGENTS]
    for part, meet in enumerate(bands_meet(found)):
        values = " | ".join(f"{mean[part]:.1f} ± {half[part]:.1f}" for mean, half in bands)
        print(f"| {part + 1} | {values} | {'yes' if meet else 'no'} |")


if __name__ == "__main__":
    main()
