"""attach on what people train with: wrappers, closures, second order, no learning rate, or one that is found.

An optimizer that would leave isometry inactive is refused, in words and without a trace; every other one
brings the singular values towards one.
"""

from __future__ import annotations

import collections
import copy
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isoplast import attach
from isoplast.isometry import isometry_step
from isoplast.optim import GROUP_DEFAULTS
from isoplast.optim._turns import OWED, WAIT
from isoplast.optim._wrappers import chain

Make = Callable[[nn.Module], Any]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-2)


INPUTS = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))


def trained(make: Make, mode: str, strength: float | None, steps: int = 60) -> Tensor:
    """The singular values of the first layer after training with gradients that are next to nothing.

    Args:
        make: the optimizer of a network.
        mode: "step", "closure", "graph" (gradients with a graph) or "calls" (first_step, second_step).
        strength: c = lr * isometry of every step, or None to train without isometry.
        steps: their number.
    """
    model = net()
    optimizer = make(model)
    if strength is not None:
        group = optimizer.param_groups[0]
        attach(optimizer, strength / (float(group["lr"]) * float(group.get("d", 1.0))), every=1)
    if callable(getattr(optimizer, "train", None)):
        optimizer.train()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 1e-4 * model(INPUTS).square().mean()
        loss.backward(create_graph=mode == "graph")
        return loss

    for _ in range(steps):
        closure()
        if mode == "closure":
            optimizer.step(closure)
        elif mode == "calls":
            optimizer.first_step()
            closure()
            optimizer.second_step()
        else:
            optimizer.step()
    return torch.linalg.svdvals(model[0].weight.detach())


def assert_it_acts(make: Make, mode: str = "step") -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, kept = (float((trained(make, mode, c) - 1).abs().max()) for c in (None, 0.02))
    assert plain > 0.2, "nothing to do"
    # 60 steps of c = 0.02 are nearly ten time constants; a wrapper may take half of every step back.
    assert kept < 0.5 * plain


# wrappers ------------------------------------------------------------------------------------------------


class HandsOn(Optimizer):
    """Accelerate's kind: a subclass that never called Optimizer.__init__ and hands everything on."""

    def __init__(self, optimizer: Optimizer, hooks: bool = False) -> None:
        self.optimizer = optimizer
        if hooks:
            self._optimizer_step_pre_hooks = collections.OrderedDict()
            self._optimizer_step_post_hooks = collections.OrderedDict()

    param_groups = property(lambda self: self.optimizer.param_groups)  # type: ignore[assignment]
    state = property(lambda self: self.optimizer.state)  # type: ignore[assignment]
    defaults = property(lambda self: self.optimizer.defaults)  # type: ignore[assignment]

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)


class LooksAhead(Optimizer):
    """Lookahead as it is most often copied: slow weights, the groups and nothing else of the inner one."""

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        self.inner, self.k, self.alpha, self.count = optimizer, k, alpha, 0
        self.param_groups = optimizer.param_groups
        self.state: Any = collections.defaultdict(dict)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                slow = self.state[p].setdefault("slow", p.clone())
                if self.count % self.k == 0:
                    slow.lerp_(p, self.alpha)
                    p.copy_(slow)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)


class SharpnessAware(Optimizer):
    """The common form of SAM: perturbs, evaluates once, restores, and lets the inner one step."""

    def __init__(self, params: Any, lr: float, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=lr)

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.clone()
                p.add_(group["rho"] * p.grad / (p.grad.norm() + 1e-12))

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
        self.base_optimizer.step()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


class PerturbsItself(Optimizer):
    """SAM in one class: evaluates its closure at other weights and puts the old ones back."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        params = [p for group in self.param_groups for p in group["params"]]
        old = [p.clone() for p in params]
        for p in params:
            p.add_(0.05 * torch.ones_like(p))
        with torch.enable_grad():
            loss = closure()
        for p, before in zip(params, old, strict=True):
            p.copy_(before - self.param_groups[0]["lr"] * p.grad)
            p.grad = None  # some leave no gradient behind
        return loss


class DuckTyped:
    """schedulefree.ScheduleFreeWrapper's kind: no Optimizer at all, with one inside."""

    def __init__(self, base: Optimizer) -> None:
        self.base = base

    param_groups = property(lambda self: self.base.param_groups)
    state = property(lambda self: self.base.state)

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)

    def zero_grad(self) -> None:
        self.base.zero_grad()


