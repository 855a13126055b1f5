"""AdamO: Adam with a decoupled isometry step (arXiv:2606.09762; not the AdamO of other papers)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from inspect import signature
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.optimizer import ParamsT, _use_grad_for_differentiable

from isoplast.optim._adam_call import adamw, collected, goes_along
from isoplast.optim._apply import apply_isometry_
from isoplast.optim._groups import (
    DEFAULT_ISOMETRY,
    GROUP_DEFAULTS,
    Default,
    Group,
    common_strength,
    own_settings,
    require_matrix,
    resolve_group,
)
from isoplast.optim._load import fitting
from isoplast.optim._numbers import plain_settings, plain_state_dict
from isoplast.optim._param_groups import ParamGroups, param_groups
from isoplast.optim._report import IsometryReport, isometry_report, warn_of_decay
from isoplast.optim._turns import Schedule

# torch 2.6 has the flag in AdamW alone; the step below decays decoupled in any case.
_DECOUPLED: dict[str, Any] = (
    {"decoupled_weight_decay": True} if "decoupled_weight_decay" in signature(Adam).parameters else {}
)
# torch's own check that a graph is captured only with capturable=True; renamed after torch 2.6.
_CAPTURE_CHECK = next(
    name
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")
    if hasattr(Adam, name)
)


class AdamO(Adam):
    r"""AdamO of arXiv:2606.09762: Adam, and beside it a step that keeps weight matrices isometric.

    Adam's moments see the task gradient alone; every weight matrix W moves besides towards having
    all its singular values at one, which keeps the network able to learn new tasks:

    .. math::
       \begin{aligned}
       m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
       \theta_{t+1} &= \theta_t - \eta \, \hat m_t / (\sqrt{\hat v_t} + \epsilon)
                       - \eta \lambda \nabla R_{iso}(\theta_t) \\
       \nabla R_{iso}(W) &= 4 (W W^T W - W)
       \end{aligned}

    A deviation from isometry decays with the time constant :math:`1 / (8 \eta \lambda)` steps. That
    is the one number to know: a run must be longer than it, by ten times or so, for the step to act.

    Hand it the model: ``AdamO(model)`` means ``AdamO(param_groups(model))``, and linear weights are
    matrices as they are, convolution kernels as (out, in * k * k), every part of a fused projection by
    itself, while embeddings, norms, biases, tied weights and depthwise kernels follow plain Adam.
    ``AdamO(model.parameters())`` sees shapes alone: everything that can be a matrix is one.

    The arguments of AdamW mean what they mean there (weight decay is decoupled and off by default,
    since it would shift the target to :math:`\sigma^2 = 1 - wd / (4 \lambda)`). With ``isometry=0``
    every bit is that of :class:`torch.optim.AdamW`, and of :class:`torch.optim.Adam` without decay.

    Args:
        params: a module; or parameters, named parameters, or groups such as those of
            :func:`isoplast.param_groups`, which can also leave the head free or exclude layers. A group
            may set ``isometry`` or ``isometry_time``, ``isometry_every``, ``bias_decay``,
            ``isometry_split`` (number of equal row blocks or their row counts, for fused projections),
            ``isometry_batch_dims`` (leading dimensions that count matrices) and ``isometry_operator``
            (the stride of convolutions whose operator on images, not whose flattened kernel, is to be
            isometric).
        lr: learning rate, finite and >= 0; a number or a 1-element tensor.
        betas: decay rates of the moments, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: decoupled weight decay, >= 0. A warning says so if it moves the target
            :math:`1 - wd / (4 \lambda)` of the squared singular values below 0.5.
        amsgrad: whether to use the maximum of the second moments.
        isometry: the strength lambda in the paper's convention, finite and >= 0; None is 0.01.
        isometry_time: the time constant in steps, > 0, instead of the strength: sets
            lambda = 1 / (8 lr isometry_time) from the learning rate given here.
        isometry_every: 1 for the step above, exactly, in every step; T to apply T steps' strength
            once in T steps by the closed form :func:`isoplast.isometry.flow_step_`, each matrix in
            its own turn; "auto" chooses T <= 250 from the present lr * isometry such that the
            equilibrium moves by at most 1 % of its distance from isometry.
        bias_decay: decoupled decay gamma >= 0 of the vectors, b <- (1 - lr gamma) b. A unit whose bias
            is below minus the largest input norm cannot be woken by any isometric weight; this lifts
            it. :func:`isoplast.param_groups` keeps normalisation gains out of it.
        maximize: maximise the objective (the isometry step still decreases its penalty).
        foreach, capturable, differentiable, fused: as in AdamW; with ``capturable`` the isometry
            step is done in every step.

    Raises:
        ValueError: for a value out of range, for ``isometry`` and ``isometry_time`` together in one
            group, and where isometry is asked for but there is no matrix to apply it to.
        IsoplastError: for a module with parameters that are not initialised yet.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        >>> optimizer = AdamO(model, lr=1e-3)
        >>> print(optimizer.report())
        2 matrices, 9.47 k of 9.61 k parameters under isometry, time constant 12 500 steps

    Reference:
        Rosseau, Müller, Nowé, "Preserving Plasticity in Continual Learning via Dynamical Isometry",
        ICML 2026, arXiv:2606.09762, Eq 16, 19 and 20.
    """

    _names_in_model_order: tuple[str, ...] | None = None

    def __init__(
        self,
        params: ParamsT | nn.Module,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        isometry: float | None = Default(DEFAULT_ISOMETRY),
        isometry_time: float | None = None,
        isometry_every: Literal["auto"] | int = "auto",
        bias_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        strength = common_strength(isometry, isometry_time)
        if isinstance(params, nn.Module):
            params = param_groups(params)
        if isinstance(params, ParamGroups):
            self._names_in_model_order = tuple(d.name for d in params.decisions)
        if isinstance(params, ParamGroups) and strength["isometry"] != 0:
            params.require_isometric()
        self._schedule = Schedule()
        # Adam.__init__ sets the defaults and adds the groups in one go; the first call of
        # add_param_group moves these into the defaults before anything reads them.
        self._isometry_defaults: dict[str, Any] = {
            **GROUP_DEFAULTS,
            **strength,
            "isometry_every": isometry_every,
            "bias_decay": bias_decay,
            "decoupled_weight_decay": True,
        }
        adam = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, **plain_settings(adam), **_DECOUPLED)
        # Adam refuses what is negative or NaN.
        for name, value in (
            ("learning rate", lr),
            ("epsilon value", eps),
            ("weight_decay value", weight_decay),
        ):
            if math.isinf(float(value)):
                raise ValueError(f"Invalid {name}: {value}")
        require_matrix(self.param_groups)
        self._schedule.expect(self.param_groups)
        warn_of_decay(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters.

        Args:
            param_group: ``params`` and any settings of its own, ``isometry`` and the like included.

        Raises:
            ValueError: for a value out of range, or a group that asks for isometry itself but holds
                no matrix; the optimizer is then as it was.
        """
        self.defaults.update(vars(self).pop("_isometry_defaults", {}))
        own = own_settings(param_group)
        if isinstance(param_group, dict):  # torch refuses all else, and keeps the dictionary itself
            param_group.update(plain_settings(param_group))
        super().add_param_group(param_group)
        try:
            resolve_group(self.param_groups[-1], own, self.defaults)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        kept = defaultdict(dict, {p: dict(entry) for p, entry in self.state.items()})
        for p, entry in self._schedule.owed():
            kept[p].update(entry)
        return {**state, "state": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_schedule" not in state:
            self._schedule = Schedule()  # what is owed stands in the state
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for group in self.param_groups:
            for key, neutral in GROUP_DEFAULTS.items():
                group.setdefault(key, self.defaults.get(key, neutral))
            group["decoupled_weight_decay"] = True  # a state of Adam says False, as in torch's AdamW

    def _init_group(self, group: Group, *lists: list[Tensor]) -> bool:
        found = None if torch.compiler.is_compiling() else collected(group, self.state)
        if found is None:
            has_complex: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
            return has_complex
        for known, new in zip(lists, found[0], strict=True):
            known += new
        return found[1]

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Does one optimization step.

        Args:
            closure: reevaluates the model and returns the loss; optional.

        Returns:
            The closure's loss, or None.
        """
        getattr(self, _CAPTURE_CHECK)()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        grad_scale: Tensor | None = getattr(self, "grad_scale", None)
        head: Group | None = None  # the first of the groups that are updated in one call
        lists: tuple[list[Tensor], ...] = ([], [], [], [], [], [])
        has_complex = False
        for index, group in enumerate(self.param_groups):
            if head is not None and not goes_along(head, group):
                adamw(head, lists, grad_scale, found_inf, has_complex)
                head, lists, has_complex = None, ([], [], [], [], [], []), False
            head = head or group
            before = len(lists[0])
            has_complex |= self._init_group(group, *lists)
            # Adam's update does not read the weights, so doing the isometry step first, in place, takes
            # its gradient at the pre-step weights (Eq 20) without a copy of them. Weight decay does read
            # them: its factor multiplies the isometry step too, a difference of order lr^2.
            if group["isometry"] > 0 or group["bias_decay"] > 0:
                params = lists[0][before:]
                apply_isometry_(self._schedule, index, group, params, self.state, found_inf)
        if head is not None:
            adamw(head, lists, grad_scale, found_inf, has_complex)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True) -> None:
        """Loads a state dict of AdamO, AdamW or Adam.

        Where the saved groups say nothing of isometry, the present settings stay. Groups of other sizes are
        matched by the names of their parameters: the state of ``AdamW(model.named_parameters())`` goes into
        ``AdamO(model)``, and so does that of ``AdamW(model.parameters())``, which has the model's order.

        Args:
            state_dict: what ``state_dict()`` of one of these optimizers returned.
            strict: whether every parameter must be on both sides where they are matched by name; else those
                that are not start afresh.

        Raises:
            ValueError: for groups that do not fit and cannot be matched by name.
        """
        names = self._names_in_model_order
        super().load_state_dict(fitting(self.param_groups, state_dict, in_model_order=names, strict=strict))
        warn_of_decay(self.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """The state, which ``torch.load(weights_only=True)`` reads back whatever set the groups' numbers.

        Returns:
            What ``load_state_dict`` of AdamO, AdamW and Adam takes.
        """
        return self._schedule.saved(plain_state_dict(super().state_dict()), self.param_groups, self.state)

    def report(self) -> IsometryReport:
        """What is kept isometric: print it for one line, ``.table()`` for one line per parameter.

        Returns:
            An :class:`IsometryReport` at the present learning rates.
        """
        return isometry_report(self.param_groups)

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n{self.report()}"
