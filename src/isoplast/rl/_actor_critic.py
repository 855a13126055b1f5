"""One network for what to do and for what to expect: policy and value side by side in its outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isoplast._core.layer_kinds import heads
from isoplast.nn import NetSpec
from isoplast.rl.environments._environments import Actions


class ActorCritic(nn.Module):
    """Outputs (n, actions + 1): logits or means of the policy, then the value.

    One tensor, so that methods and instruments treat it like any other network. A Gaussian policy has its
    spread in the parameter `log_std`, (actions,), the same in every state.

    Args:
        net: the specification of its network, or of each of two.
        observation_shape: of one observation.
        actions: what may be done.
        shared: one network for both, up to the output layer; else one for each.
        policy_gain: singular values of the policy's output layer, > 0; None leaves what `net` made.
        value_gain: the same for the value.

    Example:
        >>> from isoplast.nn import spec
        >>> network = ActorCritic(spec("mlp", width=8), (4,), Actions(2))
        >>> network(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        net: NetSpec,
        observation_shape: tuple[int, ...],
        actions: Actions,
        *,
        shared: bool = False,
        policy_gain: float | None = 0.01,
        value_gain: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.shared = shared
        count = actions.count
        if shared:
            self.network = net.make(observation_shape, count + 1)
            _scale(self.network, slice(0, count), policy_gain)
            _scale(self.network, slice(count, count + 1), value_gain)
        else:
            self.actor = net.make(observation_shape, count)
            self.critic = net.make(observation_shape, 1)
            _scale(self.actor, slice(0, count), policy_gain)
            _scale(self.critic, slice(0, 1), value_gain)
        if not actions.discrete:
            self.log_std = nn.Parameter(torch.zeros(count))

    def forward(self, observations: Tensor) -> Tensor:
        """The outputs for observations (n, *observation_shape), floating."""
        if self.shared:
            return self.network(observations)  # type: ignore[no-any-return]
        return torch.cat((self.actor(observations), self.critic(observations)), 1)


def log_std_of(network: nn.Module) -> Tensor | None:
    """The parameter `log_std` of a network with a Gaussian policy, whatever a method has put around it."""
    found = (one for name, one in network.named_parameters() if name.rpartition(".")[2] == "log_std")
    return next(found, None)


@torch.no_grad()
def _scale(network: nn.Module, rows: slice, gain: float | None) -> None:
    """Draw rows of the output layer anew: orthonormal times the gain."""
    if gain is not None:
        for head in heads(network):
            if isinstance(head.layer, nn.Linear):
                nn.init.orthogonal_(head.layer.weight[rows], gain)
