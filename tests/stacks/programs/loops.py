"""What people put around optimizer.step(): accumulation, clipping, scalers, averages, schedules, compiler."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from common import MODES, SETTINGS, adamo, alone, batch, mlp, must_be_equal, train
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR, SequentialLR
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from isoplast import AdamO, attach, param_groups
from isoplast.isometry import isometry_step


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), targets)


def accumulation(**_: Any) -> None:
    """Four backward passes before a step are one of the whole batch: the isometry step happens once."""
    for every in MODES:
        model = mlp()
        optimizer = adamo(model, isometry_every=every)
        for _step in range(12):
            optimizer.zero_grad()
            for inputs, targets in zip(*(part.chunk(4) for part in batch()), strict=True):
                (loss_of(model, inputs, targets) / 4).backward()
            optimizer.step()
        must_be_equal(model, alone(mlp(), isometry_every=every))


def clipping(**_: Any) -> None:
    """Clipping acts on the task's gradient alone: at norm 0 what is left is the isometry step."""
    model = mlp()
    optimizer = adamo(model, isometry_every=1)
    expected = [copy.deepcopy(p.detach()) for p in model.parameters()]
    for _step in range(10):
        optimizer.zero_grad()
        loss_of(model, *batch()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.0)
        optimizer.step()
        strength = SETTINGS["lr"] * SETTINGS["isometry"]
        expected = [isometry_step(p, strength) if p.ndim == 2 else p for p in expected]
    for found, wanted in zip(model.parameters(), expected, strict=True):
        assert (found - wanted).abs().max() < 1e-12


def scaler(**_: Any) -> None:
    """GradScaler: a skipped step moves nothing, also no debt of isometry; the others are those without it."""
    for every in MODES:
        for fused in (False, True):
            plain, model = mlp(dtype=torch.float32), mlp(dtype=torch.float32)
            inputs, targets = batch()
            inputs = inputs.float()
            train(plain, adamo(plain, isometry_every=every, fused=fused), inputs, targets, steps=12)
            optimizer = adamo(model, isometry_every=every, fused=fused)
            scaling = torch.amp.GradScaler("cpu", init_scale=1024.0)
            for step in range(18):
                overflow = step % 3 == 1
                before = [p.detach().clone() for p in model.parameters()]
                optimizer.zero_grad()
                scaling.scale(loss_of(model, inputs, targets)).backward()
                if overflow:
                    model[0].weight.grad[0, 0] = math.inf
                scaling.step(optimizer)
                scaling.update()
                same = all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
                assert same == overflow
            # A power of two scales without rounding, but the fused step divides by it in another place.
            must_be_equal(model, plain, tolerance=1e-6)


def autocast(**_: Any) -> None:
    """A step inside autocast is the step outside: the Gram is not computed in bfloat16."""
    for every in MODES:
        models = [mlp(dtype=torch.float32) for _ in range(2)]
        for model, inside in zip(models, (True, False), strict=True):
            optimizer = adamo(model, isometry_every=every)
            for _step in range(20):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = loss_of(model, batch()[0].float(), batch()[1])
                optimizer.zero_grad()
                loss.backward()
                with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                    optimizer.step()
        must_be_equal(*models, tolerance=0.0)


def averages(**_: Any) -> None:
    """EMA and SWA read the weights after the step; SWALR's rates scale the isometry step as all rates do."""
    model = mlp()
    optimizer = adamo(model)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    swa = AveragedModel(model)
    schedule = SWALR(optimizer, swa_lr=2e-2, anneal_epochs=5)
    mean = [torch.zeros_like(p) for p in model.parameters()]
    moving = [p.detach().clone() for p in model.parameters()]
    for step in range(20):
        train(model, optimizer, *batch(), steps=1)
        ema.update_parameters(model)
        swa.update_parameters(model)
        schedule.step()
        for index, p in enumerate(model.parameters()):
            mean[index] += p.detach() / 20
            moving[index] = p.detach().clone() if step == 0 else 0.9 * moving[index] + 0.1 * p.detach()
    for averaged, expected in ((swa, mean), (ema, moving)):
        for p, wanted in zip(averaged.module.parameters(), expected, strict=True):
            assert (p - wanted).abs().max() < 1e-9
    assert AdamO(param_groups(swa)).report().matrices == 3


def schedules(total: int) -> dict[str, Callable[[Optimizer], LRScheduler]]:
    """Schedules that people train with, over so many steps."""

    def stable(step: int) -> float:
        """Warm-up over a tenth, a plateau, a decay to zero over the last fifth."""
        return min(1.0, (step + 1) / (0.1 * total), (total - step) / (0.2 * total))

    def after_warmup(optimizer: Optimizer) -> LRScheduler:
        warmup = LambdaLR(optimizer, lambda step: (step + 1) / 10)
        return SequentialLR(optimizer, [warmup, CosineAnnealingLR(optimizer, total - 10)], milestones=[10])

    return {
        "one cycle": lambda optimizer: OneCycleLR(optimizer, max_lr=3e-2, total_steps=total + 1),
        "warm-up, stable, decay": lambda optimizer: LambdaLR(optimizer, stable),
        "warm-up, cosine": after_warmup,
    }


