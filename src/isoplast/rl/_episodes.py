"""Returns of episodes, in training and in evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from isoplast.rl.environments._environments import Environments


class Episodes:
    """Adds up the rewards of episodes that may go on from one rollout to the next.

    Args:
        count: copies of the environment.
        device: where the rewards are.
    """

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self._carried = torch.zeros(count, dtype=torch.float64, device=device)
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def add(self, rewards: Tensor, ended: Tensor) -> None:
        """Take in a rollout.

        Args:
            rewards: (T, n).
            ended: (T, n), bool: terminated or truncated.
        """
        totals = rewards.double().cumsum(0) + self._carried
        # What each copy had when its episode before ended: the total at the latest end above, else 0.
        steps = torch.arange(len(totals), device=totals.device)[:, None].expand_as(totals)
        latest = torch.where(ended, steps, -1).cummax(0).values
        at_end = torch.where(latest >= 0, totals.gather(0, latest.clamp_min(0)), 0.0)
        before = torch.cat((torch.zeros_like(at_end[:1]), at_end[:-1]))
        returns = torch.where(ended, totals - before, 0.0)
        self._sums.append(torch.stack((returns.sum(), ended.sum().double())))
        self._carried = totals[-1] - at_end[-1]

    def mean(self) -> float | None:
        """The mean return of all episodes that ended; None before one has."""
        return self.curve(1)[0]

    def curve(self, points: int) -> list[float | None]:
        """The mean return of the episodes that ended in each of some equal parts of what was taken in."""
        if not self._sums:
            return [None] * points
        sums = torch.stack(self._sums).cpu()
        parts = torch.tensor_split(sums, points)
        found = (part.sum(0).tolist() if len(part) else (0.0, 0.0) for part in parts)
        return [total / episodes if episodes else None for total, episodes in found]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One episode in every copy.

    Args:
        returns: (n,), float64.
        lengths: steps of each, (n,), int64.
        observations: some of those that were seen, at most as many as were asked for.
    """

    returns: Tensor
    lengths: Tensor
    observations: Tensor


@torch.no_grad()
def evaluate(
    environments: Environments, policy: Callable[[Tensor], Tensor], *, observations: int = 0
) -> Evaluation:
    """Play one episode in every copy.

    Args:
        environments: fresh ones; the episodes begin with a reset.
        policy: observations (n, ...) to actions.
        observations: how many observations to give back, spread evenly over the copies and their episodes.
    """
    seen = environments.reset()
    returns = torch.zeros(environments.count, dtype=torch.float64, device=environments.device)
    lengths = torch.zeros(environments.count, dtype=torch.int64, device=environments.device)
    going = torch.ones_like(lengths, dtype=torch.bool)
    kept: list[Tensor] = []
    stride = 1  # every such step's observations are kept, fewer and fewer: all would fill the memory
    for step in range(environments.limit):
        if observations and step % stride == 0:
            kept.append(seen[going])
            if sum(map(len, kept)) > 8 * observations:
                kept, stride = kept[::2], 2 * stride
        seen, reward, terminated, truncated, _ = environments.step(policy(seen))
        returns += reward * going
        lengths += going
        going &= ~(terminated | truncated)
        if not going.any():
            break
    found = torch.cat(kept) if kept else seen[:0]
    if len(found) > observations:
        rows = torch.linspace(0, len(found) - 1, observations, dtype=torch.float64).long()
        found = found[rows.to(found.device)]
    return Evaluation(returns, lengths, found)
