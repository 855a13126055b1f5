"""The plasticity probe: the definition's value where it is known, and no trace left behind."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import scipy.stats
import torch
from schedulefree import AdamWScheduleFree
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from isoplast import AdamO, attach
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics import plasticity
from isoplast.diagnostics._student import interval, quantile
from isoplast.model._clone import clone, copy_optimizer, parameter_pairs, redrawn
from isoplast.nn import build


def mlp(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", input_shape=(8,), classes=4, width=32, depth=2, **options)


def inputs(n: int = 48, width: int = 8) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


def half_square(found: Tensor, wanted: Tensor) -> Tensor:
    return 0.5 * (found - wanted).square().sum()


class Regression:
    """A linear model under squared loss: linear in its weights, so its NTK says everything."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.model = nn.Linear(8, 3, bias=False, dtype=torch.float64)
        self.inputs = torch.randn(6, 8, generator=generator, dtype=torch.float64)
        # K = X X^T (x) I_3 over the 18 outputs.
        self.eigenvalues = torch.linalg.eigvalsh(self.inputs @ self.inputs.T).repeat_interleave(3)

    def task(self, index: int) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
        wanted = self.model(self.inputs).detach() + torch.randn(6, 3, dtype=torch.float64)
        return self.inputs, wanted, half_square

    def probe(self, lr: float, **options: Any) -> Any:
        def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, lr=lr)

        return plasticity(self.model, self.inputs, task=self.task, optimizer=sgd, **options)


def test_one_step_of_gradient_descent_removes_the_participation_rank_over_m() -> None:
    # paper section 7a: with eta = tr K / tr K^2 and random residuals, P_1 = PR / m.
    case = Regression()
    trace, square = case.eigenvalues.sum(), case.eigenvalues.square().sum()
    found = case.probe(float(trace / square), tasks=300, steps=1, fresh=False, points=1, confidence=0.9999)
    assert found.low < float(trace**2 / square / 18) < found.high
    assert found.high - found.low < 0.1  # the interval is narrow enough to mean something


def test_the_fraction_removed_is_that_of_the_linear_recursion() -> None:
    case = Regression()
    lr = 0.5 / float(case.eigenvalues.max())
    found = case.probe(lr, tasks=3, steps=7, fresh=False, points=7)
    gram = case.inputs @ case.inputs.T
    decay = torch.eye(6, dtype=torch.float64) - lr * gram
    for index in range(3):
        wanted = []
        residual = None
        # The residual of the task follows from its first loss only through its direction: redraw the task.
        seeds = torch.randint(2**62, (3, 4), generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng():
            torch.manual_seed(int(seeds[index, 0]))
            _, target, _ = case.task(index)
        residual = case.model(case.inputs).detach() - target
        for _ in range(8):
            wanted.append(0.5 * residual.square().sum())
            residual = decay @ residual
        # float64 throughout; seven steps of rounding.
        torch.testing.assert_close(found.losses[index], torch.stack(wanted), rtol=1e-12, atol=0)
    assert found.at == tuple(range(8))
    torch.testing.assert_close(found.per_task, 1 - found.losses[:, -1] / found.losses[:, 0])


def test_discounting_agrees_with_the_geometric_series() -> None:
    # All eigenvalues of K equal: rho_t = 1 - q^2t for every task, so the series has a closed form.
    case = Regression()
    case.inputs = torch.linalg.qr(case.inputs.T).Q.T.contiguous()
    q, gamma = 0.9, 0.8
    found = case.probe(1 - q, tasks=2, steps=120, fresh=False, points=120)
    # gamma^120 = 2e-12 of the weight lies beyond the budget.
    assert found.discounted(gamma) == pytest.approx(1 - (1 - gamma) / (1 - gamma * q**2), abs=1e-10)
    with pytest.raises(IsoplastError, match="gamma is 1"):
        found.discounted(1.0)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 8, 31])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_quantile(freedom: int, confidence: float) -> None:
    wanted = scipy.stats.t.ppf((1 + confidence) / 2, freedom)
    assert quantile(confidence, freedom) == pytest.approx(wanted, rel=1e-10)