OWN: dict[str, tuple[Make, tuple[str, ...]]] = {
    "hands on": (lambda m: HandsOn(sgd(m)), ("step", "closure")),
    "hands on, with hook lists": (lambda m: HandsOn(sgd(m), hooks=True), ("step", "closure")),
    "twice": (lambda m: HandsOn(HandsOn(sgd(m))), ("step", "closure")),
    "looks ahead": (lambda m: LooksAhead(sgd(m)), ("step", "closure")),
    "sharpness-aware": (lambda m: SharpnessAware(m.parameters(), 1e-2), ("closure", "calls")),
    "perturbs itself": (lambda m: PerturbsItself(m.parameters(), 1e-2), ("closure",)),
    "duck typed": (lambda m: DuckTyped(sgd(m)), ("step", "closure")),
}


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, (_, modes) in OWN.items() for mode in modes]
)
def test_wrappers_of_every_kind(name, mode):
    assert_it_acts(OWN[name][0], mode)


def package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"the {name} package is not installed")


REAL: dict[str, tuple[str, Callable[[Any, nn.Module], Any], tuple[str, ...]]] = {
    "Lookahead": ("pytorch_optimizer", lambda po, m: po.Lookahead(sgd(m)), ("step", "closure")),
    "OrthoGrad": ("pytorch_optimizer", lambda po, m: po.OrthoGrad(sgd(m)), ("step", "closure")),
    "PCGrad": ("pytorch_optimizer", lambda po, m: po.PCGrad(sgd(m)), ("step",)),
    "ScheduleFreeWrapper": (
        "pytorch_optimizer",
        lambda po, m: po.ScheduleFreeWrapper(sgd(m)),
        ("step", "closure"),
    ),
    "Lookahead of OrthoGrad": (
        "pytorch_optimizer",
        lambda po, m: po.Lookahead(po.OrthoGrad(torch.optim.AdamW(m.parameters(), lr=1e-2))),
        ("step",),
    ),
    "SAM": (
        "pytorch_optimizer",
        lambda po, m: po.SAM(m.parameters(), torch.optim.SGD, lr=1e-2),
        ("closure", "calls"),
    ),
    "WSAM": (
        "pytorch_optimizer",
        lambda po, m: po.WSAM(m, m.parameters(), torch.optim.SGD, lr=1e-2),
        ("closure", "calls"),
    ),
    "Prodigy": ("pytorch_optimizer", lambda po, m: po.Prodigy(m.parameters()), ("step", "closure")),
    "DAdaptAdam": ("pytorch_optimizer", lambda po, m: po.DAdaptAdam(m.parameters()), ("step",)),
    "DAdaptSGD": ("pytorch_optimizer", lambda po, m: po.DAdaptSGD(m.parameters()), ("step", "closure")),
    "DAdaptAdaGrad": ("pytorch_optimizer", lambda po, m: po.DAdaptAdaGrad(m.parameters()), ("step",)),
    "MADGRAD": ("pytorch_optimizer", lambda po, m: po.MADGRAD(m.parameters()), ("step", "closure")),
    "AdaHessian": ("pytorch_optimizer", lambda po, m: po.AdaHessian(m.parameters()), ("graph",)),
    "SophiaH": ("pytorch_optimizer", lambda po, m: po.SophiaH(m.parameters()), ("graph",)),
    "schedulefree wrapper": ("schedulefree", lambda sf, m: sf.ScheduleFreeWrapper(sgd(m)), ("step",)),
    "schedule-free": (
        "schedulefree",
        lambda sf, m: sf.AdamWScheduleFree(m.parameters(), lr=1e-2),
        ("step", "closure"),
    ),
    "schedule-free by closures": (
        "schedulefree",
        lambda sf, m: sf.SGDScheduleFreeClosure(m.parameters(), lr=1e-2),
        ("closure",),
    ),
}


@pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, (*_, modes) in REAL.items() for mode in modes]
)
def test_optimizers_of_real_packages(name, mode):
    where, make, _ = REAL[name]
    module = package(where)
    assert_it_acts(lambda model: make(module, model), mode)


def test_accelerate():
    module = package("accelerate.optimizer")
    importlib.import_module("accelerate").Accelerator(cpu=True)
    assert_it_acts(lambda model: module.AcceleratedOptimizer(sgd(model)))


