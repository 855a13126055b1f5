"""Environments written for JAX: a step of the whole batch is one compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isoplast.rl.environments._environments import Environments, Step, check_count
from isoplast.rl.environments._packages import needed


class Compiled(NamedTuple):
    """An environment as functions of whole batches; `view` says how observations are to be shown.

    Attributes:
        reset: (keys, view) to (observations, states).
        step: (key, states, actions, view) to (key, states, observations, final observations, rewards,
            terminated, truncated).
        limit: most steps of an episode.
    """

    reset: Any
    step: Any
    limit: int


class JaxEnvironments(Environments):
    """Copies that JAX steps: on the device that is asked for, if JAX can compute there, else on the CPU.

    Tensors come from JAX without a copy where both compute on one device. On a GPU the host never waits:
    `final_observation` is then there in every step, as nobody asked whether an episode was truncated.

    Args:
        compiled: the environment.
        count: copies, >= 1.
        seed: of all that is random in them.
        device: where observations are wanted.
        view: see `Compiled`.
    """

    def __init__(
        self, compiled: Compiled, count: int, seed: int, device: torch.device | str, view: Any = None
    ) -> None:
        jax = needed("jax", "these environments")
        self._random, self._from_dlpack = jax.random, jax.dlpack.from_dlpack
        self.count, self.device = check_count(count), torch.device(device)
        self._compiled, self._view = compiled, view
        self.limit = compiled.limit
        self._key = self._random.PRNGKey(seed)
        place = _place(jax, self.device)
        self._on_gpu = place is not None and place.platform != "cpu"
        if place is not None:  # everything else follows the key
            self._key = jax.device_put(self._key, place)

    def reset(self) -> Tensor:
        """Begin a new episode in every copy."""
        if self._on_gpu:  # what JAX writes next may be memory that torch gave back and still reads
            torch.cuda.current_stream(self.device).synchronize()
        self._key, key = self._random.split(self._key)
        observation, self._state = self._compiled.reset(self._random.split(key, self.count), self._view)
        return self._tensor(observation)

    def step(self, actions: Tensor) -> Step:
        """Do one step in every copy."""
        numbers = actions.to(torch.int32)
        # On the CPU as an array of numpy: one that came by DLPack would be compiled for anew, and stepped
        # more slowly. On a GPU DLPack makes the streams of both libraries wait for each other; `numbers`
        # lives until torch's waits for what was made of it.
        chosen = self._from_dlpack(numbers) if self._on_gpu else numbers.cpu().numpy()
        found = self._compiled.step(self._key, self._state, chosen, self._view)
        self._key, self._state, observation, final, reward, terminated, truncated = found
        info = {"final_observation": self._tensor(final)} if self._on_gpu or truncated.any() else {}
        return Step(
            self._tensor(observation),
            self._tensor(reward),
            self._tensor(terminated),
            self._tensor(truncated),
            info,
        )

    def _tensor(self, found: Any) -> Tensor:
        return torch.utils.dlpack.from_dlpack(found).to(self.device)


def _place(jax: Any, device: torch.device) -> Any:
    """The device that JAX is to compute on; None: the one it chooses itself, the CPU."""
    if jax.default_backend() == "cpu":
        return None
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        return jax.local_devices(backend="cuda")[number]
    return jax.local_devices(backend="cpu")[0]


def compiled(
    reset_one: Callable[[Any], Any],
    step_one: Callable[[Any, Any, Any], Any],
    seen: Callable[[Any, Any], Any],
    limit: int,
) -> Compiled:
    """The functions of batches, compiled once for every number of copies, with resets at the ends.

    Args:
        reset_one: key to (observation, state).
        step_one: (key, state, action) to (observation, state, reward, terminated, truncated).
        seen: (observations, view) to what is shown.
        limit: most steps of an episode; `step_one` must truncate there.
    """
    import jax
    import jax.numpy as jnp

    def strong(states: Any) -> Any:
        # Python's numbers in a state have weak types after a reset alone: a step would be compiled twice.
        return jax.tree_util.tree_map(lambda one: jax.lax.convert_element_type(one, one.dtype), states)

    def reset(keys: Any, view: Any) -> Any:
        observations, states = jax.vmap(reset_one)(keys)
        return seen(observations, view), strong(states)

    def step(key: Any, states: Any, actions: Any, view: Any) -> Any:
        key, *both = jax.random.split(key, 3)
        stepping, resetting = (jax.random.split(one, len(actions)) for one in both)
        observations, after, rewards, terminated, cut = jax.vmap(step_one)(stepping, states, actions)
        truncated = cut & ~terminated
        ended = terminated | truncated
        first, fresh = jax.vmap(reset_one)(resetting)

        def chosen(new: Any, old: Any) -> Any:
            return jnp.where(ended.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

        states = strong(jax.tree_util.tree_map(chosen, fresh, after))
        shown, final = seen(chosen(first, observations), view), seen(observations, view)
        return key, states, shown, final, rewards.astype(jnp.float32), terminated, truncated

    return Compiled(jax.jit(reset), jax.jit(step), limit)