def test_interval_of_one_value_is_unknown() -> None:
    mean, low, high = interval(torch.tensor([0.5]), 0.95)
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


class Watched(nn.Module):
    """BatchNorm, dropout, a frozen layer, a BatchNorm left in evaluation mode, and hooks that count."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3)
        self.frozen, self.still, self.head = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)
        self.frozen.requires_grad_(False)
        self.calls = 0
        for module in (self.first, self.head):
            module.register_forward_hook(self.count)
            module.register_forward_pre_hook(self.count)
            module.register_full_backward_hook(self.count)
        self.head.weight.register_hook(self.count)

    def count(self, *_: Any) -> None:
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(torch.relu(self.norm(self.first(x))))
        return self.head(self.still(self.frozen(hidden)))


def everything(model: Watched, optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that training has changed, as values to compare."""
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters() if p.grad is not None)]
    state = [v for entry in optimizer.state.values() for v in entry.values() if isinstance(v, Tensor)]
    modes = torch.tensor([m.training for m in model.modules()])
    return [*(t.clone() for t in [*tensors, *state]), modes, torch.get_rng_state(), torch.tensor(model.calls)]


def train(probing: bool) -> list[Any]:
    torch.manual_seed(3)
    model = Watched().train()
    model.still.eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(6):
        rows = torch.randperm(48)[:16]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs()[rows]), rows % 4).backward()
        if probing:
            plasticity(model, inputs(), tasks=1, steps=3, batch_size=16, optimizer=optimizer, state="keep")
            with torch.no_grad():
                plasticity(model, inputs(), tasks=1, steps=2, optimizer=optimizer)
        optimizer.step()
        scheduler.step()
    return everything(model, optimizer)


def test_training_goes_on_to_the_same_bits() -> None:
    for with_probe, without in zip(train(True), train(False), strict=True):
        assert torch.equal(with_probe, without)


def test_a_failing_task_leaves_no_trace() -> None:
    model, before = mlp(), torch.get_rng_state()
    with pytest.raises(IsoplastError, match=r"do not fit the model \(MLP\)"):
        plasticity(model, inputs(width=7))
    assert torch.equal(torch.get_rng_state(), before)


def attached_sgd(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(optimizer, 0.5, every=2)
    return optimizer


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=1e-2, fused=True),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), lr=1e-2),
    "lbfgs": lambda m: torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=2),
    "groups": lambda m: torch.optim.AdamW(
        [{"params": list(m.parameters())[:1], "lr": 1e-3}, {"params": list(m.parameters())[1:]}], lr=1e-2
    ),
    "adamo": lambda m: AdamO(m.parameters(), lr=1e-2, isometry=1.0, isometry_every=2),
    "adamo-time": lambda m: AdamO(m.parameters(), lr=1e-2, isometry_time=20.0),
    "attached": attached_sgd,
    "schedule-free": lambda m: AdamWScheduleFree(m.parameters(), lr=1e-2),
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, number: int = 4) -> list[Tensor]:
    if hasattr(optimizer, "train"):
        optimizer.train()
    for index in range(number):
        labels = (torch.arange(48) + index) % 4

        def closure(labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs()), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_copy_with_state_goes_on_like_the_original(name: str) -> None:
    model = mlp()
    optimizer = OPTIMIZERS[name](model)
    torch.optim.lr_scheduler.StepLR(optimizer, 100)  # wraps the original's step
    steps(model, optimizer, 5)
    before = [p.detach().clone() for p in model.parameters()]
    other = clone(model)
    copied = copy_optimizer(optimizer, parameter_pairs(model, other), keep=True)
    theirs = steps(other, copied)
    assert all(map(torch.equal, model.parameters(), before))
    assert all(map(torch.equal, theirs, steps(model, optimizer)))
    assert not all(map(torch.equal, theirs, before))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_copy_without_state_is_as_if_newly_made(name: str) -> None:
    model = mlp()
    optimizer = OPTIMIZERS[name](model)
    steps(model, optimizer, 5)
    if name == "schedule-free":
        optimizer.eval()  # type: ignore[attr-defined]
    copied_model, new_model = clone(model), clone(model)
    copied = copy_optimizer(optimizer, parameter_pairs(model, copied_model), keep=False)
    new = OPTIMIZERS[name](new_model)
    assert all(map(torch.equal, steps(copied_model, copied), steps(new_model, new)))
    assert type(copied) is type(optimizer)


