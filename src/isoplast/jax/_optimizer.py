"""AdamO and the decoupled isometry step as optax gradient transformations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from isoplast._core.errors import IsoplastError
from isoplast.jax._layout import Layout
from isoplast.jax._roles import Roles, roles
from isoplast.jax._steps import _euler_change, _flow_change
from isoplast.optim import DEFAULT_ISOMETRY

Rate: TypeAlias = "ArrayLike | Callable[[Array], ArrayLike]"
Every: TypeAlias = "Literal['auto'] | int"
ChooseRoles: TypeAlias = "Roles | Callable[[Any], Roles] | None"

# The rule of "auto", as in isoplast.optim: waiting T steps moves the equilibrium by 4 c T of its distance.
_TOLERANCE = 0.01
_LONGEST = 250


class IsometryState(NamedTuple):
    """The state of :func:`decoupled_isometry`.

    Attributes:
        steps: steps done, int32, shape ().
        owed: for each array under isometry the strength, sum of lr * isometry, that has not been applied yet,
            shape (arrays,), or (0,) with ``every=1``.
        wait: steps until the next of them has its turn, int32, shape ().
        place: which of them that is, int32, shape ().
    """

    steps: Array
    owed: Array
    wait: Array
    place: Array


def decoupled_isometry(
    learning_rate: Rate,
    isometry: ArrayLike = DEFAULT_ISOMETRY,
    *,
    every: Every = "auto",
    roles: ChooseRoles = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds AdamO's decoupled isometry step to the updates of any optimizer.

    .. math:: W_{t+1} = W_t + u_t - \eta_t \lambda \nabla R_{iso}(W_t)

    Chain it after the optimizer, with the same learning rate.

    Args:
        learning_rate: eta, a number or 0-d array >= 0, or a schedule of the step.
        isometry: the strength lambda, >= 0.
        every: 1 for the exact step in every step, T to apply T steps' strength once in T steps by
            :func:`flow_step`, each array in its own turn; "auto" chooses T <= 250 from the present
            lr * isometry. Under ``jax.vmap`` all arrays are computed in every step: use 1 there.
        roles: what :func:`isoplast.jax.roles` returned for the parameters, or a function of them that returns
            such; by default :func:`isoplast.jax.roles` itself.

    Returns:
        An optax transformation; its ``update`` needs ``params``.

    Raises:
        IsoplastError: for a value out of range and, in ``init``, if there is no matrix.

    Example:
        >>> tx = optax.chain(optax.sgd(0.1), decoupled_isometry(0.1, isometry=0.01, every=1))
        >>> params = {"kernel": 2 * jnp.eye(2)}
        >>> updates, _ = tx.update({"kernel": jnp.zeros((2, 2))}, tx.init(params), params)
        >>> optax.apply_updates(params, updates)["kernel"].diagonal()
        Array([1.976, 1.976], dtype=float32)

    Reference:
        arXiv:2606.09762, Eq 20.
    """
    _check(learning_rate, isometry, every)
    off = _is_zero(isometry)

    def init(params: Any) -> IsometryState:
        layouts = [] if off else _layouts(params, roles)
        number = 0 if every == 1 else len(layouts)
        first = jnp.zeros((), jnp.int32)
        return IsometryState(first, jnp.zeros(number, _float()), jnp.ones((), jnp.int32), first)

    def update(updates: Any, state: IsometryState, params: Any = None, **_: Any) -> tuple[Any, IsometryState]:
        if params is None:
            raise ValueError("decoupled_isometry needs the parameters: tx.update(grads, state, params)")
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        steps = optax.safe_increment(state.steps)
        if off:
            return updates, state._replace(steps=steps)
        strength = jnp.asarray(rate * isometry).astype(_float())
        leaves, tree = jax.tree.flatten(updates)
        layouts = _layouts(params, roles)
        if every == 1:
            changes = [_changed(_euler_change, layout, p, strength) for p, layout in layouts.values()]
        else:
            turn, due, state = _turns(state, strength, every)
            changes = [_in_turn(turn[i], layout, p, due[i]) for i, (p, layout) in enumerate(layouts.values())]
        for index, change in zip(layouts, changes, strict=True):
            leaves[index] = leaves[index] + change.astype(leaves[index].dtype)
        return jax.tree.unflatten(tree, leaves), state._replace(steps=steps)

    return optax.GradientTransformationExtraArgs(init, update)


