"""The isometry penalty of a whole model, and its projection onto isometric weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from isoplast._core.errors import IsoplastError
from isoplast.isometry import edit_matrices_, is_matrix, matrix_views, penalty, polar_factor
from isoplast.model import decide

Target = nn.Module | Tensor | Iterable[Tensor]


def isometry_penalty(target: Target) -> Tensor:
    r"""The isometry penalty of a model, summed over its weight matrices: for a loss.

    .. math:: \sum_l R_{iso}(W_l), \qquad R_{iso}(W) = \sum_i (\sigma_i(W)^2 - 1)^2

    ``loss + 1e-3 * isometry_penalty(model)`` is the paper's coupled objective. AdamO takes the same
    pull outside Adam's moments, where its strength does not depend on the task's gradients.

    Args:
        target: a module (the matrices that :func:`isoplast.param_groups` would keep isometric), or
            a tensor or tensors (those of them that are matrices; convolution kernels flattened).

    Returns:
        A 0-d tensor >= 0, differentiable; zero if there is no matrix.

    Example:
        >>> isometry_penalty(torch.ones(2, 2))
        tensor(10.)

    Reference:
        arXiv:2606.09762, Eq 16 and 18.
    """
    found = [
        penalty(view).sum()
        for _, tensor, layout in _targets(target)
        for view in matrix_views(tensor, **layout)
    ]
    return torch.stack(found).sum() if found else torch.zeros(())


@torch.no_grad()
def orthogonalize_(target: Target) -> float:
    r"""Replaces every weight matrix by the nearest isometry, in place.

    .. math:: W \leftarrow U V^T \ \text{for} \ W = U \Sigma V^T

    For a network that no longer learns: it acts at once, while AdamO keeps the network there. Biases and
    the optimizer's state stay as they are.

    Args:
        target: as for :func:`isometry_penalty`.

    Returns:
        The distance moved, in the Frobenius norm over all matrices together.

    Raises:
        IsoplastError: if a weight is not finite (nothing is changed then).

    Example:
        >>> layer = torch.nn.Linear(8, 8)
        >>> distance = orthogonalize_(layer)
        >>> torch.linalg.svdvals(layer.weight.detach()).allclose(torch.ones(8))
        True

    Reference:
        The projection of FIRE (Han et al. 2026) without its scale; arXiv:2606.09762, section 5.
    """
    found = _targets(target)
    for name, tensor, _ in found:
        if not bool(tensor.isfinite().all()):
            raise IsoplastError(
                f"{name} holds a non-finite value: restore the weights from before, then retry"
            )
    moved = 0.0

    def project_(view: Tensor) -> None:
        nonlocal moved
        factor = polar_factor(view)
        moved += float((factor - view).float().square().sum())
        view.copy_(factor)

    for _, tensor, layout in found:
        edit_matrices_(tensor, project_, **layout)
    return float(moved**0.5)


def _targets(target: Target) -> list[tuple[str, Tensor, dict[str, Any]]]:
    """Name, tensor and layout (the keywords of matrix_views) of every matrix parameter."""
    if isinstance(target, nn.Module):
        kept = [d for d in decide(target) if d.isometric]
        return [(d.name, d.parameter, d.layout) for d in kept]
    tensors = [target] if isinstance(target, Tensor) else list(target)
    return [(f"tensor {i}", t, {}) for i, t in enumerate(tensors) if is_matrix(t)]
