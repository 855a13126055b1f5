"""Environments of gymnasium, many copies one after the other in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoplast._core.errors import IsoplastError
from isoplast.rl.environments._environments import Actions, Environments, Step, check_count
from isoplast.rl.environments._packages import needed

# So many copies may break, one after the other, before their environment is thought to be at fault.
_MOST_RESTARTS = 100


class Gymnasium(Environments):
    """Copies of an environment with vectors of numbers as observations, flattened and padded with zeros.

    A copy that raises an error in a step is made anew: its episode counts as truncated at what was seen last,
    and `restarts` counts it. Continuous actions are cut to what the environment takes.

    Args:
        make: makes one copy.
        count: how many, >= 1.
        seed: of all that is random in them; copy i is reset with seed + i.
        device: where observations are wanted.
        title: what people call the environment.
        size: numbers of an observation, at least as many as it has; None: as many.
        choices: actions, at least as many as it has: those it lacks do its action 0, numbers that it lacks do
            nothing; None: as many.
        limit: most steps of an episode, >= 1; None: that of its registration.

    Raises:
        IsoplastError: gymnasium is not installed, the environment has other observations or actions than
            numbers, or no limit of steps.

    Example:
        >>> import gymnasium
        >>> copies = Gymnasium(lambda: gymnasium.make("CartPole-v1"), count=2, seed=0)
        >>> copies.reset().shape, copies.limit
        (torch.Size([2, 4]), 500)
    """

    def __init__(
        self,
        make: Callable[[], Any],
        count: int,
        seed: int,
        device: torch.device | str = "cpu",
        *,
        title: str = "environment",
        size: int | None = None,
        choices: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.count, self.device, self.title = check_count(count), torch.device(device), title
        self._make, self._seed = make, seed
        self._copies = [make() for _ in range(count)]
        first = self._copies[0]
        own, actions = spaces_of(first, title)
        self.observation_shape = (own if size is None else size,)
        self.actions = Actions(actions.count if choices is None else choices, actions.discrete)
        self._own = actions.count
        self.limit = _limit(first, limit, title)
        self._seen = np.zeros((count, *self.observation_shape), dtype=np.float32)
        self._time = np.zeros(count, dtype=np.int64)
        if not actions.discrete:
            self._low, self._high = first.action_space.low.ravel(), first.action_space.high.ravel()

    def reset(self) -> Tensor:
        """Begin a new episode in every copy."""
        for place, copy in enumerate(self._copies):
            self._begin(place, copy, self._seed + place)
        return self._tensor(self._seen)

    def step(self, actions: Tensor) -> Step:
        """Do one step in every copy."""
        chosen = self._fitting(actions.cpu().numpy())
        rewards = np.zeros(self.count, dtype=np.float32)
        terminated, truncated = np.zeros((2, self.count), dtype=bool)
        final = None
        for place in range(self.count):
            seen, rewards[place], terminated[place], cut = self._step(place, chosen[place])
            self._time[place] += 1
            truncated[place] = (cut or self._time[place] >= self.limit) and not terminated[place]
            if seen is not None:
                self._put(place, seen)
            if truncated[place] and final is None:
                final = self._seen.copy()
            elif final is not None:
                final[place] = self._seen[place]
            if terminated[place] or truncated[place]:
                self._begin(place, self._copies[place], None)
        info = {} if final is None else {"final_observation": self._tensor(final)}
        return Step(
            self._tensor(self._seen),
            torch.from_numpy(rewards).to(self.device),
            torch.from_numpy(terminated).to(self.device),
            torch.from_numpy(truncated).to(self.device),
            info,
        )

    def close(self) -> None:
        """Close all copies."""
        for copy in self._copies:
            copy.close()

    def _step(self, place: int, action: Any) -> tuple[Any, float, bool, bool]:
        try:
            seen, reward, terminated, truncated, _ = self._copies[place].step(action)
        except Exception as error:  # whatever somebody's environment raises
            self._restart(place, error)
            return None, 0.0, False, True
        return seen, float(reward), bool(terminated), bool(truncated)

    def _restart(self, place: int, error: Exception) -> None:
        self.restarts += 1
        if self.restarts > _MOST_RESTARTS:
            raise IsoplastError(
                f"{self.title} has failed {self.restarts} times, at last with {type(error).__name__}: {error}"
            ) from error
        with contextlib.suppress(Exception):  # it is broken already
            self._copies[place].close()
        self._copies[place] = self._make()
        self._copies[place].reset(seed=self._seed + self.count * self.restarts + place)

    def _begin(self, place: int, copy: Any, seed: int | None) -> None:
        seen, _ = copy.reset(seed=seed)
        self._put(place, seen)
        self._time[place] = 0

    def _put(self, place: int, seen: Any) -> None:
        numbers = np.asarray(seen, dtype=np.float32).ravel()
        self._seen[place, : len(numbers)] = numbers

    def _fitting(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Actions as the environment takes them."""
        if self.actions.discrete:
            return np.where(actions < self._own, actions, 0)
        shape = (self.count, *self._copies[0].action_space.shape)
        cut: npt.NDArray[Any] = np.clip(actions[:, : self._own], self._low, self._high)
        return cut.reshape(shape)

    def _tensor(self, found: npt.NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(found.copy()).to(self.device)


def spaces_of(environment: Any, title: str) -> tuple[int, Actions]:
    """How many numbers an observation of a gymnasium environment has, and its actions.

    Raises:
        IsoplastError: its observations are no arrays of numbers, or its actions neither one of some nor such
            an array.
    """
    spaces = needed("gymnasium.spaces", title)
    seen, done = environment.observation_space, environment.action_space
    if not isinstance(seen, spaces.Box):
        raise IsoplastError(
            f"{title} has observations {type(seen).__name__}, which are no array of numbers (Box): "
            "wrap it in gymnasium's FlattenObservation"
        )
    size = int(np.prod(seen.shape))
    if isinstance(done, spaces.Discrete) and done.start == 0:
        return size, Actions(int(done.n))
    if isinstance(done, spaces.Box):
        return size, Actions(int(np.prod(done.shape)), discrete=False)
    raise IsoplastError(f"{title} has actions {done}: they must be Discrete, from 0, or Box")


def _limit(environment: Any, limit: int | None, title: str) -> int:
    registered = getattr(environment.spec, "max_episode_steps", None)
    found = registered if limit is None else limit
    if found is None:
        raise IsoplastError(f"{title} has no limit of steps for an episode: set one with limit")
    if found < 1:
        raise IsoplastError(f"limit of {title} is {found}: it must be at least 1")
    return int(found)