def test_what_a_wrapper_owes_is_saved_by_the_inner_one_and_restored():
    model = net()
    wrapper = HandsOn(torch.optim.AdamW(model.parameters(), lr=1e-2))
    attachment = attach(wrapper, 0.5, every=4)
    twin = copy.deepcopy(model)
    for step in range(11):
        if step == 6:
            saved = copy.deepcopy(wrapper.state_dict())
            twin.load_state_dict(model.state_dict())
        model.zero_grad()
        model(INPUTS).square().mean().backward()
        wrapper.step()
    assert saved["state"][0].keys() >= {OWED, WAIT}
    other = HandsOn(torch.optim.AdamW(twin.parameters(), lr=1e-2))
    attach(other, 0.1)
    other.load_state_dict(saved)
    for _ in range(5):
        twin.zero_grad()
        twin(INPUTS).square().mean().backward()
        other.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
    attachment.remove()
    assert not GROUP_DEFAULTS.keys() & wrapper.param_groups[0].keys()


def test_a_wrapper_and_its_inner_one_are_attached_to_once():
    inner = sgd(net())
    outer = HandsOn(inner)
    attachment = attach(outer)
    for optimizer in (outer, inner):
        with pytest.raises(ValueError, match="already has an attachment"):
            attach(optimizer)
    attachment.remove()
    attach(inner)


def test_an_optimizer_of_other_parameters_is_no_inner_one():
    """Optimizers that hold a helper for some of their parameters do the step themselves."""

    class Mixed(torch.optim.SGD):
        def __init__(self, params: Any) -> None:
            params = list(params)
            super().__init__(params, lr=1e-2)
            self.helper = torch.optim.SGD(params[:1], lr=1e-2)

    optimizer = Mixed(net().parameters())
    assert chain(optimizer) == [optimizer]


# refusals ------------------------------------------------------------------------------------------------


class Polyak(Optimizer):
    def __init__(self, params: Any, **defaults: Any) -> None:
        super().__init__(params, defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


class Several(Optimizer):
    """Holds two optimizers and never called Optimizer.__init__."""

    def __init__(self, model: nn.Sequential) -> None:
        self.optimizers = [sgd(model[0]), sgd(model[2])]

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()


class TwoPhases(Polyak):
    def first_step(self) -> None:
        pass

    def second_step(self) -> None:
        pass


class FTRL(Polyak):
    pass


class MechanizeSGD(Polyak):
    pass


REFUSED: dict[str, tuple[Make, type[Exception], str]] = {
    "no lr": (lambda m: Polyak(m.parameters(), beta=0.9), ValueError, "Polyak hold no learning rate"),
    "lr None": (lambda m: Polyak(m.parameters(), lr=None), ValueError, r"no learning rate \(lr is None\)"),
    "lr a function": (lambda m: Polyak(m.parameters(), lr=lambda t: 0.1), ValueError, "no learning rate"),
    "lr negative": (lambda m: Polyak(m.parameters(), lr=-1.0), ValueError, "Invalid learning rate"),
    "several": (Several, TypeError, "does not call torch's step hooks"),
    "two phases": (lambda m: TwoPhases(m.parameters(), lr=0.1), ValueError, "first_step.. and second_step"),
    "FTRL": (lambda m: FTRL(m.parameters(), lr=0.1), ValueError, "places the weights anew"),
    "mechanized": (lambda m: MechanizeSGD(m.parameters(), lr=0.1), ValueError, "places the weights anew"),
    "wrapped LBFGS": (lambda m: HandsOn(torch.optim.LBFGS(m.parameters())), ValueError, "LBFGS moves"),
    "nothing": (lambda m: None, TypeError, "attach needs a torch optimizer, not NoneType"),
    "a module": (lambda m: m, TypeError, "attach needs a torch optimizer, not Sequential"),
    "TRAC": (lambda m: package("pytorch_optimizer").TRAC(sgd(m)), ValueError, "TRAC places the weights anew"),
    "BSAM": (
        lambda m: package("pytorch_optimizer").BSAM(m.parameters(), num_data=64),
        ValueError,
        "holds no optimizer to attach to",
    ),
}


@pytest.mark.parametrize(("make", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_inactive_is_refused_without_a_trace(make, error, words):
    optimizer = make(net())
    groups = [dict(group) for group in getattr(optimizer, "param_groups", ())]
    before = {key: copy.copy(value) for key, value in getattr(optimizer, "__dict__", {}).items()}
    with pytest.raises(error, match=words) as caught:
        attach(optimizer, isometry=0.1)
    assert "\n" not in str(caught.value)
    assert [group.keys() for group in getattr(optimizer, "param_groups", ())] == [g.keys() for g in groups]
    after = getattr(optimizer, "__dict__", {})
    assert after.keys() == before.keys()
    assert all(len(after[key]) == len(before[key]) for key in before if key.endswith("_hooks"))


def test_a_refusal_late_in_the_check_changes_no_group():
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}]
    optimizer = Polyak(groups, lr=None)
    with pytest.raises(ValueError, match="no learning rate"):
        attach(optimizer)
    assert not any(GROUP_DEFAULTS.keys() & group.keys() for group in optimizer.param_groups)


# learning rates that are found ---------------------------------------------------------------------------


def test_the_strength_goes_along_with_the_rate_that_is_found():
    """c = lr * d * isometry in every step, with the d of the group at that moment."""
    w = nn.Parameter(2 * torch.eye(3, dtype=torch.float64))
    optimizer = Polyak([w], lr=0.5, d=0.1)
    attachment = attach(optimizer, 0.2, every=1)
    expected = w.detach().clone()
    for d in (0.1, 0.1, 0.4, torch.tensor(0.3)):
        optimizer.param_groups[0]["d"] = d
        w.grad = torch.zeros_like(w)
        optimizer.step()
        expected = isometry_step(expected, 0.5 * float(d) * 0.2)
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-14)
    # float32's 0.3, as the tensor has it
    assert attachment.report().time_constants[0] == pytest.approx(1 / (8 * 0.5 * 0.3 * 0.2), rel=1e-6)


