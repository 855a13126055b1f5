"""The decoupled isometry step for any torch optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast.optim._apply import decay_biases_, do_work_, isometry_work
from isoplast.optim._groups import (
    DEFAULT_ISOMETRY,
    GROUP_DEFAULTS,
    Default,
    Group,
    common_strength,
    own_settings,
    require_learning_rate,
    require_matrix,
    resolve_group,
)
from isoplast.optim._load import fitting
from isoplast.optim._numbers import plain_state_dict
from isoplast.optim._param_groups import param_groups
from isoplast.optim._report import IsometryReport, isometry_report, warn_of_decay
from isoplast.optim._roles import BY_SHAPE, Roles
from isoplast.optim._turns import OWED, WAIT, Schedule
from isoplast.optim._wrappers import chain

# What optimizers keep beside the weights and place them by: z, which schedule-free ones step and average,
# and the first weights, from which dual averaging (MADGRAD, D-Adaptation's AdaGrad and SGD) counts all its
# updates and Prodigy measures the distance. All of them move as the weights do, or would undo the step.
_SECOND_SEQUENCES = ("z", "x0", "p0")


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
        optimizer: any optimizer whose groups have a learning rate. Of one that wraps another (Accelerate's,
            Lookahead, sharpness-aware minimisation) the inner one is taken. Where a group has a ``d``, as
            in D-Adaptation and Prodigy, :math:`\eta` is lr * d. Groups may carry ``isometry`` or
            ``isometry_time`` of their own (as from :func:`isoplast.param_groups`), which come first.
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
        TypeError: for something that is no optimizer, or one that calls none of torch's step hooks.
        ValueError: for a value out of range, for both a strength and a time, if no group holds a
            matrix to keep or a group has no learning rate, for matrices that are not the model's, for
            AdamO or an optimizer that already has an attachment, and for LBFGS, TRAC and others that would
            undo the step. The optimizer is then as it was.

    Note:
        The step is taken before the optimizer's own, at the same weights. It is taken after it, at the
        weights that it leaves, where a closure is given to an optimizer that is not torch's own (it may
        evaluate the closure at other weights and put the old ones back), and where the gradients can be
        differentiated again (AdaHessian, SophiaH), which a change of the weights would prevent.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 8))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> attachment = attach(sgd, isometry=1e-2, model=model)
        >>> print(attachment.report())
        1 matrix, 64 of 472 parameters under isometry, time constant 125 steps

    Reference:
        arXiv:2606.09762, Eq 20, with the base optimizer's update in Adam's place.
    """
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
        self._chain = chain(optimizer)
        self._optimizer: Optimizer = self._chain[-1]
        self._defaults = defaults
        self._schedule = Schedule(roles)
        self._after_step: Callable[[], None] | None = (
            None  # what waits until the optimizer's own step is over
        )
        # Before torch 2.7 the groups of AdamW do not say so.
        self._decoupled = isinstance(self._optimizer, torch.optim.AdamW)
        groups = self._optimizer.param_groups
        if any(getattr(o, "_isoplast_attachment", None) is not None for o in self._chain):
            raise ValueError("this optimizer already has an attachment: remove() it first")
        self._brought = [own_settings(group) for group in groups]
        drafts = [{**group} for group in groups]
        for draft, own in zip(drafts, self._brought, strict=True):
            self._resolve(draft, own)
        require_matrix(drafts, roles)
        for group, draft in zip(groups, drafts, strict=True):
            group.update({key: draft[key] for key in GROUP_DEFAULTS})
        self._hooks = [
            self._optimizer.register_step_pre_hook(self._before),
            self._optimizer.register_step_post_hook(self._after),
            self._optimizer.register_load_state_dict_pre_hook(self._loading),
            self._optimizer.register_load_state_dict_post_hook(self._loaded),
            self._optimizer.register_state_dict_post_hook(self._saved),
        ]
        self._schedule.expect(groups)
        for link in self._chain:
            link._isoplast_attachment = self
        warn_of_decay(groups, roles, self._decoupled)

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
        for link in self._chain:
            link._isoplast_attachment = None

    def follow(self, optimizer: Optimizer, new: Mapping[Tensor, Tensor], *, keep: bool) -> Attachment:
        """Attaches to a copy of the optimizer, whose groups carry the same settings.

        Args:
            optimizer: the copy.
            new: for each parameter the one that the copy holds in its place.
            keep: whether the copy came with the state, and what is owed comes along.

        Returns:
            The copy's attachment.
        """
        follower = Attachment(optimizer, dict(self._defaults), self._schedule.roles.moved(new))
        if keep:
            for p, entry in self._schedule.owed():
                if p in new:
                    follower._optimizer.state[new[p]].update(entry)
        return follower

    def report(self) -> IsometryReport:
        """What is kept isometric: print it for one line, ``.table()`` for one line per parameter."""
        self._settle_added()
        return isometry_report(self._optimizer.param_groups, self._schedule.roles, self._decoupled)

    def _resolve(self, group: Group, own: Group) -> None:
        require_learning_rate(group, type(self._optimizer).__name__)
        resolve_group(group, own, self._defaults, self._schedule.roles)

    def _settle_added(self) -> None:
        """Settles the groups that were added after the attachment."""
        for group in self._optimizer.param_groups[len(self._brought) :]:
            own = own_settings(group)
            self._resolve(group, own)
            self._brought.append(own)

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._after_step = None
        self._settle_added()
        closure: Callable[[], Any] | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._act(self._with_gradient())
            return None
        at_once = type(optimizer).__module__.partition(".")[0] in ("torch", "isoplast")

        # The gradients exist only once the closure has run.
        def closure_then_isometry() -> Any:
            loss = closure()
            gradients = self._with_gradient()
            if at_once:
                self._act(gradients)
            else:
                self._after_step = functools.partial(self._act, gradients, now=True)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": closure_then_isometry}
        return (args[0], closure_then_isometry, *args[2:]), kwargs

    def _with_gradient(self) -> list[list[Tensor]]:
        return [[p for p in group["params"] if p.grad is not None] for group in self._optimizer.param_groups]

    def _act(self, gradients: list[list[Tensor]], *, now: bool = False) -> None:
        """Takes a step with the parameters of each group that have a gradient, or, unless now, leaves what
        there is to do for later if the optimizer is about to differentiate its gradients."""
        found_inf = next(
            (o.found_inf for o in self._chain if getattr(o, "found_inf", None) is not None), None
        )
        schedule, work = self._schedule, []
        for index, group in enumerate(self._optimizer.param_groups):
            params = gradients[index]
            biases = schedule.roles.biases(params) if group["bias_decay"] > 0 else []
            todo = []
            if group["isometry"] > 0:
                todo = isometry_work(schedule, index, group, params, self._optimizer.state, found_inf)
            if todo or biases:
                work.append((group, todo, biases))
        if not work:
            return

        def do() -> None:
            follow = self._second_sequences if any(self._with_second_sequence()) else None
            for group, todo, biases in work:
                decay_biases_(group, biases, found_inf, follow)
                do_work_(todo, group, schedule, follow)

        if not now and any(p.grad is not None and p.grad.requires_grad for ps in gradients for p in ps):
            self._after_step = do
        else:
            do()

    def _with_second_sequence(self) -> Iterator[Mapping[Any, Any]]:
        """The states of the chain in which parameters have a second sequence of weights."""
        states = {id(o.state): o.state for o in self._chain if hasattr(o, "state")}
        for state in states.values():
            first: Mapping[str, Any] = next((e for p, e in state.items() if isinstance(p, Tensor)), {})
            if any(key in first for key in _SECOND_SEQUENCES):
                yield state

    def _second_sequences(self, p: Tensor) -> list[Tensor]:
        found = [state.get(p, {}) for state in self._with_second_sequence()]
        return [entry[key] for entry in found for key in _SECOND_SEQUENCES if key in entry]

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._after_step is not None:
            do, self._after_step = self._after_step, None
            with torch.no_grad():
                do()

    def _loading(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        self._settle_added()
        return fitting(optimizer.param_groups, state_dict)

    def _loaded(self, optimizer: Optimizer) -> None:
        self._schedule = Schedule(self._schedule.roles)  # what is owed stands in the state
        warn_of_decay(optimizer.param_groups, self._schedule.roles, self._decoupled)

    def _saved(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return self._schedule.saved(plain_state_dict(state_dict), optimizer.param_groups, optimizer.state)
