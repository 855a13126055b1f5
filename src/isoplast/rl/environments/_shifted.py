"""The same task seen and acted on in another way."""

from __future__ import annotations

from torch import Tensor

from isoplast.rl.environments._environments import Environments, Step


class Shifted(Environments):
    r"""Environments whose observations are mapped, and whose discrete actions are exchanged.

    .. math:: o' = Q o + b, \qquad a = \pi(a')

    Args:
        inner: the environments.
        matrix: Q, (m, d) for observations of d numbers; None: the identity.
        offset: b, (m,); None: zero.
        actions: pi, int64 (actions.count,): which action stands for which; None: each for itself.

    Example:
        >>> from isoplast.rl import control
        >>> shifted = Shifted(control("cartpole", count=2, seed=0), offset=torch.full((4,), 10.0))
        >>> bool((shifted.reset() > 9).all())
        True
    """

    def __init__(
        self,
        inner: Environments,
        matrix: Tensor | None = None,
        offset: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> None:
        self.inner = inner
        self.count, self.device, self.limit = inner.count, inner.device, inner.limit
        self.actions = inner.actions
        self.observation_shape = inner.observation_shape if matrix is None else (len(matrix),)
        self._matrix, self._offset, self._exchange = (
            None if found is None else found.to(self.device) for found in (matrix, offset, actions)
        )

    def reset(self) -> Tensor:
        """Begin a new episode in every copy."""
        return self._shifted(self.inner.reset())

    def step(self, actions: Tensor) -> Step:
        """Do one step in every copy."""
        found = self.inner.step(actions if self._exchange is None else self._exchange[actions])
        info = dict(found.info)
        if "final_observation" in info:
            info["final_observation"] = self._shifted(info["final_observation"])
        return found._replace(observation=self._shifted(found.observation), info=info)

    def close(self) -> None:
        """Close the environments."""
        self.inner.close()

    def _shifted(self, observations: Tensor) -> Tensor:
        if self._matrix is not None:
            observations = observations @ self._matrix.T
        return observations if self._offset is None else observations + self._offset
