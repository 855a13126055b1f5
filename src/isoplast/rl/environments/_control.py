"""Two classic problems of control, as batches of tensors."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from isoplast._core.errors import unknown
from isoplast.rl.environments._environments import Actions, Environments, Step, check_count


class Control(Environments):
    """A system with a few numbers as its state; its whole state can be saved.

    Args:
        count: copies, >= 1.
        seed: of the states that episodes begin in.
        device: where the states are.
    """

    limit: int = 500
    size: ClassVar[int] = 4  # numbers of a state
    start: ClassVar[float]  # they begin uniform in [-start, start]

    def __init__(self, count: int, seed: int, device: torch.device | str = "cpu") -> None:
        self.count = check_count(count)
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._state = self._starts()
        self._time = torch.zeros(count, dtype=torch.int64, device=self.device)

    def reset(self) -> Tensor:
        """Begin a new episode in every copy."""
        self._state, self._time = self._starts(), torch.zeros_like(self._time)
        return self.observe(self._state)

    def step(self, actions: Tensor) -> Step:
        """Do one step in every copy."""
        state, reward, terminated = self.move(self._state, actions)
        self._time = self._time + 1
        ended = terminated | (self._time >= self.limit)
        truncated = ended & ~terminated
        self._state = torch.where(ended[:, None], self._starts(), state)
        self._time = self._time * ~ended
        info = {"final_observation": self.observe(state)} if truncated.any() else {}
        return Step(self.observe(self._state), reward, terminated, truncated, info)

    def state(self) -> dict[str, Tensor]:
        """All that decides how the copies go on."""
        return {"state": self._state, "time": self._time, "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> Tensor:
        """Go back to what `state` returned; returns the observations of then."""
        self._state, self._time = state["state"].to(self.device), state["time"].to(self.device)
        self._generator.set_state(state["generator"].cpu())
        return self.observe(self._state)

    def _starts(self) -> Tensor:
        shape = (self.count, self.size)
        return (torch.rand(shape, generator=self._generator, device=self.device) * 2 - 1) * self.start

    @abstractmethod
    def move(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The dynamics: states (n, 4) and actions (n,) to the next states, rewards and ends."""

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """The observations of states."""


class CartPole(Control):
    """A pole on a cart, to be kept upright by pushes to the left (0) or right (1); reward 1 a step.

    An observation is (position, velocity, angle, angular velocity). The episode ends where the cart leaves
    +-2.4, the pole +-12 degrees, and after 500 steps.

    Example:
        >>> environments = CartPole(count=3, seed=0)
        >>> environments.reset().shape, environments.step(torch.ones(3, dtype=torch.int64)).reward
        (torch.Size([3, 4]), tensor([1., 1., 1.]))

    Reference:
        Barto, Sutton and Anderson, 1983; the constants of gymnasium's CartPole-v1.
    """

    observation_shape = (4,)
    actions = Actions(2)
    start = 0.05

    def move(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Euler's step of 0.02 s under a force of 10 N; masses 1 and 0.1 kg, half a pole 0.5 m."""
        position, velocity, angle, spin = state.unbind(1)
        force = actions.to(state.dtype) * 20 - 10
        sine, cosine = angle.sin(), angle.cos()
        pushed = (force + 0.05 * spin * spin * sine) / 1.1
        turned = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine * cosine / 1.1))
        moved = pushed - 0.05 * turned * cosine / 1.1
        after = torch.stack((velocity, moved, spin, turned), 1).mul_(0.02).add_(state)
        bounds = state.new_tensor((2.4, 12 * math.pi / 180))
        terminated = (after[:, ::2].abs() > bounds).any(1)
        return after, torch.ones_like(position), terminated

    def observe(self, state: Tensor) -> Tensor:
        """The state itself."""
        return state


class Acrobot(Control):
    """Two links, of which the joint between them is turned (-1, 0 or +1 Nm), to swing the end up; -1 a step.

    An observation is cosine and sine of both angles, and both angular velocities. The episode ends where the
    end is one link above the support, and after 500 steps.

    Example:
        >>> Acrobot(count=3, seed=0).reset().shape
        torch.Size([3, 6])

    Reference:
        Sutton, 1996, with the equations of motion of Sutton and Barto's book; gymnasium's Acrobot-v1.
    """

    observation_shape = (6,)
    actions = Actions(3)
    start = 0.1

    def move(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the classical Runge-Kutta method over 0.2 s."""
        torque = actions.to(state.dtype) - 1
        h = 0.2
        first = _acrobot_flow(state, torque)
        second = _acrobot_flow(state + h / 2 * first, torque)
        third = _acrobot_flow(state + h / 2 * second, torque)
        fourth = _acrobot_flow(state + h * third, torque)
        after = state + h / 6 * (first + 2 * second + 2 * third + fourth)
        angles = torch.remainder(after[:, :2] + math.pi, 2 * math.pi) - math.pi
        most = state.new_tensor((4 * math.pi, 9 * math.pi))
        after = torch.cat((angles, after[:, 2:].clamp(-most, most)), 1)
        terminated = -angles[:, 0].cos() - angles.sum(1).cos() > 1
        return after, terminated.to(state.dtype) - 1, terminated

    def observe(self, state: Tensor) -> Tensor:
        """(cos 1, sin 1, cos 2, sin 2, spin 1, spin 2)."""
        cosines, sines = state[:, :2].cos(), state[:, :2].sin()
        return torch.cat((torch.stack((cosines, sines), 2).flatten(1), state[:, 2:]), 1)


def _acrobot_flow(state: Tensor, torque: Tensor) -> Tensor:
    """The time derivative of (angle 1, angle 2, spin 1, spin 2): masses, lengths and inertias 1, g = 9.8."""
    angle1, angle2, spin1, spin2 = state.unbind(1)
    cosine2, sine2 = angle2.cos(), angle2.sin()
    d1 = 3.5 + cosine2
    d2 = 1.25 + 0.5 * cosine2
    gravity2 = 4.9 * (angle1 + angle2 - math.pi / 2).cos()
    gravity1 = -0.5 * spin2 * sine2 * (spin2 + 2 * spin1) + 14.7 * (angle1 - math.pi / 2).cos() + gravity2
    pulled = torque + d2 / d1 * gravity1 - 0.5 * spin1 * spin1 * sine2 - gravity2
    turned2 = pulled / (1.25 - d2 * d2 / d1)
    turned1 = -(d2 * turned2 + gravity1) / d1
    return torch.stack((spin1, spin2, turned1, turned2), 1)


CONTROL: dict[str, type[Control]] = {"acrobot": Acrobot, "cartpole": CartPole}


def control(name: str, count: int, seed: int, device: torch.device | str = "cpu") -> Control:
    """Copies of a problem of control.

    Args:
        name: "acrobot" or "cartpole".
        count, seed, device: see `Control`.

    Raises:
        IsoplastError: for another name, or fewer than one copy.
    """
    if name not in CONTROL:
        raise unknown("environment of control", name, CONTROL)
    return CONTROL[name](count, seed, device)
