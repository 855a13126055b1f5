"""UPGD, perturbed gradients, equal betas, Muon, schedule-free and SAM do what their sources say."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from collections.abc import Callable

import pytest
import pytorch_optimizer
import schedulefree
import torch
from contract_runs import step as one_step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import StepContext, Training, training
from isoplast.methods.optimizers._upgd_optimizer import UPGD
from isoplast.nn import build
from isoplast.optim._muon import muon_with_adam

Optimizer = torch.optim.Optimizer


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", input_shape=(6,), classes=3, width=8, depth=2).to(dtype)


def batches(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(5, 6, generator=generator, dtype=dtype), torch.randint(3, (5,), generator=generator))
        for _ in range(count)
    ]


def train(run: Training, steps: int = 20) -> dict[str, Tensor]:
    for data in batches(steps, next(run.model.parameters()).dtype):
        one_step(run, data)
    return run.model.state_dict()


def trained(name: str, **settings: object) -> dict[str, Tensor]:
    return train(training(name, network(), lr=1e-2, **settings))


def plainly(
    model: nn.Module, step: Callable[[Callable[[], Tensor]], object], steps: int = 20
) -> dict[str, Tensor]:
    """Train without any method; `step` gets a closure that leaves fresh gradients."""
    for inputs, targets in batches(steps, next(model.parameters()).dtype):

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
            model.zero_grad()
            loss = cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        step(closure)
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def weights(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


# --- strength 0, ranges, combinations -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "strength"), [("perturbed-gradient", "sigma"), ("sam", "rho")])
def test_strength_zero_is_adam_to_the_bit_and_draws_no_random_numbers(name: str, strength: str) -> None:
    adam = trained("adam")
    before = torch.get_rng_state()
    torch.manual_seed(0)
    network()
    expected = torch.get_rng_state()
    assert same(trained(name, **{strength: 0.0}), adam)
    assert torch.equal(torch.get_rng_state(), expected)
    assert not same(trained(name), adam)
    torch.set_rng_state(before)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("upgd", {"sigma": -1}, "sigma of method upgd is -1.0: it must not be negative"),
        ("upgd", {"beta_utility": 1}, r"beta_utility of method upgd is 1.0: it must be in \[0, 1\)"),
        ("perturbed-gradient", {"sigma": -0.1}, "sigma of method perturbed-gradient is -0.1"),
        ("equal-betas", {"beta": 1.0}, r"beta of method equal-betas is 1.0: it must be in \[0, 1\)"),
        ("muon", {"ns_steps": 0}, "ns_steps of method muon is 0: it must be from 1 to 99"),
        ("muon", {"momentum": 1}, r"momentum of method muon is 1.0: it must be in \[0, 1\)"),
        ("muon", {"adjust_lr": "none"}, "it must be 'original' or 'match_rms_adamw'"),
        ("schedule-free", {"betas": (0.0, 0.9)}, r"betas\[0\] of method schedule-free is 0.0"),
        ("schedule-free", {"warmup_steps": -1}, "warmup_steps of method schedule-free is -1"),
        ("sam", {"rho": -1}, "rho of method sam is -1.0: it must not be negative"),
    ],
)
def test_what_is_out_of_range_is_refused(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(IsoplastError, match=message):
        methods.get(name, **settings)


def test_sam_and_noise_go_with_any_optimizer_and_two_optimizers_do_not() -> None:
    muon = ["muon"] if hasattr(torch.optim, "Muon") else []
    for other in ("adamo", *muon, "upgd", "schedule-free", "equal-betas"):
        assert all(value.isfinite().all() for value in trained(f"sam+perturbed-gradient+{other}").values())
    with pytest.raises(IsoplastError, match="muon and upgd cannot be combined: both bring an optimizer"):
        methods.get("muon+upgd")


# --- UPGD -----------------------------------------------------------------------------------------------


def test_upgd_without_noise_is_its_formula_by_hand() -> None:
    p = weights(1.0, -2.0, 0.5)
    lr, decay, beta = 0.1, 0.01, 0.9
    optimizer = UPGD([p], lr=lr, weight_decay=decay, beta_utility=beta, sigma=0.0)
    theta, average = [1.0, -2.0, 0.5], [0.0, 0.0, 0.0]
    for step, gradient in enumerate(([-1.0, -0.5, 2.0], [0.3, 0.7, -1.0]), start=1):
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        average = [beta * u - (1 - beta) * g * w for u, g, w in zip(average, gradient, theta, strict=True)]
        utility = [u / (1 - beta**step) for u in average]
        largest = max(utility)
        assert largest > 0
        theta = [
            (1 - lr * decay) * w - 2 * lr * g * (1 - 1 / (1 + math.exp(-u / largest)))
            for w, g, u in zip(theta, gradient, utility, strict=True)
        ]
        assert p.tolist() == pytest.approx(theta, rel=1e-12)


def test_upgd_moves_a_useless_weight_by_lr_and_the_most_useful_one_by_half_of_it() -> None:
    p = weights(0.0, 1.0)  # utility -g theta: 0 and 1
    p.grad = torch.tensor([1.0, -1.0], dtype=torch.float64)
    UPGD([p], lr=0.1, weight_decay=0.0, sigma=0.0).step()
    assert p.tolist() == pytest.approx([-0.1, 1.0 + 2 * 0.1 * (1 - 1 / (1 + math.exp(-1.0)))])


def test_upgd_spares_nobody_more_for_being_harmful() -> None:
    # All utilities are negative: divided by their maximum, as in the source, the last would be spared most.
    p = weights(1.0, 1.0, 1.0)
    p.grad = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    UPGD([p], lr=1.0, weight_decay=0.0, sigma=0.0).step()
    moved = (1 - p.detach()) / p.grad
    assert (moved.diff() > 0).all()
    # And without any utility at all (0 / 0 in the source) everything moves by lr.
    q = weights(0.0, 0.0)
    q.grad = torch.ones(2, dtype=torch.float64)
    UPGD([q], lr=0.1, weight_decay=0.0, sigma=0.0).step()
    assert q.tolist() == pytest.approx([-0.1, -0.1])


def test_upgds_largest_utility_is_that_of_all_parameters() -> None:
    small, large = weights(0.1), weights(10.0)
    small.grad = large.grad = torch.tensor([-1.0], dtype=torch.float64)  # utilities .1 and 10
    UPGD([{"params": [small]}, {"params": [large]}], lr=1.0, weight_decay=0.0, sigma=0.0).step()
    sigmoid = 1 / (1 + math.exp(-0.01))
    assert small.item() == pytest.approx(0.1 + 2 * (1 - sigmoid))


def test_upgds_noise_has_the_asked_size() -> None:
    p = nn.Parameter(torch.zeros(200_000, dtype=torch.float64))  # without utility: moves by lr * noise
    p.grad = torch.zeros_like(p)
    torch.manual_seed(0)
    UPGD([p], lr=0.5, weight_decay=0.0, sigma=0.2).step()
    # The standard deviation of a sample of n is within 4 / sqrt(2 n) = 0.6 % of the true one.
    assert p.std().item() == pytest.approx(0.5 * 0.2, rel=0.01)
    assert abs(p.mean().item()) < 4 * 0.1 / math.sqrt(p.numel())


def test_upgd_is_a_torch_optimizer() -> None:
    model = network()
    optimizer = UPGD(model.parameters(), lr=1e-2)
    model.head.bias.requires_grad_(False)  # a parameter without gradient stays
    plainly(model, optimizer.step, 5)
    twin = copy.deepcopy(model)
    other = UPGD(twin.parameters(), lr=1.0)
    other.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    results = []
    for which, its in ((model, optimizer), (twin, other)):
        torch.manual_seed(3)
        results.append(plainly(which, its.step, 5))
    assert same(*results)
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(IsoplastError, match="UPGD needs dense gradients"):
        UPGD(embedding.parameters()).step()
    with pytest.raises(IsoplastError, match="lr of UPGD is -1"):
        UPGD(model.parameters(), lr=-1)


# --- perturbed gradients --------------------------------------------------------------------------------


def test_the_perturbation_comes_on_top_of_the_optimizers_step() -> None:
    p, frozen = weights(1.0, 2.0), weights(1.0)
    optimizer = torch.optim.SGD([{"params": [p], "lr": 0.1}, {"params": [frozen], "lr": 1.0}])
    p.grad = torch.tensor([0.5, -1.0], dtype=torch.float64)
    optimizer.step()
    method = methods.get("perturbed-gradient", sigma=0.3)
    torch.manual_seed(5)
    nothing = torch.zeros(1)
    method.after_step(StepContext(nn.Module(), optimizer, nothing, nothing, 1))
    torch.manual_seed(5)
    noise = torch.randn(2, dtype=torch.float64)
    perturbed = torch.tensor([0.5, -1.0], dtype=torch.float64) + 0.3 * noise
    expected = torch.tensor([1.0, 2.0], dtype=torch.float64) - 0.1 * perturbed
    torch.testing.assert_close(p.detach(), expected, rtol=1e-14, atol=0)
    assert frozen.item() == 1.0  # no gradient, no noise


# --- equal betas ----------------------------------------------------------------------------------------


def largest_step(name: str) -> float:
    """The largest step, in learning rates, when gradients grow by a million at once."""
    method, model = methods.get(name), nn.Linear(1, 1, bias=False)
    optimizer = method.optimizer(model, 1e-3)
    (weight,) = model.parameters()
    largest = 0.0
    for step in range(3030):
        weight.grad = torch.full_like(weight, 1e-6 if step < 3000 else 1.0)
        before = weight.item()
        optimizer.step()
        if step >= 3000:
            largest = max(largest, abs(weight.item() - before) / 1e-3)
    return largest


def test_equal_betas_bound_every_step_by_the_learning_rate() -> None:
    # 1e-4: float32 weights of size one resolve a step of 1e-3 to 6e-5.
    assert largest_step("equal-betas") <= 1 + 2e-4
    # max over k of (1 - .9^k) / sqrt(1 - .999^k) is 6.57; 3000 tiny steps correct the moments' bias to 5 %.
    assert largest_step("adam") == pytest.approx(6.57, rel=0.05)


def test_equal_betas_are_torchs_adam_with_both_betas() -> None:
    group = methods.get("equal-betas", beta=0.95, eps=1e-6).optimizer(network(), 1e-2).param_groups[0]
    assert group["betas"] == (0.95, 0.95)
    assert group["eps"] == 1e-6


# --- Muon -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adjust_lr", ["match_rms_adamw", "original"])
def test_muon_is_torchs_muon_beside_torchs_adam_to_the_bit(adjust_lr: str) -> None:
    ours = trained("muon", adjust_lr=adjust_lr, weight_decay=0.1)
    model = network()
    hidden = [layer.weight for layer in model.layers]
    rest = [p for p in model.parameters() if all(p is not q for q in hidden)]
    muon = torch.optim.Muon(hidden, lr=1e-2, weight_decay=0.1, adjust_lr_fn=adjust_lr)
    adam = torch.optim.Adam(rest, lr=1e-2, fused=True)

    def step(closure: Callable[[], Tensor]) -> None:
        closure()
        muon.step()
        adam.step()

    assert same(ours, plainly(model, step))


class Odd(nn.Module):
    """A kernel, a fused projection, and nothing else that is hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, groups=1)
        self.qkv = nn.Linear(4, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.qkv(self.conv(inputs).mean((2, 3))))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_orthogonalises_kernels_flattened_and_fused_projections_apart(
    layout: torch.memory_format,
) -> None:
    torch.manual_seed(0)
    model = Odd().to(memory_format=layout)
    optimizer = muon_with_adam(model, 0.1, momentum=0.0, nesterov=False, adjust_lr="original")
    before = copy.deepcopy(model)
    model(torch.randn(6, 3, 5, 5)).square().sum().backward()
    kernel, blocks = model.conv.weight.grad.clone(), model.qkv.weight.grad.clone()
    optimizer.step()

    def direction(gradient: Tensor) -> Tensor:
        probe = nn.Parameter(torch.zeros_like(gradient))
        probe.grad = gradient
        torch.optim.Muon([probe], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
        return probe.detach()

    moved = (model.conv.weight - before.conv.weight).detach().reshape(4, -1)
    # The bfloat16 products of the iteration see the same numbers: what differs is the last rounding of W.
    torch.testing.assert_close(moved, 0.1 * direction(kernel.reshape(4, -1)), rtol=1e-5, atol=1e-7)
    moved = (model.qkv.weight - before.qkv.weight).detach()
    expected = torch.cat([direction(block) for block in blocks.chunk(3)])
    torch.testing.assert_close(moved, 0.1 * expected, rtol=1e-5, atol=1e-7)
    assert optimizer.state[model.conv.weight]["momentum_buffer"].shape == model.conv.weight.shape


def test_muon_with_adam_survives_copies_checkpoints_and_new_groups() -> None:
    model = network()
    optimizer = muon_with_adam(model, 1e-2)
    plainly(model, optimizer.step, 5)
    copied_model, copied = copy.deepcopy((model, optimizer))
    loaded_model = copy.deepcopy(model)
    loaded = muon_with_adam(loaded_model, 1.0)
    loaded.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    expected = plainly(model, optimizer.step, 5)
    assert same(plainly(copied_model, copied.step, 5), expected)
    assert same(plainly(loaded_model, loaded.step, 5), expected)
    extra = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [("extra", extra)]})  # Adam's unless it says otherwise
    extra.grad = torch.ones(2)
    optimizer.step()
    torch.testing.assert_close(extra.detach(), torch.full((2,), 0.99))  # Adam's first step is lr
    matrix = nn.Parameter(torch.zeros(4, 4))
    optimizer.add_param_group({"params": [("matrix", matrix)], "muon": True})
    matrix.grad = torch.eye(4)
    optimizer.step()
    assert torch.linalg.svdvals(matrix.detach()).max() < 1.5 * 0.2 * 2 * 1e-2  # s = .2 sqrt 4
    assert matrix.detach().diagonal().max() < 0
    for group in optimizer.param_groups:  # as a scheduler does
        group["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    assert same(plainly(model, optimizer.step, 2), before)


def test_muon_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IsoplastError, match="Linear has no hidden weight matrix for Muon: use adam"):
        methods.get("muon").optimizer(nn.Linear(3, 2), 1e-3)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(IsoplastError, match=r"Muon came with torch 2.9, and this is torch .*: update torch"):
        methods.get("muon").optimizer(network(), 1e-3)


