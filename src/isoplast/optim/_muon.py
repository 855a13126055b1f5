"""Muon for the hidden matrices and Adam for everything else, as one optimizer."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.isometry import matrix_views
from isoplast.model import decide
from isoplast.optim._numbers import plain, plain_settings, plain_state_dict
from isoplast.optim._param_groups import param_groups

AdjustLR = Literal["original", "match_rms_adamw"]


def muon_with_adam(
    model: nn.Module,
    lr: float,
    *,
    momentum: float = 0.95,
    nesterov: bool = True,
    weight_decay: float = 0.0,
    ns_steps: int = 5,
    adjust_lr: AdjustLR = "match_rms_adamw",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> MuonWithAdam:
    r"""Return torch.optim.Muon for the hidden matrices and torch.optim.Adam for the rest of a model.

    .. math:: B \leftarrow \mu B + (1 - \mu) g, \qquad
              W \leftarrow (1 - \eta\,wd) W - \eta\,s\,\mathrm{NS}_5(\mu B + (1 - \mu) g)

    with NS_5 five Newton-Schulz iterations towards the polar factor, and s = 0.2 sqrt(max(out, in)), which
    gives an update the size of Adam's, so that one learning rate serves both, or s = sqrt(max(1, out / in)).

    Hidden matrices are those that :func:`isoplast.param_groups` finds, without the head: convolution
    kernels as (out, in*k*k), every matrix of a fused projection by itself. Embeddings, norms, biases and
    the head are Adam's.

    Args:
        model: any module.
        lr: the learning rate of both, >= 0.
        momentum: mu, in [0, 1).
        nesterov: whether the update looks ahead, as above, or is NS_5(B).
        weight_decay: decoupled, on the hidden matrices, >= 0.
        ns_steps: Newton-Schulz iterations, >= 1.
        adjust_lr: which s: "match_rms_adamw" or "original".
        betas: Adam's.
        eps: Adam's.

    Raises:
        IsoplastError: for a model without hidden matrices, and for a torch older than 2.9.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [(group["muon"], len(group["params"])) for group in muon_with_adam(model, 1e-3).param_groups]
        [(True, 1), (False, 1), (False, 2)]

    Reference:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024;
        Liu et al., "Muon is scalable for LLM training", arXiv:2502.16982 (the size of the update).
    """
    hidden = {decision.name for decision in decide(model) if decision.role == "matrix"}
    groups = []
    for found in param_groups(model):
        for muon in (True, False):
            params = [(name, p) for name, p in found["params"] if (name in hidden) is muon]
            if params:
                groups.append({**found, "params": params, "muon": muon})
    if not any(group["muon"] for group in groups):
        raise IsoplastError(f"{type(model).__name__} has no hidden weight matrix for Muon: use adam")
    muon_settings = {
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "ns_steps": ns_steps,
        "adjust_lr_fn": adjust_lr,
    }
    return MuonWithAdam(groups, lr=lr, muon=muon_settings, adam={"betas": betas, "eps": eps, "fused": True})


class MuonWithAdam(Optimizer):
    """The two optimizers of :func:`muon_with_adam` behind one interface; state is kept in torch's own keys.

    Args:
        params: parameter groups. One with ``muon=True`` may hold matrices only, seen as its
            ``isometry_split`` and ``isometry_batch_dims`` say; others are Adam's.
        lr: the learning rate of groups that bring none.
        muon: settings of torch.optim.Muon for its groups.
        adam: settings of torch.optim.Adam for the others.
    """

    def __init__(
        self, params: Iterable[dict[str, Any]], lr: float, muon: dict[str, Any], adam: dict[str, Any]
    ) -> None:
        probe = torch.zeros(2, 2)
        lr, muon, adam = plain(lr), plain_settings(muon), plain_settings(adam)
        muons = {**_muon_class()([probe], lr=lr, **muon).defaults, "muon": True}
        adams = {**torch.optim.Adam([probe], lr=lr, **adam).defaults, "muon": False}
        groups = [{**(muons if group.get("muon") else adams), **plain_settings(group)} for group in params]
        super().__init__(groups, {**muons, **adams})  # of groups that are added later

    # Copies and pickles of an optimizer keep none of its attributes: these are made when they are needed.
    @functools.cached_property
    def _muon(self) -> Optimizer:
        return _muon_class()([torch.zeros(2, 2)])

    @functools.cached_property
    def _adam(self) -> Optimizer:
        return torch.optim.Adam([torch.zeros(1)])

    def state_dict(self) -> dict[str, Any]:
        """The state of both, with plain numbers as settings."""
        return plain_state_dict(super().state_dict())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._step_matrices(group)
        self._adam.param_groups = [group for group in self.param_groups if not group["muon"]]
        self._adam.state = self.state
        self._adam.step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """Muon knows 2-d parameters only: show it the matrices inside ours, and inside their momentum."""
        shown: dict[Tensor, list[Tensor]] = {}
        self._muon.state = defaultdict(dict)
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if "momentum_buffer" not in state:  # contiguous, so that views of it share its memory
                state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
            shown[p] = _matrices(p.detach(), group)
            gradients, buffers = _matrices(p.grad, group), _matrices(state["momentum_buffer"], group)
            for matrix, gradient, buffer in zip(shown[p], gradients, buffers, strict=True):
                matrix.grad = gradient
                self._muon.state[matrix]["momentum_buffer"] = buffer
        self._muon.param_groups = [{**group, "params": [m for found in shown.values() for m in found]}]
        self._muon.step()
        for p, matrices in shown.items():
            if matrices[0].data_ptr() != p.data_ptr():  # a channels-last kernel: these are copies
                p.copy_(torch.cat([matrix.flatten() for matrix in matrices]).view(p.shape))


def _matrices(tensor: Tensor, group: dict[str, Any]) -> list[Tensor]:
    split, batch_dims = group.get("isometry_split", 1), group.get("isometry_batch_dims", 0)
    views = matrix_views(tensor, batch_dims=batch_dims, split=split)
    return [matrix for view in views for matrix in view.reshape(-1, *view.shape[-2:]).unbind()]


def _muon_class() -> Callable[..., Optimizer]:
    found: Callable[..., Optimizer] | None = getattr(torch.optim, "Muon", None)
    if found is None:
        raise IsoplastError(f"Muon came with torch 2.9, and this is torch {torch.__version__}: update torch")
    return found
