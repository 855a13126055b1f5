"""Copies to experiment on: of a network, of its optimizer, and a freshly initialised twin."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from isoplast._core.errors import IsoplastError
from isoplast.model._preserve_state import refuse_scripted

# A twin that keeps more of its trained parameters than this is no fresh network.
_MOST_KEPT = 0.1


def clone(network: nn.Module) -> nn.Module:
    """A deep copy that shares nothing with the network and triggers nothing of the user's.

    Hooks are left behind: what they hold (loggers, buffers, the original network) is neither copied nor
    called. Those of `torch.nn.utils` (weight and spectral normalisation, pruning) compute the weights and
    come along, as do parametrizations, which are no hooks.

    Args:
        network: any module.

    Raises:
        IsoplastError: for a module that Python cannot copy, and for a TorchScript program.
    """
    refuse_scripted(network)
    memo: dict[int, Any] = {}
    for module in network.modules():
        for key, value in vars(module).items():
            if key.endswith("_hooks") and isinstance(value, dict):
                kept = ((handle, hook) for handle, hook in value.items() if _computes_weights(hook))
                memo[id(value)] = OrderedDict(kept)
            elif isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()  # activations that a module keeps cannot be copied
    try:
        return copy.deepcopy(network, memo)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise IsoplastError(f"{type(network).__name__} cannot be copied for the probe: {reason}") from error


def _computes_weights(hook: object) -> bool:
    function = getattr(hook, "__func__", hook)
    module = getattr(function, "__module__", None) or type(hook).__module__
    return module.startswith("torch.nn.utils.")


def parameter_pairs(network: nn.Module, other: nn.Module) -> dict[Tensor, Tensor]:
    """The parameters of a network, each with the one of the same name in another.

    Raises:
        IsoplastError: if the other has none of that name and shape.
    """
    theirs = dict(other.named_parameters(remove_duplicate=False))
    found: dict[Tensor, Tensor] = {}
    for name, parameter in network.named_parameters():
        if name not in theirs or theirs[name].shape != parameter.shape:
            raise IsoplastError(
                f"the fresh network has no parameter {name} of shape {tuple(parameter.shape)}: give one of "
                "the same architecture, or the optimizer as a function of the parameters"
            )
        found[parameter] = theirs[name]
    return found


def copy_optimizer(optimizer: Optimizer, new: Mapping[Tensor, Tensor], *, keep: bool) -> Optimizer:
    """The same optimizer for other parameters.

    Its own hooks stay behind, and so does what a learning-rate scheduler put around its `step`; an isometry
    attachment comes along.

    Args:
        optimizer: any torch optimizer.
        new: for each of its parameters the one to put in its place.
        keep: whether the state comes along, deep-copied; else the copy is as if newly made with the
            present settings of the groups.

    Raises:
        IsoplastError: where a fresh one cannot be made from the settings alone.
    """
    copied = _with_state(optimizer, new) if keep else _renewed(optimizer, new)
    attachment = getattr(optimizer, "_isoplast_attachment", None)
    if attachment is not None:
        attachment.follow(copied, new, keep=keep)
    return copied


def _with_state(optimizer: Optimizer, new: Mapping[Tensor, Tensor]) -> Optimizer:
    copied: Optimizer = object.__new__(type(optimizer))
    # Functions among the attributes are what schedulers put in place of `step`, tied to the original.
    kept = {
        key: value
        for key, value in vars(optimizer).items()
        if not (callable(value) or key.endswith("_hooks") or key == "_isoplast_attachment")
    }
    memo: dict[int, Any] = {id(optimizer): copied, **{id(old): tensor for old, tensor in new.items()}}
    copied.__setstate__(copy.deepcopy(kept, memo))
    return copied


def _renewed(optimizer: Optimizer, new: Mapping[Tensor, Tensor]) -> Optimizer:
    signature = inspect.signature(type(optimizer)).parameters
    groups = []
    for group in optimizer.param_groups:
        mapped = [new[p] for p in group["params"] if p in new]
        # What is a default but no argument counts steps (schedule-free optimizers); ours are settings.
        settings = {
            key: copy.deepcopy(value)
            for key, value in group.items()
            if key not in ("params", "param_names")
            and (key in signature or key not in optimizer.defaults or key.startswith("isometry"))
        }
        if mapped:
            groups.append({**settings, "params": mapped})
    if not groups:
        raise IsoplastError(
            f"{type(optimizer).__name__} holds no parameter of the model: make it from model.parameters()"
        )
    arguments = {
        key: copy.deepcopy(value)
        for key, value in optimizer.defaults.items()
        if key in signature and value is not signature[key].default
    }
    try:
        return type(optimizer)(groups, **arguments)
    except TypeError as error:
        raise IsoplastError(
            f"a fresh {type(optimizer).__name__} cannot be made from its settings ({error}): give "
            "optimizer= as a function of the parameters, or state='keep'"
        ) from error


def freshly_made(make: Callable[[], nn.Module], network: nn.Module) -> nn.Module:
    """The network that a user's function makes, where the given one is and with its precision."""
    made = make()
    if not isinstance(made, nn.Module):
        raise IsoplastError(f"fresh() returned {type(made).__name__}: it must return a module")
    like = next(network.parameters())
    return made.to(device=like.device, dtype=like.dtype)