# --- schedule-free --------------------------------------------------------------------------------------


def test_schedule_free_is_the_authors_package() -> None:
    ours = trained("schedule-free", warmup_steps=5, weight_decay=0.01)
    model = network()
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=1e-2, warmup_steps=5, weight_decay=0.01)
    optimizer.train()
    assert same(ours, plainly(model, optimizer.step))
    defaults = schedulefree.AdamWScheduleFree(model.parameters()).defaults
    mine = methods.get("schedule-free").optimizer(model, defaults["lr"]).defaults
    assert mine == defaults


def test_schedule_free_evaluates_the_mean_and_trains_on_from_the_same_bits() -> None:
    run = training("schedule-free", network(torch.float64), lr=1e-2)
    model, optimizer = run.model, run.optimizer
    sums = {p: torch.zeros_like(p) for p in model.parameters()}
    for data in batches(12, torch.float64):
        one_step(run, data)
        for p, total in sums.items():
            total += optimizer.state[p]["z"]
    before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    with run.evaluated() as shown:
        for p, total in sums.items():
            torch.testing.assert_close(p.detach(), total / 12, rtol=1e-12, atol=1e-14)
        assert shown is model
    assert same(model.state_dict(), before)
    after = optimizer.state_dict()
    assert str(after) == str(state)
    with pytest.raises(RuntimeError, match="a failed measurement"), run.evaluated():
        raise RuntimeError("a failed measurement")
    assert same(train(run, 1), model.state_dict())


