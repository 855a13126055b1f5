"""How much an update changes what an agent does and expects where it was not trained."""

from __future__ import annotations

from torch import Tensor


def churn(
    before: Tensor, after: Tensor, log_std: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    r"""The churn of an update: of the policy in nats, and of the value.

    .. math:: E_s\, KL(\pi_{before}(\cdot|s) \,\|\, \pi_{after}(\cdot|s)), \qquad
              \sqrt{E_s (V_{after}(s) - V_{before}(s))^2}

    Args:
        before, after: outputs on the same observations, (n, actions + 1): the policy's logits or means, then
            the value.
        log_std: that of a Gaussian policy before and after, (actions,) each; None for discrete actions.

    Returns:
        Both as tensors of shape ().

    Example:
        >>> import torch
        >>> policy, value = churn(torch.zeros(4, 3), torch.tensor([[0.0, 0.0, 2.0]]).expand(4, 3))
        >>> policy.item(), value.item()
        (0.0, 2.0)

    Reference:
        Tang and Berseth, arXiv:2409.04792 (policy and value churn).
    """
    old, new = before[:, :-1].double(), after[:, :-1].double()
    if log_std is None:
        old, new = old.log_softmax(1), new.log_softmax(1)
        divergence = (old.exp() * (old - new)).sum(1)
    else:
        wide, other = (one.double() for one in log_std)
        moved = ((2 * wide).exp() + (old - new).square()) / (2 * (2 * other).exp())
        divergence = (other - wide + moved - 0.5).sum(1)
    value = (after[:, -1].double() - before[:, -1].double()).square().mean().sqrt()
    return divergence.mean(), value


def q_churn(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    r"""The churn of an update of action values: how many greedy actions change, and how far the values move.

    .. math:: P_s\big(\arg\max_a Q_{before}(s, a) \ne \arg\max_a Q_{after}(s, a)\big), \qquad
              \sqrt{E_{s, a} (Q_{after}(s, a) - Q_{before}(s, a))^2}

    Args:
        before, after: values of the actions on the same observations, (n, actions).

    Returns:
        Both as tensors of shape ().

    Example:
        >>> import torch
        >>> before, after = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 2.0], [0.0, 1.0]])
        >>> action, value = q_churn(before, after)
        >>> action.item(), value.item()
        (0.5, 1.0)

    Reference:
        Tang and Berseth, arXiv:2409.04792 (the churn of the greedy action and of the values).
    """
    flips = (before.argmax(1) != after.argmax(1)).double()
    return flips.mean(), (after.double() - before.double()).square().mean().sqrt()