@torch.no_grad()
def redrawn(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of a network with its weights drawn anew, from torch's global generators.

    Every module's own `reset_parameters` is called, innermost modules first; then, for a network of
    `isoplast.nn.build`, all that it still has in common with a newly built one is taken from that, so
    that an orthogonal initialisation is one again. Frozen parameters stay: they are part of what is given.

    Args:
        network: any module.

    Returns:
        The copy, and the names of trainable parameters that nothing knew how to draw.

    Raises:
        IsoplastError: if these are more than a tenth of all trainable numbers.
    """
    twin = clone(network)
    for module in reversed(list(twin.modules())):
        _reset(module)
    _take_over(twin)
    kept: list[str] = []
    for (name, old), drawn in zip(network.named_parameters(), twin.parameters(), strict=True):
        if not old.requires_grad:
            drawn.copy_(old)
        # Many initialisations are constants, and an orthogonal parametrization starts from the same
        # parameter each time (what was drawn is its buffer): what else has not changed was passed over.
        elif (
            torch.equal(old, drawn)
            and bool((old != old.flatten()[:1]).any())
            and ".parametrizations." not in name
        ):
            kept.append(name)
    sizes = {
        name: parameter.numel() for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    if sum(sizes[name] for name in kept) > _MOST_KEPT * sum(sizes.values()):
        raise IsoplastError(
            f"nothing knows how to draw {kept[0]} of {type(network).__name__} anew: give its modules "
            "reset_parameters(), or fresh= a function that makes a fresh network, or fresh=False"
        )
    return twin, tuple(kept)


def _reset(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        _reset_parametrized(module)
        return
    for name in ("reset_parameters", "_reset_parameters"):
        reset = getattr(module, name, None)
        if callable(reset):
            reset()
            return


def _reset_parametrized(module: nn.Module) -> None:
    """Draw what the layer would be without its parametrizations, and put it through them.

    Removing them from a copy is no way: a copy shares its class, and with it what is removed.
    """
    kind: type[nn.Module] = parametrize.type_before_parametrizations(module)
    computed = {name: nn.Parameter(getattr(module, name).clone()) for name in module.parametrizations}  # type: ignore[union-attr]
    plain = kind.__new__(kind)
    plain.__dict__.update(vars(module))
    plain._parameters = {**module._parameters, **computed}  # biases and the like are drawn in place
    plain._modules = {name: child for name, child in module._modules.items() if name != "parametrizations"}
    _reset(plain)
    for name, parameter in computed.items():
        setattr(module, name, parameter.detach())  # as a Parameter it would replace the whole


def _take_over(twin: nn.Module) -> None:
    rebuild = getattr(twin, "rebuild", None)
    if rebuild is None:
        return
    built = rebuild()
    for known in (dict(built.named_parameters()), dict(built.named_buffers())):
        for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
            if name in known and known[name].shape == tensor.shape:
                tensor.copy_(known[name])