def test_a_fresh_copy_takes_the_present_learning_rate() -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    optimizer.param_groups[0]["lr"] = 3e-4
    copied = copy_optimizer(optimizer, parameter_pairs(model, clone(model)), keep=False)
    assert copied.param_groups[0]["lr"] == 3e-4


def test_an_optimizer_that_cannot_be_made_anew_says_so() -> None:
    class Wrapped(torch.optim.SGD):
        def __init__(self, params: Any, secret: object) -> None:
            super().__init__(params, lr=0.1)

    model = mlp()
    with pytest.raises(IsoplastError, match="state='keep'"):
        plasticity(model, inputs(), optimizer=Wrapped(model.parameters(), object()))
    found = plasticity(model, inputs(), optimizer=lambda p: Wrapped(p, object()), tasks=1, steps=1)
    assert math.isfinite(found.value)


def test_the_state_makes_a_difference() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps(model, optimizer, 20)
    options: dict[str, Any] = {"optimizer": optimizer, "tasks": 2, "steps": 5}
    fresh, kept = (plasticity(model, inputs(), state=state, **options) for state in ("fresh", "keep"))
    assert not torch.equal(fresh.per_task, kept.per_task)
    assert fresh.fresh is not None
    assert kept.fresh is not None
    assert torch.equal(fresh.fresh.per_task, kept.fresh.per_task)


def test_networks_of_build_are_drawn_by_their_own_initialisation() -> None:
    model = mlp()
    steps(model, torch.optim.Adam(model.parameters(), lr=0.1))
    twin, kept = redrawn(model)
    assert kept == ()
    assert not torch.equal(twin.layers[1].weight, model.layers[1].weight)
    for layer in (*twin.layers, twin.head):
        values = torch.linalg.svdvals(layer.weight)
        # QR in float32: singular values to a few times 1e-7.
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)
        assert not layer.bias.any()
    for name in ("vit", "resnet18"):
        net = build(name, input_shape=(3, 8, 8), classes=4, width=8)
        assert redrawn(net)[1] == ()


