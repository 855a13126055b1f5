"""What the cheap instruments say of a network, as flat numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alarms.problems import Problem, Task
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import activity, gradients, jacobian, ntk, update_ratio, weight_spectra
from isoplast.model import preserve_state

Numbers = dict[str, Any]


def measure(
    model: nn.Module, optimizer: Optimizer, of: Problem, task: Task, start: nn.Module, seed: int
) -> Numbers:
    """All instruments on up to 256 inputs of the task; what a network does not allow is left out."""
    found: Numbers = {}
    x, y = task.inputs[:256], task.targets[:256]
    parts: dict[str, Callable[[], Numbers]] = {
        "weights": lambda: _weights(model, start),
        "activity": lambda: _activity(model, task.inputs),
        "jacobian": lambda: _jacobian(model, x[:16]),
        "ntk": lambda: _kernel(model, x, of),
        "loss": lambda: _loss(model, of, x, y),
        "ready": lambda: _readiness(model, of, x, seed),
        "optimizer": lambda: _optimizer(optimizer),
        "update": lambda: _update(model, optimizer, of, task),
    }
    for name, take in parts.items():
        try:
            found |= {f"{name}/{key}": value for key, value in take().items()}
        except (IsoplastError, torch.linalg.LinAlgError) as error:
            found[f"{name}/error"] = str(error)[:80]
    return found


def _ends(values: Iterable[float]) -> Numbers:
    every = [value for value in values if not math.isnan(value)]
    if not every:
        return {}
    return {"max": max(every), "min": min(every), "mean": sum(every) / len(every), "last": every[-1]}


def _listed(values: Iterable[float]) -> str:
    """By layer, in the network's order."""
    return ";".join(f"{value:.3g}" for value in values)


def _spread(name: str, values: Iterable[float]) -> Numbers:
    return {f"{name}_{key}": value for key, value in _ends(values).items()}


def _weights(model: nn.Module, start: nn.Module) -> Numbers:
    now, then = weight_spectra(model), weight_spectra(start)
    hidden = list(now)[:-1] or list(now)
    sides = [layer.singular_values.shape[-1] for layer in now.values()]
    found = _spread("largest", (now[name].largest for name in hidden))
    found |= _spread("growth", (now[name].largest / max(then[name].largest, 1e-9) for name in hidden))
    found |= _spread(
        "rank", (layer.effective_rank / side for layer, side in zip(now.values(), sides, strict=True))
    )
    found |= _spread("condition", (layer.condition_number for layer in now.values()))
    found |= _spread("mean", (layer.mean for layer in now.values()))
    values = [layer.singular_values.double() for layer in now.values()]
    found |= _spread("gram", (float((one.square() - 1).square().mean().sqrt()) for one in values))
    found["head"] = list(now.values())[-1].largest
    state, old = model.state_dict(), {name: one for name, one in start.state_dict().items() if one.ndim > 1}
    moved = [float((state[name].double() - one.double()).norm()) for name, one in old.items()]
    size = [float(one.double().norm()) for one in old.values()]
    found["distance"] = math.hypot(*moved) / max(math.hypot(*size), 1e-9)
    found["norm"] = math.hypot(*(float(p.detach().double().norm()) for p in model.parameters()))
    return found


def _activity(model: nn.Module, inputs: Tensor) -> Numbers:
    found: Numbers = {}
    for count in (64, 256, len(inputs)):
        seen = activity(model, inputs[:count], ranks=False)
        key = "all" if count == len(inputs) else str(count)
        for name in ("dead", "dormant"):
            found |= _spread(f"{name}{key}", (getattr(layer, name) for layer in seen.values()))
            found[f"{name}{key}_whole"] = getattr(seen, name)
    seen = activity(model, inputs[:256])
    for name in ("saturated", "linearised", "duplicates", "feature_norm"):
        found |= _spread(name, (getattr(layer, name) for layer in seen.values()))
    for name in ("feature_rank", "effective_rank", "stable_rank"):
        found |= _spread(name, (getattr(layer, name) / layer.units for layer in seen.values()))
    # Units that tell inputs apart: neither silent nor, where their function is linear there, always on.
    found |= _spread("telling", (1 - layer.dead - layer.linearised for layer in seen.values()))
    found |= _spread("dormant025", (layer.dormant_at[0.025] for layer in seen.values()))
    for name in ("feature_rank", "effective_rank"):
        found[f"{name}_list"] = _listed(getattr(layer, name) / layer.units for layer in seen.values())
    for name in ("dormant", "dead"):
        found[f"{name}_list"] = _listed(getattr(layer, name) for layer in seen.values())
    found["units_last"] = list(seen.values())[-1].units
    found["layers"] = len(seen)
    return found


def _jacobian(model: nn.Module, inputs: Tensor) -> Numbers:
    seen = jacobian(model, inputs, layers=False)
    values = seen.singular_values.double()
    return {
        "condition": seen.condition_number,
        "largest": float(values.amax()),
        "mean": float(values.mean()),
        "zero": float((values[:, 0] <= 1e-6 * values.amax()).double().mean()),
    }