def scheduled(**_: Any) -> None:
    """What acts is the sum of lr * isometry: of every step's own rate, amortised or not."""
    total = 200
    for make in schedules(total).values():
        expected: Tensor | None = None
        for every in MODES:
            weight = nn.Parameter(torch.diag(torch.tensor([0.5, 0.9, 1.5], dtype=torch.float64)))
            optimizer = AdamO([weight], lr=1e-2, isometry=0.1, isometry_every=every)
            schedule = make(optimizer)
            one_by_one = weight.detach().clone()
            for _step in range(total):
                weight.grad = torch.zeros_like(weight)  # Adam itself does not move
                one_by_one = isometry_step(one_by_one, optimizer.param_groups[0]["lr"] * 0.1)
                optimizer.step()
                schedule.step()
            expected = one_by_one
            # Of T steps up to T - 1 are still owed at the end, where the rates are small; a closed form
            # instead of steps differs by the order of c = lr * isometry = 3e-3 at most.
            assert (weight - expected).abs().max() < (1e-12 if every == 1 else 1e-2)
        assert expected is not None
        assert (expected.diagonal() - 1).abs().max() < 0.4, "the schedule was too short to show anything"


def schedule_free(**_: Any) -> None:
    """The weights that are evaluated become isometric, in both modes, whatever was switched in between."""
    import schedulefree

    for every in MODES:
        model, reference = mlp(), mlp()
        distances = []
        for network, isometry in ((model, 0.3), (reference, 0.0)):
            optimizer = schedulefree.AdamWScheduleFree(network.parameters(), lr=1e-2, warmup_steps=10)
            attach(optimizer, isometry=isometry, every=every) if isometry else None
            for _round in range(10):
                optimizer.train()
                train(network, optimizer, *batch(), steps=30)
                optimizer.eval()
                evaluated = network[0].weight.detach().clone()
                optimizer.train()
                optimizer.eval()
                assert (network[0].weight - evaluated).abs().max() < 1e-9
            values = torch.linalg.svdvals(network[2].weight.detach())
            distances.append((values.square() - 1).square().sum().item())
        assert distances[0] < 0.2 * distances[1], distances


class _Counting:
    """A backend that counts how often the compiler compiles, and runs the graphs as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, module: Any, inputs: Any) -> Any:
        self.graphs += 1
        return module.forward


def compiled(**_: Any) -> None:
    """torch.compile(optimizer.step) over 1000 steps of a schedule: after the first ones no compilation."""
    for every, tensor_lr in ((1, False), ("auto", False), ("auto", True), (3, True)):
        _compiled(every, tensor_lr)


def _compiled(every: Any, tensor_lr: bool) -> None:
    torch._dynamo.reset()
    model, plain = mlp(), mlp()
    compiler = _Counting()
    steps: list[tuple[nn.Module, Optimizer, Callable[[], object], LRScheduler]] = []
    for network in (model, plain):
        lr = torch.tensor(1e-2) if tensor_lr else 1e-2
        optimizer = adamo(network, isometry_every=every, lr=lr)
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100) * (1 - step / 1000))
        step = torch.compile(optimizer.step, backend=compiler) if network is model else optimizer.step
        steps.append((network, optimizer, step, schedule))
    for number in range(1000):
        for network, optimizer, step, schedule in steps if number < 20 else steps[:1]:
            optimizer.zero_grad()
            loss_of(network, *batch()).backward()
            step()
            schedule.step()
        if number == 19:
            # A compiled step has its bias corrections in float32, AdamW's as well: 2e-7 apart by now,
            # and growing as all differences do in training.
            must_be_equal(model, plain)
            warm = compiler.graphs
    assert warm > 0, "nothing was compiled"
    assert compiler.graphs == warm, f"{compiler.graphs - warm} graphs more after step 20"


def in_backward(**_: Any) -> None:
    """One optimizer per parameter, stepped as soon as its gradient is there, is one for all."""
    model = mlp()
    optimizers: dict[Tensor, AdamO] = {}
    for group in param_groups(model, isometry=SETTINGS["isometry"]):
        for _name, p in group["params"]:
            settings = {key: value for key, value in group.items() if key != "params"}
            optimizers[p] = AdamO([{"params": [p], **settings}], lr=SETTINGS["lr"], isometry_every=1)

    def step(p: Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in optimizers:
        p.register_post_accumulate_grad_hook(step)
    for _step in range(12):
        loss_of(model, *batch()).backward()
    must_be_equal(model, alone(mlp(), isometry_every=1))