class Module(nn.Module):
    """What has to be drawn in different ways, and one thing that nobody knows how to draw."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 64)
        self.norm = nn.BatchNorm1d(64)
        self.attention = nn.MultiheadAttention(64, 4)
        self.orthogonal = parametrizations.orthogonal(nn.Linear(64, 64))
        self.position = nn.Parameter(torch.randn(64))
        self.scale = nn.Parameter(torch.ones(64))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_any_module_is_drawn_by_what_it_is_made_of() -> None:
    model = Module()
    assert redrawn(model)[1] == ("position",)  # before any training too
    with torch.no_grad():
        model.norm.running_mean += 3
        for parameter in model.parameters():
            if parameter is not model.scale:
                parameter += 1
    before = copy.deepcopy(model.state_dict())
    twin, kept = redrawn(model)
    assert kept == ("position",)
    # nn.Linear draws from U(-1/4, 1/4) for 16 inputs; the trained weights were moved by 1.
    assert twin.inner.weight.abs().max() <= 0.25
    assert not twin.norm.running_mean.any()
    assert not twin.attention.in_proj_bias.any()
    assert twin.attention.in_proj_weight.mean().abs() < 0.1
    values = torch.linalg.svdvals(twin.orthogonal.weight)
    torch.testing.assert_close(values, torch.ones(64), rtol=0, atol=1e-4)
    assert not torch.allclose(twin.orthogonal.weight, model.orthogonal.weight)
    assert torch.equal(twin.frozen.weight, model.frozen.weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_twin_that_nobody_can_draw() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.matrix

    with pytest.raises(IsoplastError, match="nothing knows how to draw matrix of Raw anew"):
        plasticity(Raw(), inputs())
    for fresh in (Raw, Raw()):
        assert plasticity(Raw(), inputs(), tasks=2, steps=2, fresh=fresh).fresh is not None
    with pytest.raises(IsoplastError, match=r"fresh\(\) returned int"):
        plasticity(Raw(), inputs(), fresh=lambda: 1)  # type: ignore[arg-type,return-value]
    other = mlp()
    optimizer = torch.optim.Adam(other.parameters())
    with pytest.raises(IsoplastError, match=r"no parameter layers\.0\.weight of shape \(32, 8\)"):
        plasticity(other, inputs(), optimizer=optimizer, fresh=Raw)
    with pytest.raises(IsoplastError, match="holds no parameter of the model"):
        plasticity(Raw(), inputs(), optimizer=optimizer)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_network_against_itself_has_no_gap(dropout: float) -> None:
    # Same labels, batches and dropout masks: the paired difference is zero to the bit.
    model = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 4)
    )
    found = plasticity(model, inputs(), tasks=3, steps=10, batch_size=16, fresh=model)
    assert (found.gap, found.gap_low, found.gap_high) == (0.0, 0.0, 0.0)
    assert found.per_task.unique().numel() == 3  # the tasks differ


def test_it_sees_that_a_dead_network_cannot_learn() -> None:
    model = mlp()
    with torch.no_grad():
        model.layers[1].bias.fill_(-100.0)
    found = plasticity(model, inputs(), tasks=4, steps=60, lr=1e-2)
    assert found.gap_high < -0.5
    assert found.learned < 0.1  # only the head's bias can learn: the shares of the labels
    assert found.fresh is not None
    assert found.fresh.learned > 0.8


def test_unlearning_old_labels_is_told_from_learning() -> None:
    model = mlp()
    with torch.no_grad():
        model.layers[1].bias.fill_(-100.0)
        model.head.bias.copy_(torch.tensor([20.0, 0.0, 0.0, 0.0]))  # sure of one class whatever the input
    found = plasticity(model, inputs(), tasks=4, steps=150, lr=0.3, fresh=False)
    assert found.value > 0.8  # Definition 2.1: most of the loss is gone ...
    assert found.learned < 0.1  # ... down to chance


def test_divergence_is_reported_and_never_healthy() -> None:
    model = mlp()
    found = plasticity(
        model, inputs(), tasks=2, steps=5, fresh=model, optimizer=lambda p: torch.optim.SGD(p, lr=1e30)
    )
    assert found.diverged == 2
    assert math.isnan(found.value)
    assert math.isnan(found.gap)
    assert "the loss of the network diverged on 2 of 2 tasks" in str(found)
    with torch.no_grad():
        model.layers[0].weight[0, 0] = math.nan
    broken = plasticity(model, inputs(), tasks=2, steps=2)
    assert math.isnan(broken.value)
    assert broken.diverged == 2
    assert broken.fresh is not None
    assert math.isfinite(broken.fresh.value)


def test_infinite_weights_behind_a_saturating_activation_are_found() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight[0, 0] = math.inf
    found = plasticity(model, inputs(), tasks=2, steps=2)
    assert math.isfinite(float(found.losses[0, 0]))  # the loss alone does not tell
    assert math.isnan(found.value)
    assert found.diverged == 2


def test_the_same_seed_is_the_same_probe() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
    one, same = (plasticity(model, inputs(), tasks=2, steps=5, batch_size=16) for _ in range(2))
    other = plasticity(model, inputs(), tasks=2, steps=5, batch_size=16, seed=1)
    assert torch.equal(one.losses, same.losses)
    assert one.fresh is not None
    assert same.fresh is not None
    assert torch.equal(one.fresh.losses, same.fresh.losses)
    assert not torch.equal(one.losses, other.losses)


class Named(nn.Module):
    """Takes its inputs by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.layer(x) * scale


def test_inputs_of_every_form() -> None:
    few: dict[str, Any] = {"tasks": 2, "steps": 3, "batch_size": 8, "lr": 1e-2}
    x, scale = inputs(20), torch.ones(20, 1)
    by_keyword = plasticity(Named(), {"x": x, "scale": scale}, **few)
    assert by_keyword.value > 0
    assert plasticity(Named(), (x, scale), **few).value > 0
    tokens = torch.randint(11, (20, 6))
    gpt = build("gpt", input_shape=(6,), classes=11, width=16, depth=1, heads=2)
    assert plasticity(gpt, tokens, **few).value > 0
    with torch.inference_mode():
        made_there = inputs(20) * 2
        assert plasticity(mlp(), made_there, **few).value > 0
        assert plasticity(mlp(), made_there, tasks=2, steps=2).value > 0