def _kernel(model: nn.Module, inputs: Tensor, of: Problem) -> Numbers:
    rows = max(4, min(24, 160 // (of.outputs * (16 if of.loss == "tokens" else 1))))
    if of.loss == "tokens":
        inputs = inputs[:, :4]
    seen = ntk(model, inputs[:rows], centred=of.outputs > 1)
    values = seen.eigenvalues.double().clamp(min=0).sort().values
    known = values[len(values) // 20 :] if of.outputs > 1 else values
    found = {
        "condition": seen.condition_number,
        "participation": seen.participation_rank / len(values),
        "effective": seen.effective_rank / len(values),
        "trace": float(values.mean()),
        "median": float(values.median()),
        "low": float(known[len(known) // 10]),
    }
    for rate in (1e-3, 1e-2, 1e-1):  # share of random targets that gradient flow removes
        found[f"removes{rate:g}"] = float((1 - torch.exp(-rate * values)).mean())
    return found


def _loss(model: nn.Module, of: Problem, x: Tensor, y: Tensor) -> Numbers:
    with preserve_state(model) as network, torch.no_grad():
        outputs = network(x)
    flat = outputs.flatten(0, -2)
    found: Numbers = {"value": float(of.objective(outputs, y)), "spread": float(flat.std(0).mean())}
    found["size"] = float(flat.abs().amax())
    if of.loss != "numbers":
        share = flat.softmax(-1)
        found["entropy"] = float(-(share * share.clamp(min=1e-12).log()).sum(-1).mean()) / math.log(
            of.outputs
        )
        found["classes"] = float(flat.argmax(-1).unique().numel()) / of.outputs
    seen = gradients(model, x[:32], y[:32], of.objective)
    found |= {"gradient": seen.norm, "interference": seen.interference, "noise": seen.noise_scale}
    found["gradient_rank"] = seen.effective_rank
    return found


def _targets(of: Problem, x: Tensor, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    if of.loss == "numbers":
        return torch.randn(len(x), 1, generator=draw)
    shape = (len(x), *x.shape[1:]) if of.loss == "tokens" else (len(x),)
    return torch.randint(of.outputs, shape, generator=draw)


def _readiness(model: nn.Module, of: Problem, x: Tensor, seed: int) -> Numbers:
    """Strength and reliability of the gradient on fresh random targets (arXiv:2605.09044)."""
    y, found = _targets(of, x, seed), Numbers()
    with preserve_state(model) as network, torch.enable_grad():
        parameters = [p for p in network.parameters() if p.requires_grad]
        for name, softened in (("", False), ("soft_", True)):
            slopes = []
            for rows in torch.arange(len(x)).split(32):
                outputs = network(x[rows])
                if softened:
                    outputs = soften(outputs)
                loss = of.objective(outputs, y[rows])
                parts = torch.autograd.grad(loss, parameters, allow_unused=True)
                slopes.append(torch.cat([part.flatten() for part in parts if part is not None]).double())
            each = torch.stack(slopes)
            mean, strength = each.mean(0), float(each.square().sum(1).mean())
            count = len(each)
            whole = float(mean.square().sum())
            signal = max((count * whole - strength) / (count - 1), 0.0)
            found |= {f"{name}strength": whole, f"{name}noise": strength, f"{name}signal": signal}
            found[f"{name}share"] = whole / strength if strength else 0.0
            found[f"{name}one_norm"] = float(mean.abs().sum())
            found[f"{name}flat"] = float((mean == 0).double().mean())
    return found


def soften(outputs: Tensor) -> Tensor:
    """Outputs scaled down to a spread of 0.3, as a fresh network's; each step back the same."""
    spread = float(outputs.detach().std(0).mean())
    return outputs * min(1.0, 0.3 / max(spread, 1e-9))


def _optimizer(optimizer: Optimizer) -> Numbers:
    seconds, ratios = [], []
    for state in optimizer.state.values():
        if isinstance(state, dict) and "exp_avg_sq" in state:
            second = state["exp_avg_sq"].double()
            seconds.append((float((second < 1e-16).double().sum()), second.numel()))
            ratios.append(float((state["exp_avg"].double().abs() / (second.sqrt() + 1e-8)).mean()))
    found: Numbers = {}
    if seconds:
        found["still"] = sum(zero for zero, _ in seconds) / sum(size for _, size in seconds)
        found["agreement"] = sum(ratios) / len(ratios)
    return found


def _update(model: nn.Module, optimizer: Optimizer, of: Problem, task: Task) -> Numbers:
    """One more step of the recipe on the first batch, taken back afterwards."""
    kept, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    of.objective(model(task.inputs[:64]), task.targets[:64]).backward()
    optimizer.step()
    seen = update_ratio(model, kept)
    model.load_state_dict(kept)
    optimizer.load_state_dict(state)
    optimizer.zero_grad()
    return {"ratio": seen.ratio, **_spread("layer", (layer.ratio for layer in seen.layers.values()))}