def test_schedule_free_says_which_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    method = methods.get("schedule-free")
    with pytest.raises(IsoplastError, match="needs its authors' package: pip install schedulefree"):
        method.optimizer(network(), 1e-3)


# --- SAM ------------------------------------------------------------------------------------------------


def test_sam_on_a_quadratic_by_hand() -> None:
    # L = 2 x^2 + y^2 / 2 at (1, 2): g = (4, 2), |g| = sqrt 20; uphill g = A (theta + rho g / |g|).
    p, q = weights(1.0), weights(2.0)
    optimizer = torch.optim.SGD([p, q], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (2 * p * p + q * q / 2).sum()
        loss.backward()
        return loss.detach()

    loss = methods.get("sam", rho=0.5).step(optimizer, closure)
    assert loss.item() == 4.0  # from here, not from uphill
    scale = 0.5 / math.sqrt(20)
    assert p.item() == pytest.approx(1 - 0.1 * 4 * (1 + 4 * scale), rel=1e-12)
    assert q.item() == pytest.approx(2 - 0.1 * (2 + 2 * scale), rel=1e-12)


def test_sam_is_that_of_pytorch_optimizer() -> None:
    ours = train(training("sam", network(torch.float64), lr=1e-2, rho=0.05))
    other = network(torch.float64)
    peer = pytorch_optimizer.SAM(other.parameters(), torch.optim.Adam, rho=0.05, lr=1e-2)

    def step(closure: Callable[[], Tensor]) -> None:
        closure()
        peer.step(closure)

    theirs = plainly(other, step)
    for key in ours:  # float64, but for the norm of the gradient, which the peer takes in float32 (6e-8)
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-7, atol=1e-8)


def test_sam_updates_batchnorm_once_from_the_weights_it_steps_from() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    twin = copy.deepcopy(model)
    run = training("sam", model, lr=1e-2, rho=1.0)
    ((inputs, targets),) = batches(1)
    one_step(run, (inputs, targets))
    twin(inputs)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model[1], key), getattr(twin[1], key))
    assert model[1].track_running_stats


def test_sam_without_any_gradient_stays_finite() -> None:
    p = weights(1.0)
    optimizer = torch.optim.SGD([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (0 * p).sum()
        loss.backward()
        return loss.detach()

    methods.get("sam").step(optimizer, closure)
    assert p.item() == 1.0