def test_a_time_constant_of_a_rate_that_is_found_is_refused():
    optimizer = Polyak([nn.Parameter(torch.eye(3))], lr=1.0, d=1e-6)
    with pytest.raises(ValueError, match="finds while it trains"):
        attach(optimizer, isometry_time=1000)
    assert "isometry" not in optimizer.param_groups[0]


# after the step ------------------------------------------------------------------------------------------


def test_a_closure_of_a_foreign_optimizer_gets_its_step_afterwards():
    """At the weights that the optimizer leaves; for torch's own before its update, as without a closure."""
    start = torch.tensor([[2.0, 0.3], [0.1, 1.5]], dtype=torch.float64)
    slope = torch.full((2, 2), 0.1, dtype=torch.float64)

    class Foreign(torch.optim.SGD):
        pass

    for kind, expected in (
        (Foreign, isometry_step(start - 0.05 * slope, 0.05 * 0.2)),
        (torch.optim.SGD, isometry_step(start, 0.05 * 0.2) - 0.05 * slope),
    ):
        w = nn.Parameter(start.clone())
        optimizer = kind([w], lr=0.05)
        attach(optimizer, 0.2, every=1)

        def closure(w: nn.Parameter = w) -> float:
            w.grad = slope.clone()
            return 3.0

        assert optimizer.step(closure) == 3.0
        torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("bias_decay", [0.0, 0.1])
def test_gradients_can_be_differentiated_in_the_optimizers_step(every, bias_decay):
    """A change of the weights before would end in autograd's complaint about an in-place operation."""

    class Curvature(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            params = [p for group in self.param_groups for p in group["params"]]
            grads = [p.grad for p in params]
            self.diagonal = torch.autograd.grad(grads, params, [torch.ones_like(g) for g in grads])
            super().step()

    model = net()
    groups = [{"params": list(model.parameters()), "bias_decay": bias_decay}]
    optimizer = Curvature(groups, lr=0.1)
    attach(optimizer, 0.5, every=every)
    before = torch.linalg.svdvals(model[0].weight.detach())
    for _ in range(9):
        optimizer.zero_grad()
        (1e-4 * model(INPUTS).square().mean()).backward(create_graph=True)
        optimizer.step()
    after = torch.linalg.svdvals(model[0].weight.detach())
    assert (after - 1).norm() < 0.95 * (before - 1).norm()
    for p in model.parameters():
        p.grad = None
