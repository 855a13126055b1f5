"""L2-ER: small weights and features of high effective rank."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import Optimizer

from isoplast.isometry import effective_rank
from isoplast.methods._protocol import Inputs, MethodInfo
from isoplast.methods._registry import register
from isoplast.methods._tools._checks import at_least
from isoplast.methods._tools._execution import executed
from isoplast.methods._tools._features import FeatureMethod
from isoplast.methods._tools._penalised import penalised, quadratic

# Below this share of the largest a singular value counts as zero. The Gram matrix holds their squares in
# double precision, the root of whose rounding is 1.5e-8.
_SMALLEST = 1e-7


@register
@dataclasses.dataclass(frozen=True)
class L2ER(FeatureMethod):
    r"""Adam with L2 regularisation and a reward for the effective rank of the features.

    .. math:: L(\theta) + \tfrac{\lambda}{2} \|\theta\|^2 - \mu \frac{1}{L} \sum_l \text{erank}(\Phi_l),
              \qquad \text{erank}(\Phi) = \exp\Bigl(-\sum_i p_i \log p_i\Bigr),
              \quad p_i = \sigma_i / \textstyle\sum_j \sigma_j

    with the features Phi_l (rows, d_l), the input of layer l, for every layer behind the first: the factors
    of the Hessian's Kronecker approximation that come from the forward pass.

    Args:
        strength: lambda, >= 0.
        rank_strength: mu, >= 0. At 0 this is the method `l2`.

    Deviations: the paper's strengths are not known to us; the defaults are ours (lambda as in `l2`; mu so
    that a rank of 100 weighs 0.1 of a unit of loss). Positions of images and tokens are rows of Phi.

    Reference:
        Prakash et al., "Spectral collapse drives loss of plasticity in deep continual learning",
        arXiv:2509.22335; the effective rank is that of Roy and Vetterli, EUSIPCO 2007.
    """

    name: ClassVar[str] = "l2er"
    info: ClassVar[MethodInfo] = MethodInfo(
        title="L2-ER",
        source="Prakash et al., arXiv:2509.22335",
        controls="the effective rank of the features, and the mean square of the singular values (towards 0)",
        spectrum="mean square",
        family="initial state",
        cost="a Gram matrix of the features of each layer in double precision, and its eigenvectors",
        strength="rank_strength",
        base="l2",
    )

    strength: float = 1e-4
    rank_strength: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0.0, "strength", "rank_strength")

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Watch the input of every linear layer and convolution but the first."""
        if self.rank_strength > 0:
            layers = [model.get_submodule(name) for name in executed(model)]
            kinds = (nn.Linear, nn.modules.conv._ConvNd)
            self.tap([layer for layer in layers if isinstance(layer, kinds)][1:])

    def penalty(self, model: nn.Module, inputs: Inputs) -> Tensor | None:
        """Return the L2 term less the reward for rank."""
        l2 = None if self.strength == 0 else quadratic(penalised(model), None, self.strength)
        if self.rank_strength == 0:
            return l2
        ranks = [feature_rank(features) for features in self.features()]
        reward = self.rank_strength * torch.stack(ranks).mean()
        return -reward if l2 is None else l2 - reward


def feature_rank(features: Tensor) -> Tensor:
    r"""The effective rank of a matrix of features, differentiable once.

    .. math:: \nabla\, \text{erank} = \sum_i \frac{\partial\, \text{erank}}{\partial \sigma_i}\, u_i v_i^\top

    From the eigenvectors of the smaller Gram matrix, in double precision: on tall features ten times as
    fast as a singular value decomposition. Singular values that are zero to rounding get no gradient.

    Args:
        features: shape (rows, features).

    Returns:
        `isoplast.isometry.effective_rank` of the singular values, shape (), in the features' precision.

    Example:
        >>> feature_rank(torch.eye(5)).round()
        tensor(5.)
    """
    value: Tensor = _FeatureRank.apply(features)  # type: ignore[no-untyped-call]
    return value


class _FeatureRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        matrix = features.double()
        tall = matrix.shape[0] >= matrix.shape[1]
        squares, vectors = torch.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
        singular = squares.clamp_min(0).sqrt()
        kept = singular > _SMALLEST * singular[-1]
        with torch.enable_grad():
            # Something above zero for those that are left out: the slope of the rank is infinite at zero.
            positive = torch.where(kept, singular, torch.finfo(singular.dtype).tiny).requires_grad_()
            rank = effective_rank(positive)
            (slopes,) = torch.autograd.grad(rank, positive)
        weight = torch.where(kept, slopes / positive, 0.0).detach()
        inner = (vectors * weight) @ vectors.T
        ctx.tall = tall
        ctx.save_for_backward(features, inner.to(features.dtype))
        return torch.where(kept.any(), rank.detach(), 0.0).to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        features, inner = ctx.saved_tensors
        slope: Tensor = features @ inner if ctx.tall else inner @ features
        return gradient * slope
