"""The contract of a method."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import torch
from torch import nn

from isoplast._core.errors import IsoplastError, unknown
from isoplast.methods import CLAIMS, Combination, Family, Method, MethodInfo, Spectrum, Training, get
from isoplast.testing import _life
from isoplast.testing._networks import NETWORKS, Network

# float32 sums of a few dozen terms of order one, taken in another order, differ by some 1e-7.
_INTERVENTIONS = ("after_step", "on_task")
_RTOL, _ATOL = 1e-5, 1e-6


def check_method(
    method: str | Method,
    *,
    networks: Iterable[str] | Mapping[str, Network] = tuple(NETWORKS),
    lr: float = 1e-2,
    steps: int = 24,
) -> None:
    """Hold a method to its contract: on several networks, with losses that it knows nothing of.

    Checked are its metadata and settings; that the optimizer owns every trainable tensor; that the same seed
    gives the same bits, in one go or from a checkpoint, however often it is evaluated; that no parameter is
    replaced by another object; that it leaves the function unchanged where it promises to, that it knows of
    tasks and inputs only what its metadata says; that at strength 0 it is its base method to the bit; and
    that after `release` there is no hook, and no reference to the network.

    Args:
        method: an unused method, or a name as `isoplast.methods.get` takes it. Give it settings with which it
            acts within so many steps.
        networks: names of `isoplast.testing.NETWORKS`, or networks of one's own by name. One that the method
            refuses in `prepare`, in one line, is passed over.
        lr: the learning rate.
        steps: length of a training, >= 2; a task has 8.

    Raises:
        AssertionError: for a promise that the method does not keep.
        IsoplastError: for an unknown network, and whatever the method itself raises while it trains.

    Example:
        >>> check_method("layernorm", networks=["agent"])
    """
    method = get(method)
    if steps < 2:
        raise IsoplastError(f"steps is {steps}: give at least 2")
    check_metadata(method)
    check_settings(method)
    chosen = networks if isinstance(networks, Mapping) else {name: _network(name) for name in networks}
    refusals = {}
    for name, network in chosen.items():
        reason = refusal(method, network, lr)
        if reason is not None:
            refusals[name] = reason
            continue
        check_training(method, network, lr=lr, steps=steps, where=f" on network {name!r}")
        check_strength_zero(method, network, lr=lr, steps=steps, where=f" on network {name!r}")
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
    _require(len(refusals) < len(chosen), method, f"takes none of the networks: {reasons}")


def check_metadata(method: Method) -> None:
    """Check what a method says about itself: its name, `info` and documentation."""
    kind = type(method)
    name, info = method.name, method.info
    _require(isinstance(name, str) and name, method, "has a name that is no word")
    _require(isinstance(info, MethodInfo), method, "has an info that is no MethodInfo")
    for field in ("title", "source", "controls", "cost"):
        _require(getattr(info, field), method, f"says no {field} in its metadata")
    _require(info.family in get_args(Family), method, f"is of family {info.family!r}: {get_args(Family)}")
    _require(info.spectrum in get_args(Spectrum), method, f"has spectrum {info.spectrum!r}")
    strange = sorted(info.claims - set(CLAIMS))
    _require(not strange, method, f"claims {strange}: the claims are {sorted(CLAIMS)}")
    if isinstance(method, Combination):
        return
    fields = _fields(method)
    _require(not set("+:.") & set(name), method, "has a name with '+', ':' or '.', which `get` reads as more")
    _require(info.strength in (None, *fields), method, f"has no setting {info.strength!r}, its strength")
    overrides = kind.on_task is not Method.on_task
    _require(
        overrides == info.needs_task_boundaries,
        method,
        "overrides on_task, so its metadata must say needs_task_boundaries=True"
        if overrides
        else "says that it needs task boundaries, and has no on_task",
    )
    document = inspect.getdoc(kind) or ""
    _require(document.split("\n")[0].endswith("."), method, "has no docstring that begins with one sentence")
    arguments = document.partition("Args:")[2]
    missing = [field for field in fields if not re.search(rf"\b{field}\b", arguments)]
    _require(not missing, method, f"does not explain its settings {missing} under Args: in its docstring")


def check_settings(method: Method) -> None:
    """Check that a method is a frozen value that its settings make again, and that it checks them."""
    kind = type(method)
    frozen = dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    own = "__dataclass_fields__" in vars(kind)
    _require(frozen and own, method, "must be decorated with @dataclasses.dataclass(frozen=True)")
    twin = copy.deepcopy(method)
    _require(twin == method and hash(twin) == hash(method), method, "is not equal to its deep copy")
    _require(not any(part.state or part.handles for part in _parts(method)), method, "is in use already")
    if isinstance(method, Combination):
        return
    settings = dict(method.settings())
    again = kind(**settings)
    _require(again == method and hash(again) == hash(method), method, "is not made again by its settings()")
    for field in _fields(method):
        with contextlib.suppress(IsoplastError):
            kind(**{**settings, field: [[]]})
            _require(False, method, f"takes [[]] for {field}: call super().__post_init__()")


def refusal(method: Method, network: Network, lr: float = 1e-2) -> str | None:
    """Why a method cannot take a network, None if it can."""
    try:
        _life.start(method, network, lr)
    except IsoplastError as error:
        return str(error)
    return None


def check_training(
    method: Method, network: Network, *, lr: float = 1e-2, steps: int = 24, where: str = ""
) -> Training:
    """Check the whole life of a method on one network; returns the finished training, released."""

    def require(condition: Any, message: str) -> None:
        _require(condition, method, message + where)

    torch.manual_seed(0)
    original = network.build()
    probe = network.inputs(torch.Generator().manual_seed(10**6))
    life = _life.start(method, network, lr)
    before = _life.places(life.model)
    began = _life.values(life.model)
    unowned = _life.not_owned(life.model, life.optimizer)
    require(not unowned, f"leaves {unowned} to no optimizer, or to it twice")
    if method.info.keeps_function:
        shift = _shift(life.model, probe, _life.outputs(original, probe))
        require(shift is None, f"changes the outputs in prepare: {shift}")

    _watch_function(life, probe, where)
    half, rest = steps // 2, steps - steps // 2
    losses = _life.advance(life, network, half)
    require(_life.places(life.model) == before, "replaces parameters by others while it trains")
    modes = [module.training for module in life.model.modules()]
    middle = _life.values(life.model)
    checkpoint = _life.saved(life)
    with life.evaluated() as shown:
        require(_life.outputs(shown, probe).isfinite().all(), "evaluates to outputs that are not finite")
    changed = _life.different(_life.values(life.model), middle)
    require(not changed, f"changes {changed} by an evaluation")
    losses += _life.advance(life, network, rest)
    end = _life.values(life.model)

    require(torch.stack(losses).isfinite().all(), "has losses that are not finite")
    wrong = [name for name, value in end.items() if not value.isfinite().all()]
    require(not wrong, f"has values in {wrong} that are not finite")
    still = [n for n, p in life.model.named_parameters() if p.requires_grad and torch.equal(p, began[n])]
    require(not still, f"does not train {still}")
    require(_life.places(life.model) == before, "replaces parameters by others while it trains")
    unowned = _life.not_owned(life.model, life.optimizer)
    require(not unowned, f"leaves {unowned} to no optimizer, or to it twice, after training")
    require([m.training for m in life.model.modules()] == modes, "changes training and evaluation modes")

    resumed = _life.start(method, network, lr, seed=1)
    _life.restore(resumed, checkpoint)
    _life.advance(resumed, network, rest)
    changed = _life.different(_life.values(resumed.model), end)
    require(not changed, f"goes on from a checkpoint to other bits in {changed}")

    again = _life.start(method, network, lr)
    knows = method.info.needs_task_boundaries
    _life.advance(again, network, half, tasks=knows, inputs=method.info.needs_inputs)
    changed = _life.different(_life.values(again.model), middle)
    require(
        not changed,
        f"comes to other bits in {changed} when it is run again"
        + ("" if knows else ", without being told of tasks and inputs"),
    )

    _check_release(life, original, where)
    return life


def check_strength_zero(
    method: Method, network: Network, *, lr: float = 1e-2, steps: int = 24, where: str = ""
) -> None:
    """Check that a method whose metadata names a strength is its base method at 0, to the bit."""
    if method.info.strength is None or isinstance(method, Combination):
        return
    zero = type(method)(**{**dict(method.settings()), method.info.strength: 0})
    ends = []
    for each in (zero, get(method.info.base)):
        life = _life.start(each, network, lr)
        _life.advance(life, network, steps)
        ends.append(_life.values(life.model))
        life.release()
    changed = _life.different(*ends)
    text = f"is not {method.info.base} at {method.info.strength} 0: other bits in {changed}{where}"
    _require(not changed, method, text)


def _check_release(life: Training, original: nn.Module, where: str) -> None:
    """Check that nothing of a method is left on the network, and nothing of the network in the method."""
    method = life.method
    for part in _parts(method):
        for name in _INTERVENTIONS:
            vars(part).pop(name, None)  # what `_watch_function` put there
    life.release()
    left = sorted(set(_life.hooks(life.model)) - set(_life.hooks(original)))
    _require(not left, method, f"leaves hooks on {left} after release{where}")
    held = [name for part in _parts(method) for name, value in vars(part).items() if _holds_module(value)]
    _require(not held, method, f"still holds modules in {held} after release{where}")


def _holds_module(value: Any) -> bool:
    """Whether there is a module in nested lists, dicts and tuples, or in the attributes of what they hold."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, nn.Module):
            return True
        if id(item) in seen or isinstance(item, torch.Tensor | type):
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple | set):
            waiting += item
        elif hasattr(item, "__dict__"):
            waiting += vars(item).values()
    return False


