"""AdamO's own promises: Adam beside isometry, Eq 19 and 20 exactly, and nothing moved by accident."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

from isoplast import AdamO, param_groups
from isoplast.isometry import flow_step, isometry_step, operator_step, penalty, singular_values
from isoplast.optim import ReferenceAdamO
from isoplast.optim._apply import apply_isometry_
from isoplast.optim._groups import GROUP_DEFAULTS
from isoplast.optim._turns import Schedule

SHAPES = ((140, 80), (6, 12), (9, 9), (8, 3, 3, 3), (11,), (1, 5))
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "default": {},
}


def make(dtype: torch.dtype = torch.float32, shapes: Any = SHAPES) -> list[Parameter]:
    """Normal parameters with singular values of order one."""
    source = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=source, dtype=torch.float64) / math.sqrt(max(s)) for s in shapes]
    return [Parameter(p.to(dtype)) for p in drawn]


def give_gradients(params: list[Any], step: int) -> None:
    source = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=source, dtype=torch.float64).to(p.dtype)


def run(optimizer: Any, params: list[Any], steps: int = 8) -> list[Tensor]:
    for step in range(steps):
        give_gradients(params, step)
        optimizer.step()
    return [p.detach().clone() for p in params]


def same_bits(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_isometry_every_bit_is_adams(implementation, amsgrad, maximize, weight_decay, dtype):
    settings = {"lr": 3e-3, "amsgrad": amsgrad, "maximize": maximize, **implementation}
    ours, theirs = make(dtype), make(dtype)
    mine = AdamO(ours, isometry=0, weight_decay=weight_decay, **settings)
    base = torch.optim.AdamW(theirs, weight_decay=weight_decay, **settings)
    assert same_bits(run(mine, ours), run(base, theirs))
    if weight_decay == 0:
        adams = make(dtype)
        assert same_bits([*ours], run(torch.optim.Adam(adams, **settings), adams))
    for p, q in zip(ours, theirs, strict=True):
        assert mine.state[p].keys() == base.state[q].keys()
        assert all(torch.equal(mine.state[p][key], base.state[q][key]) for key in base.state[q])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("every", [1, 3, "auto"])
def test_moments_are_the_same_bits_for_any_isometry(implementation, every):
    states = []
    for isometry in (0.0, 1e-3, 1.0):
        params = make()
        optimizer = AdamO(params, lr=1e-2, isometry=isometry, isometry_every=every, **implementation)
        run(optimizer, params)
        states.append([optimizer.state[p][key] for p in params for key in ("exp_avg", "exp_avg_sq", "step")])
    assert same_bits(states[0], states[1])
    assert same_bits(states[0], states[2])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("isometry", [0.0, 1e-3, 0.5])
def test_exact_mode_is_the_reference(implementation, isometry):
    shapes = SHAPES[:-1]  # a single row: Eq 16 would scale it, AdamO leaves it to Adam
    ours, theirs = make(torch.float64, shapes), make(torch.float64, shapes)
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "isometry": isometry}
    mine = run(AdamO(ours, isometry_every=1, **settings, **implementation), ours, 20)
    reference = run(ReferenceAdamO(theirs, **settings), theirs, 20)
    for p, q in zip(mine, reference, strict=True):
        # float64; the two correct Adam's bias in another order, and steps are of size lr = 1e-2.
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_gradient_is_taken_at_the_weights_before_the_step():
    params = make(torch.float64)
    before = [p.detach().clone() for p in params]
    adams = make(torch.float64)
    run(torch.optim.Adam(adams, lr=0.1), adams, 1)
    moved = run(AdamO(params, lr=0.1, isometry=0.05, isometry_every=1), params, 1)
    for p, old, adam in zip(moved, before, adams, strict=True):
        matrix = old.reshape(len(old), -1) if old.ndim > 1 and len(old) > 1 else None
        pull = torch.zeros_like(old)
        if matrix is not None:
            pull = (isometry_step(matrix, 0.005) - matrix).view_as(old)
        torch.testing.assert_close(p, adam.detach() + pull, rtol=0, atol=1e-14)
        if matrix is not None:
            assert pull.norm() > 1e-3 * (adam.detach() - old).norm(), "the pull is too small to be tested"


def test_maximize_turns_the_task_around_and_not_the_isometry():
    params = [Parameter(2 * torch.eye(4))]
    before = penalty(params[0].detach())
    params[0].grad = torch.zeros(4, 4)
    AdamO(params, lr=0.1, isometry=0.1, isometry_every=1, maximize=True).step()
    assert penalty(params[0].detach()) < before


@pytest.mark.parametrize("every", [1, 4, "auto"])
def test_zero_gradients(every):
    """Without a task the step is isometry alone: isometries and vectors stay, other matrices approach."""
    orthogonal = Parameter(nn.init.orthogonal_(torch.empty(8, 5, dtype=torch.float64)))
    other, vector = (
        Parameter(1.5 * orthogonal.detach().clone()),
        Parameter(torch.ones(5, dtype=torch.float64)),
    )
    params = [orthogonal, other, vector]
    before = [p.detach().clone() for p in params]
    optimizer = AdamO(params, lr=0.1, isometry=0.1, isometry_every=every)
    for _ in range(60):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    torch.testing.assert_close(orthogonal.detach(), before[0], rtol=0, atol=1e-14)
    assert torch.equal(vector.detach(), before[2])
    assert (singular_values(other.detach()) - 1).abs().max() < 0.05


@pytest.mark.parametrize("shape", [(300, 260), (260, 300), (200, 130)])
@pytest.mark.parametrize("every", [1, 2])
def test_transposed_matrices_move_alike(shape, every):
    w = make(torch.float64, [shape])[0]
    v = Parameter(w.detach().mT.clone())
    one = AdamO([w], lr=1e-2, isometry=0.1, isometry_every=every)
    other = AdamO([v], lr=1e-2, isometry=0.1, isometry_every=every)
    for step in range(3):
        give_gradients([w], step)
        v.grad = w.grad.mT.clone()
        one.step()
        other.step()
    torch.testing.assert_close(w.detach(), v.detach().mT, rtol=0, atol=1e-13)


def test_fused_projections_and_batches_are_moved_as_their_matrices():
    fused, stack, blocks = make(torch.float64, [(12, 4), (3, 5, 4), (12, 4)])
    before = [p.detach().clone() for p in (fused, stack, blocks)]
    optimizer = AdamO(
        [
            {"params": [fused], "isometry_split": 3},
            {"params": [stack], "isometry_batch_dims": 1},
            {"params": [blocks], "isometry_split": (8, 2, 2)},
        ],
        lr=0.1,
        isometry=0.1,
        isometry_every=1,
    )
    for p in (fused, stack, blocks):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    close = {"rtol": 0, "atol": 1e-14}
    torch.testing.assert_close(
        fused.detach(), isometry_step(before[0].view(3, 4, 4), 0.01).view(12, 4), **close
    )
    torch.testing.assert_close(stack.detach(), isometry_step(before[1], 0.01), **close)
    expected = torch.cat([isometry_step(block, 0.01) for block in before[2].split([8, 2, 2])])
    torch.testing.assert_close(blocks.detach(), expected, **close)


@pytest.mark.parametrize("every", [1, 3, "auto"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_zero_lr_moves_nothing(every, implementation):
    params = make()
    before = [p.detach().clone() for p in params]
    optimizer = AdamO(params, lr=0.0, isometry=0.5, isometry_every=every, **implementation)
    assert same_bits(run(optimizer, params, 5), before)


@pytest.mark.parametrize("every", [1, 2])
def test_frozen_parameters_stay(every):
    params = make()
    params[0].requires_grad_(False)
    before = params[0].detach().clone()
    optimizer = AdamO(params, lr=0.1, isometry=0.5, isometry_every=every)
    for step in range(4):
        give_gradients(params[1:], step)
        optimizer.step()
    assert torch.equal(params[0], before)


@pytest.mark.parametrize("flag", [0.0, 1.0])
@pytest.mark.parametrize("every", [1, 3, "auto"])
def test_found_inf_masks_the_isometry(flag, every):
    """GradScaler calls a fused optimizer's step even where it must not move anything."""
    params = make()
    before = [p.detach().clone() for p in params]
    optimizer = AdamO(params, lr=0.1, isometry=0.5, bias_decay=0.1, isometry_every=every, fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(flag)
    give_gradients(params, 0)
    optimizer.step()
    assert same_bits([p.detach() for p in params], before) is bool(flag)
    if flag:
        assert all(set(optimizer.state[p]) <= {"step", "exp_avg", "exp_avg_sq"} for p in params)


@pytest.mark.parametrize("lr", [torch.tensor(0.1), torch.tensor([0.1]), 0.1])
def test_capturable_isometry_never_reads_the_device(lr):
    """The isometry half of a captured step, on meta tensors: a value read by the host would raise."""
    w = Parameter(torch.empty(6, 4, device="meta"))
    group = {
        **GROUP_DEFAULTS,
        "params": [w],
        "lr": lr,
        "isometry": 0.1,
        "bias_decay": 0.1,
        "capturable": True,
    }
    if isinstance(lr, Tensor):
        group["lr"] = lr.to("meta")
    params = [w, Parameter(torch.empty(4, device="meta"))]
    apply_isometry_(Schedule(), 0, group, params, {}, torch.empty((), device="meta"))
    # And with values: the same step as without capturing.
    w, v = make(shapes=[(6, 4)])[0], make(shapes=[(6, 4)])[0]
    apply_isometry_(Schedule(), 0, {**group, "lr": lr}, [w], {})
    apply_isometry_(Schedule(), 0, {**group, "lr": 0.1, "capturable": False, "isometry_every": 1}, [v], {})
    torch.testing.assert_close(w, v)


def test_bias_decay_is_decoupled_and_for_vectors_alone():
    plain, decayed = make(torch.float64), make(torch.float64)
    run(AdamO(plain, lr=0.1, isometry=0.1), plain, 1)
    before = [p.detach().clone() for p in decayed]
    run(AdamO(decayed, lr=0.1, isometry=0.1, bias_decay=0.5), decayed, 1)
    for p, q, old in zip(plain, decayed, before, strict=True):
        shift = 0.1 * 0.5 * old if p.ndim == 1 else torch.zeros_like(old)
        torch.testing.assert_close(q, p - shift, rtol=0, atol=1e-14)


def torch_differentiates_two_steps() -> bool:
    """Not before torch's AdamW took a copy of the moment that the next step overwrites."""
    leaf = torch.ones(2, requires_grad=True)
    p = leaf.clone()
    optimizer = torch.optim.AdamW([p], differentiable=True)
    for _ in range(2):
        p.grad = torch.ones(2) * leaf
        optimizer.step()
    try:
        p.sum().backward()
    except RuntimeError:  # modified by an operation in place
        return False
    return True


@pytest.mark.parametrize(("every", "steps"), [(1, 1), (1, 2), (2, 1), (2, 3), ("auto", 2)])
@pytest.mark.parametrize("bias_decay", [0.0, 0.3])
def test_differentiable(every, steps, bias_decay):
    """Gradients through steps, with respect to the start and to the task gradients, by finite differences."""
    if steps > 1 and not torch_differentiates_two_steps():
        pytest.skip(f"the AdamW of torch {torch.__version__} is not differentiable over two steps")
    shapes = [(4, 3), (2, 3, 2, 1), (3,)]
    grads = [[torch.rand(s, dtype=torch.float64) + 0.5 for s in shapes] for _ in range(steps)]

    def after(*start: Tensor) -> tuple[Tensor, ...]:
        leaves, first = start[:3], start[3:]
        params = [p.clone() for p in leaves]
        optimizer = AdamO(
            params, lr=0.05, isometry=0.5, isometry_every=every, bias_decay=bias_decay, differentiable=True
        )
        for step in range(steps):
            for p, g, f in zip(params, grads[step], first, strict=True):
                p.grad = g * f
            optimizer.step()
        return tuple(params)

    start = [p.detach().requires_grad_() for p in make(torch.float64, shapes)]
    start += [torch.rand(s, dtype=torch.float64).add(0.5).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(after, start)


def test_closure_runs_once_before_the_isometry():
    w = Parameter(2 * torch.eye(3, dtype=torch.float64))
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(w.detach().clone())
        loss = w.square().sum()
        w.grad = torch.zeros_like(w)
        return loss

    optimizer = AdamO([w], lr=0.1, isometry=0.1, isometry_every=1)
    assert optimizer.step(closure).item() == 12
    assert len(seen) == 1
    assert torch.equal(seen[0], 2 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(w.detach(), isometry_step(seen[0], 0.01))


def test_the_last_strength_applied_is_that_of_the_group():
    """isometry may be changed in the group, as lr may."""
    w = Parameter(2 * torch.eye(3, dtype=torch.float64))
    optimizer = AdamO([w], lr=0.1, isometry=0.1, isometry_every=1)
    optimizer.param_groups[0]["isometry"] = 0.01
    w.grad = torch.zeros_like(w)
    optimizer.step()
    torch.testing.assert_close(w.detach(), isometry_step(2 * torch.eye(3, dtype=torch.float64), 0.001))


def test_isometry_time_sets_the_strength():
    w = Parameter(1.001 * torch.eye(4, dtype=torch.float64))
    optimizer = AdamO([w], lr=1e-2, isometry_time=50, isometry_every=1)
    assert optimizer.param_groups[0]["isometry"] == pytest.approx(1 / (8 * 1e-2 * 50))
    assert "time constant 50 steps" in repr(optimizer)
    for _ in range(50):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    # One time constant: the excess has decayed to 1/e, within the discretisation (1 - 1/50)^50.
    assert (w.detach()[0, 0].item() - 1) / 0.001 == pytest.approx(math.exp(-1), rel=0.02)


def test_channels_last_kernels_take_the_same_step():
    plain = make(torch.float64, [(8, 4, 3, 3)])
    last = [Parameter(plain[0].detach().clone().to(memory_format=torch.channels_last))]
    for every in (1, 2):
        one = AdamO(plain, lr=0.1, isometry=0.1, isometry_every=every)
        other = AdamO(last, lr=0.1, isometry=0.1, isometry_every=every)
        for p, q in zip(run(one, plain), run(other, last), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-13)
    assert last[0].is_contiguous(memory_format=torch.channels_last)


def test_half_precision_parameters_train():
    for dtype in (torch.bfloat16, torch.float16):
        params = make(dtype)
        optimizer = AdamO(params, lr=1e-2, eps=1e-3, isometry=0.5, isometry_every=2)
        for p in run(optimizer, params):
            assert p.dtype == dtype
            assert p.isfinite().all()


def test_one_step_of_the_closed_form_for_the_auto_period():
    w = Parameter(2 * torch.eye(4, dtype=torch.float64))
    optimizer = AdamO([w], lr=1e-2, isometry=1e-2)  # c = 1e-4: a turn every 25 steps, the first at once
    w.grad = torch.zeros_like(w)
    optimizer.step()
    torch.testing.assert_close(w.detach(), flow_step(2 * torch.eye(4, dtype=torch.float64), 1e-4))
    after_first = w.detach().clone()
    for _ in range(24):
        w.grad = torch.zeros_like(w)
        optimizer.step()
        assert torch.equal(w.detach(), after_first)
    w.grad = torch.zeros_like(w)
    optimizer.step()
    expected = flow_step(after_first, 25e-4)
    move = float((expected - after_first).abs().max())  # "auto" takes it to 1 %
    torch.testing.assert_close(w.detach(), expected, rtol=0, atol=0.01 * move)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (2, 1)])
def test_convolutions_as_operators(groups, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=groups, stride=stride, bias=False).double()
    before = conv.weight.detach().clone()
    optimizer = AdamO(param_groups(conv, convolution="operator"), lr=0.1, isometry=0.1, isometry_every=1)
    conv.weight.grad = torch.zeros_like(conv.weight)
    optimizer.step()
    expected = torch.cat([operator_step(kernel, 0.01, stride) for kernel in before.chunk(groups)])
    torch.testing.assert_close(conv.weight.detach(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_the_report_counts_what_can_move(frozen: int) -> None:
    """A frozen matrix never moves, whatever its group says, and counts only among all parameters."""
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    for layer in list(model)[: 2 * frozen]:
        layer.requires_grad_(False)
    report = AdamO(model.parameters(), lr=1e-2).report()
    kept = [layer.weight for layer in list(model)[::2][frozen:]]
    assert report.parameters_kept == sum(weight.numel() for weight in kept)
    assert [one.shape for one in report.kept] == [tuple(weight.shape) for weight in kept]
    assert report.parameters == sum(p.numel() for p in model.parameters())