def test_autocast_and_compiled_networks_give_the_same_numbers() -> None:
    model = mlp()
    wanted = plasticity(model, inputs(), tasks=2, steps=3).losses
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plasticity(model, inputs(), tasks=2, steps=3).losses, wanted)
    assert torch.equal(plasticity(torch.compile(model), inputs(), tasks=2, steps=3).losses, wanted)  # type: ignore[arg-type]


def test_weight_hooks_of_torch_come_along() -> None:
    layer = nn.utils.spectral_norm(nn.Linear(8, 8))
    model = nn.Sequential(layer, nn.Linear(8, 4))
    model(inputs())  # leaves a computed weight on the layer, which Python refuses to copy
    copied = clone(model)
    assert len(copied[0]._forward_pre_hooks) == 1
    with torch.no_grad():
        copied[0].weight_orig.mul_(7)
    copied.eval()
    # One power iteration has been done: a norm near 1, and far from 7.
    assert torch.linalg.matrix_norm(copied(torch.eye(8)) - copied(torch.zeros(1, 8)), 2) < 3


def test_modes_are_those_of_training() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5)).eval()
    evaluated = plasticity(model, inputs(), tasks=1, steps=3, fresh=False)
    model.train()
    trained = plasticity(model, inputs(), tasks=1, steps=3, fresh=False)
    model[1].eval()
    held = plasticity(model, inputs(), tasks=1, steps=3, fresh=False)
    assert torch.equal(evaluated.losses, trained.losses)
    assert not torch.equal(held.losses, trained.losses)
    assert torch.equal(held.losses[:, 0], trained.losses[:, 0])  # measured in evaluation mode either way


def test_it_prints_and_flattens() -> None:
    found = plasticity(mlp(), inputs(), tasks=3, steps=5)
    numbers = found.as_dict()
    assert all(isinstance(value, float) for value in numbers.values())
    assert {"value", "low", "high", "gap", "gap_low", "gap_high", "fresh_value", "learned"} <= set(numbers)
    assert numbers["gap"] == pytest.approx(found.value - numbers["fresh_value"])
    assert found.low < found.value < found.high
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert "3 tasks, 5 steps, Adam at lr 0.001" in lines[0]
    assert sum(line.startswith("fresh twin") for line in lines) == 1
    alone = plasticity(mlp(), inputs(), tasks=1, steps=5, fresh=False)
    assert not any(name.startswith(("fresh", "gap")) for name in alone.as_dict())
    torch.testing.assert_close(alone.curve[-1], torch.tensor(alone.value, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 0}, "tasks of plasticity is 0"),
        ({"steps": -1}, "steps of plasticity is -1"),
        ({"batch_size": 0}, "batch_size of plasticity is 0"),
        ({"points": 0}, "points of plasticity is 0"),
        ({"confidence": 95}, "confidence is 95"),
        ({"state": "kept"}, "did you mean 'keep'"),
        ({"state": "keep"}, "give optimizer="),
        ({"classes": 9}, "classes is 9: the network has 4 outputs"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        plasticity(mlp(), inputs(), **options)


def test_wrong_models_and_inputs() -> None:
    with pytest.raises(IsoplastError, match=r"outputs of shape \(n, 1\) have no classes"):
        plasticity(nn.Linear(8, 1), inputs())
    with pytest.raises(IsoplastError, match="at least one"):
        plasticity(mlp(), inputs(0))
    with pytest.raises(IsoplastError, match="no trainable parameter"):
        plasticity(nn.Linear(8, 3).requires_grad_(False), inputs())
    case = Regression()
    case.task = lambda index: (case.inputs, case.model(case.inputs).detach(), half_square)  # type: ignore[method-assign]
    with pytest.raises(IsoplastError, match="nothing to remove"):
        case.probe(0.1, fresh=False)