def _watch_function(life: Training, probe: Any, where: str) -> None:
    """Let every intervention of a method that keeps the function be compared with what was before it."""
    for part in _parts(life.method):
        if not part.info.keeps_function:
            continue
        for name in _INTERVENTIONS:
            object.__setattr__(part, name, _Keeping(part, name, life.model, probe, where))


class _Keeping:
    """A hook of a method that must leave the outputs as they are."""

    def __init__(self, method: Method, name: str, model: nn.Module, probe: Any, where: str) -> None:
        self.method, self.name, self.hook = method, name, getattr(method, name)
        self.model, self.probe, self.where = model, probe, where

    def __call__(self, context: Any) -> None:
        before = _life.outputs(self.model, self.probe)
        self.hook(context)
        shift = _shift(self.model, self.probe, before)
        _require(shift is None, self.method, f"changes the outputs in {self.name}: {shift}{self.where}")


def _shift(model: nn.Module, probe: Any, before: torch.Tensor) -> str | None:
    """By how much the outputs have moved since, None if only by rounding."""
    after = _life.outputs(model, probe)
    if after.shape == before.shape and torch.allclose(after, before, _RTOL, _ATOL):
        return None
    return f"by {(after - before).abs().max():.2g}" if after.shape == before.shape else "in their shape"


def _network(name: str) -> Network:
    if name not in NETWORKS:
        raise unknown("network", name, NETWORKS)
    return NETWORKS[name]


def _parts(method: Method) -> tuple[Method, ...]:
    return method.parts if isinstance(method, Combination) else (method,)


def _fields(method: Method) -> list[str]:
    return [field.name for field in dataclasses.fields(method) if field.init]


def _require(condition: Any, method: Method, message: str) -> None:
    if not condition:
        raise AssertionError(f"method {getattr(method, 'name', type(method).__name__)} {message}")