def adamo(
    learning_rate: Rate,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    weight_decay: ArrayLike = 0.0,
    *,
    isometry: ArrayLike | None = None,
    isometry_time: float | None = None,
    isometry_every: Every = "auto",
    roles: ChooseRoles = None,
    mu_dtype: Any = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamO of arXiv:2606.09762 for optax: :class:`isoplast.AdamO`, step for step.

    .. math:: \theta_{t+1} = \theta_t - \eta \, \hat m_t / (\sqrt{\hat v_t} + \epsilon)
              - \eta \lambda \nabla R_{iso}(\theta_t)

    A deviation from isometry decays with the time constant :math:`1 / (8 \eta \lambda)` steps.

    Args:
        learning_rate: a number or 0-d array >= 0, or a schedule of the step.
        b1, b2: decay rates of the moments, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: decoupled weight decay, >= 0.
        isometry: the strength lambda, >= 0; None is 0.01. With 0 it is ``optax.adamw``, to the bit.
        isometry_time: the time constant in steps, > 0, instead of the strength; needs a learning rate that is
            a number.
        isometry_every, roles: as ``every`` and ``roles`` of :func:`decoupled_isometry`. With
            ``optax.inject_hyperparams`` name an integer ``isometry_every`` in ``static_args``.
        mu_dtype: dtype of the first moment, as in ``optax.adamw``.
        mask: which parameters decay, as in ``optax.adamw``.

    Returns:
        An optax transformation; its ``update`` needs ``params``.

    Raises:
        IsoplastError: for a value out of range, for ``isometry`` and ``isometry_time`` together and, in
            ``init``, if there is no matrix.

    Example:
        >>> params = {"Dense_0": {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}}
        >>> tx = adamo(1e-3)
        >>> state = tx.init(params)
        >>> updates, state = jax.jit(tx.update)(params, state, params)

    Reference:
        arXiv:2606.09762, Eq 16, 19 and 20.
    """
    strength = _strength(learning_rate, isometry, isometry_time)
    base = optax.with_extra_args_support(
        optax.adamw(learning_rate, b1, b2, eps, mu_dtype=mu_dtype, weight_decay=weight_decay, mask=mask)
    )
    step = decoupled_isometry(learning_rate, strength, every=isometry_every, roles=roles)

    def init(params: Any) -> tuple[Any, IsometryState]:
        return base.init(params), step.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("adamo needs the parameters: tx.update(grads, state, params)")
        zeros = jax.tree.map(jnp.zeros_like, params)
        change, isometry_state = step.update(zeros, state[1], params)
        # As in torch: weight decay multiplies the weights after the isometry step.
        moved = jax.tree.map(jnp.add, params, change)
        updates, base_state = base.update(updates, state[0], moved, **extra)
        return jax.tree.map(jnp.add, updates, change), (base_state, isometry_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _strength(rate: Rate, isometry: ArrayLike | None, time: float | None) -> ArrayLike:
    if time is None:
        return DEFAULT_ISOMETRY if isometry is None else isometry
    if isometry is not None:
        raise IsoplastError(
            f"isometry={isometry} and isometry_time={time} exclude each other: give one of them"
        )
    if callable(rate):
        raise IsoplastError(
            f"isometry_time={time} needs a learning rate that is a number; with a schedule give "
            "isometry=1 / (8 * peak * isometry_time)"
        )
    if not 0.0 < time < math.inf:
        raise IsoplastError(f"Invalid isometry_time value: {time} (a number of steps > 0)")
    return 1.0 / (8.0 * jnp.asarray(rate) * time)


def _check(rate: Rate, isometry: ArrayLike, every: Every) -> None:
    for name, value in (("learning rate", rate), ("isometry value", isometry)):
        if not callable(value) and _is_known(value) and not 0.0 <= float(np.asarray(value)) < math.inf:
            raise IsoplastError(f"Invalid {name}: {value} (finite and >= 0)")
    if every != "auto" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise IsoplastError(
            f"Invalid every: {every} ('auto' or an int >= 1; with optax.inject_hyperparams name it in "
            "static_args)"
        )


def _float() -> Any:
    """float32, or float64 where the user enabled it."""
    return jnp.result_type(float)


def _is_known(value: ArrayLike) -> bool:
    """Whether a value is a number here and now, not a tracer."""
    return not isinstance(value, jax.core.Tracer)


def _is_zero(isometry: ArrayLike) -> bool:
    return not isinstance(isometry, jax.Array) and bool(np.asarray(isometry) == 0.0)


def _layouts(params: Any, choose: ChooseRoles) -> dict[int, tuple[Array, Layout]]:
    """The arrays under isometry and their layouts, by the number of the leaf."""
    found = choose if isinstance(choose, Roles) else (choose or roles)(params)
    leaves = jax.tree.leaves(params)
    if len(found) != len(leaves) or any(r.shape != p.shape for r, p in zip(found, leaves, strict=False)):
        raise IsoplastError(
            f"roles are of {len(found)} arrays and the parameters are {len(leaves)} of other shapes: where a "
            "mask hides some of them give roles= a function, such as functools.partial(roles, exclude=[...])"
        )
    found.require_matrix()
    return {
        i: (p, r.layout) for i, (p, r) in enumerate(zip(leaves, found, strict=True)) if r.layout is not None
    }


def _changed(change: Callable[[Array, Array], Array], layout: Layout, p: Array, strength: Array) -> Array:
    return layout.apply(lambda matrix: change(matrix, strength), p)


def _in_turn(turn: Array, layout: Layout, p: Array, strength: Array) -> Array:
    """The closed form if it is this array's turn, else zeros without the work."""
    dtype = jnp.promote_types(p.dtype, jnp.float32)
    change: Array = jax.lax.cond(
        turn,
        lambda: _changed(_flow_change, layout, p, strength),
        lambda: jnp.zeros(p.shape, dtype),
    )
    return change


def _turns(state: IsometryState, strength: Array, every: Every) -> tuple[Array, Array, IsometryState]:
    """Whose turn it is and what is due, and the new state; the turns are those of isoplast.optim."""
    number = state.owed.shape[0]
    going = strength > 0
    if every == "auto":
        wished = _TOLERANCE / (4 * jnp.where(going, strength, 1.0)) + 1e-3  # rounding must not take a step
        period = jnp.clip(jnp.floor(wished), 1, _LONGEST).astype(jnp.int32)
    else:
        period = jnp.asarray(every, jnp.int32)
    # A wait that was set at a lower learning rate may be longer than the present ones.
    wait = jnp.minimum(state.wait, -(-period // number)) - 1

    def waits_for_more(acting: tuple[Array, Array]) -> Array:
        wait, count = acting
        return (wait <= 0) & (count < number)

    def one_more(acting: tuple[Array, Array]) -> tuple[Array, Array]:
        k = (state.place + acting[1]) % number
        return (k + 1) * period // number - k * period // number, acting[1] + 1

    wait, count = jax.lax.while_loop(waits_for_more, one_more, (wait, jnp.zeros_like(wait)))
    turn = ((jnp.arange(number) - state.place) % number < count) & going
    due = state.owed + strength
    new = state._replace(
        owed=jnp.where(turn, 0.0, jnp.where(going, due, state.owed)),
        wait=jnp.where(going, jnp.maximum(wait, 1), state.wait),
        place=jnp.where(going, (state.place + count) % number, state.place),
    )
    return turn, due, new
