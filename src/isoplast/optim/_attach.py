"""The decoupled isometry step for any torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from isoplast.optim._adamo import AdamO
from isoplast.optim._apply import OWED, WAIT, State, apply_isometry_
from isoplast.optim._groups import (
    DEFAULT_ISOMETRY,
    GROUP_DEFAULTS,
    Default,
    Group,
    common_strength,
    keep_settings,
    own_settings,
    require_matrix,
    resolve_group,
)
from isoplast.optim._param_groups import param_groups
from isoplast.optim._report import IsometryReport, isometry_report
from isoplast.optim._roles import BY_SHAPE, Roles


def attach(
    optimizer: Optimizer,
    isometry: float | None = Default(DEFAULT_ISOMETRY),
    *,
    model: nn.Module | None = None,
    isometry_time: float | None = None,
    every: Literal["auto"] | int = "auto",
) -> Attachment:
    r"""Gives any torch optimizer AdamO's decoupled isometry step.

    .. math:: W_{t+1} = U(W_t, g_t) - \eta \lambda \nabla R_{iso}(W_t)

    where U is the optimizer's own update with its own learning rate :math:`\eta`: torch.optim.Muon
    becomes MuonO, SGD becomes SGDO. The settings live in the parameter groups and what is still
    owed in the parameters' state, so ``optimizer.state_dict()`` saves both and
    ``optimizer.load_state_dict()`` restores them; attach first, then load.

    Args:
        optimizer: any optimizer that evaluates its closure at most once per step. Groups may carry
            ``isometry`` or ``isometry_time`` of their own (as from :func:`isoplast.param_groups`),
            which come first.
        isometry: the strength lambda, >= 0; 0.01 if neither strength nor time is given.
        model: the module whose parameters the optimizer holds. Its layers then say what is kept isometric
            and how, as in :func:`isoplast.param_groups`; the groups stay as they are. Without it shapes
            decide: everything that can be a matrix is one.
        isometry_time: the time constant 1 / (8 lr lambda) in steps, > 0, instead of the strength.
        every: 1 for the exact step in every step, T for T steps' worth once in T steps, "auto" to
            choose T; see :class:`isoplast.AdamO`.

    Returns:
        An :class:`Attachment`: ``.remove()`` undoes it, ``.report()`` says what is kept isometric.

    Raises:
        TypeError: for something that is no optimizer.
        ValueError: for a value out of range, for both a strength and a time, if no group holds a
            matrix to keep, for matrices that are not the model's, for AdamO or an optimizer that already
            has an attachment, and for LBFGS.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 8))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> attachment = attach(sgd, isometry=1e-2, model=model)
        >>> print(attachment.report())
        1 matrix, 64 of 472 parameters under isometry, time constant 125 steps

    Reference:
        arXiv:2606.09762, Eq 20, with the base optimizer's update in Adam's place.
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"attach needs a torch optimizer, not {type(optimizer).__name__}")
    if isinstance(optimizer, AdamO):
        raise ValueError("AdamO has the isometry step built in: set isometry= there instead of attaching")
    if isinstance(optimizer, LBFGS):
        raise ValueError("LBFGS moves the weights several times inside one step; attach cannot follow it")
    if getattr(optimizer, "_isoplast_attachment", None) is not None:
        raise ValueError("this optimizer already has an attachment: remove() it first")
    defaults = {**GROUP_DEFAULTS, **common_strength(isometry, isometry_time), "isometry_every": every}
    if model is None:
        return Attachment(optimizer, defaults)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model= takes the torch module that is trained, not {type(model).__name__}")
    found = param_groups(model)
    if defaults["isometry"] != 0:
        found.require_isometric()
    return Attachment(optimizer, defaults, Roles(found.decisions))


class Attachment:
    """The tie between an optimizer and its isometry step, made by :func:`attach`.

    Copies and pickles of the optimizer do not take hooks along (torch drops them): attach again.
    """

    def __init__(self, optimizer: Optimizer, defaults: Group, roles: Roles = BY_SHAPE) -> None:
        self._optimizer = optimizer
        self._defaults = defaults
        self._roles = roles
        self._pending: dict[Tensor, State] = {}
        self._brought = [own_settings(group) for group in optimizer.param_groups]
        drafts = [{**group} for group in optimizer.param_groups]
        for draft, own in zip(drafts, self._brought, strict=True):
            resolve_group(draft, own, defaults, roles)
        require_matrix(drafts, roles)
        for group, draft in zip(optimizer.param_groups, drafts, strict=True):
            group.update({key: draft[key] for key in GROUP_DEFAULTS})
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
            optimizer.register_load_state_dict_pre_hook(self._loading),
        ]
        optimizer._isoplast_attachment = self  # type: ignore[attr-defined]

    def remove(self) -> None:
        """Detaches: the optimizer and its state are again as if nothing had ever been attached."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._settle_added()
        for group, own in zip(self._optimizer.param_groups, self._brought, strict=True):
            for key in GROUP_DEFAULTS:
                group.pop(key, None)
            group.update(own)
            for p in group["params"]:
                if p in self._optimizer.state:
                    for key in (OWED, WAIT):
                        self._optimizer.state[p].pop(key, None)
        self._optimizer._isoplast_attachment = None  # type: ignore[attr-defined]

    def follow(self, optimizer: Optimizer, new: Mapping[Tensor, Tensor]) -> Attachment:
        """Attaches to a copy of the optimizer, whose groups carry the same settings.

        Args:
            optimizer: the copy.
            new: for each parameter the one that the copy holds in its place.

        Returns:
            The copy's attachment.
        """
        return Attachment(optimizer, dict(self._defaults), self._roles.moved(new))

    def report(self) -> IsometryReport:
        """What is kept isometric: print it for one line, ``.table()`` for one line per parameter."""
        self._settle_added()
        return isometry_report(self._optimizer.param_groups, self._roles)

    def _settle_added(self) -> None:
        """Settles the groups that were added after the attachment."""
        for group in self._optimizer.param_groups[len(self._brought) :]:
            own = own_settings(group)
            resolve_group(group, own, self._defaults, self._roles)
            self._brought.append(own)

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure: Callable[[], Any] | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._apply()
            return None

        # The gradients, and the weights they belong to, exist only once the closure has run.
        def closure_then_isometry() -> Any:
            loss = closure()
            self._apply()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closure_then_isometry}
        return (args[0], closure_then_isometry, *args[2:]), kwargs

    def _apply(self) -> None:
        state = self._optimizer.state
        self._pending = {}
        self._settle_added()
        for group in self._optimizer.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            # Many optimizers initialise a parameter's state when they find it empty: what is owed
            # waits here until the step is done.
            entries = {p: dict(state[p]) if p in state else {} for p in params}
            before = {p: p.detach().clone() for p in params if "z" in entries[p]}
            found_inf = getattr(self._optimizer, "found_inf", None)
            apply_isometry_(group, params, entries, found_inf, self._roles)
            with torch.no_grad():
                for p, old in before.items():
                    # Schedule-free optimizers step z and let the weights follow it: move both alike.
                    entries[p]["z"].add_(p.detach() - old)
            self._pending.update(entries)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for p, entry in self._pending.items():
            if OWED in entry:
                optimizer.state[p][OWED], optimizer.state[p][WAIT] = entry[OWED], entry[WAIT]
        self._pending = {}

    def _loading(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        self._settle_added()
        return keep_settings(optimizer.param_groups, state_dict)
