"""Isometric layers: singular values, gradients, caching, state, conversion."""

import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from isoplast._core.errors import IsoplastError
from isoplast.isometry import polar_factor
from isoplast.nn import IsometricConv2d, IsometricLinear, build, to_plain
from isoplast.nn.layers import _isometric as module_under_test
from isoplast.nn.layers import _orthogonalize
from isoplast.nn.layers._orthogonalize import cubic_program, orthogonal_factor

SHAPES = [(8, 8), (4, 12), (12, 4), (2, 2), (64, 64), (16, 300)]


def sigma(layer: nn.Module) -> torch.Tensor:
    return torch.linalg.svdvals(layer.effective_weight().detach().float().flatten(1))


def with_condition(rows: int, columns: int, condition: float, scale: float = 1.0) -> torch.Tensor:
    """A random matrix whose singular values are log-spaced over the condition number."""
    matrix = torch.randn(rows, columns, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = torch.logspace(0, 1, len(s), dtype=torch.float64).pow(torch.log10(torch.tensor(condition)).double())
    return (scale * (u * s) @ vh).float()


@pytest.fixture
def count(monkeypatch):
    """Count how often a factor is computed."""
    calls = []
    original = module_under_test.orthogonalize
    monkeypatch.setattr(
        module_under_test, "orthogonalize", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    return calls


@pytest.fixture(params=["near and far", "fixed"])
def program(request, monkeypatch):
    """Both ways to the factor; "fixed" is what an accelerator runs."""
    if request.param == "fixed":
        monkeypatch.setattr(_orthogonalize, "_NEAR", -1.0)
    return request.param


@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
@pytest.mark.parametrize("condition", [1.0, 1.05, 3.0, 10.0])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e18])
def test_singular_values_within_a_thousandth_of_one(program, out_features, in_features, condition, scale):
    torch.manual_seed(0)
    layer = IsometricLinear(in_features, out_features)
    with torch.no_grad():
        layer.weight.copy_(with_condition(out_features, in_features, condition, scale))
    assert (sigma(layer) - 1).abs().max() < 1e-3
    expected = polar_factor(layer.weight.detach())
    assert torch.allclose(layer.effective_weight().detach(), expected, atol=1e-3)


@pytest.mark.parametrize("largest", [1, 7, 32, 63])
def test_outliers_do_not_spoil_the_scale(program, largest):
    """Condition 10 with `largest` singular values up and the rest down: the extremes of the scale."""
    torch.manual_seed(1)
    u, _, vh = torch.linalg.svd(torch.randn(64, 64, dtype=torch.float64))
    s = torch.ones(64, dtype=torch.float64)
    s[:largest] = 10.0
    layer = IsometricLinear(64, 64)
    with torch.no_grad():
        layer.weight.copy_((u * s) @ vh)
    assert (sigma(layer) - 1).abs().max() < 1e-3


def test_hardly_expands_whatever_the_condition(program):
    torch.manual_seed(2)
    for condition in (1e2, 1e4, 1e6):
        layer = IsometricLinear(32, 32)
        with torch.no_grad():
            layer.weight.copy_(with_condition(32, 32, condition))
        assert sigma(layer).max() < 1 + 1e-3


def test_fixed_program_reaches_a_thousandth_for_all_practical_sizes():
    for rows in (1, 2, 64, 512, 4096, 8192):
        for start in (0.1 * rows**-0.25, 0.3 * rows**-0.25, rows**-0.25, 1.0):
            value = start
            for a, b in cubic_program(rows, 7):
                value = a * value + b * value**3
            assert abs(value - 1) < 1e-3


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4)])
def test_hand_written_backward_is_the_derivative(program, shape):
    torch.manual_seed(3)
    layer = IsometricLinear(shape[1], shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(with_condition(*shape, 4.0))
    upstream = torch.randn(shape, dtype=torch.float64)
    (ours,) = torch.autograd.grad(layer.effective_weight(), layer.weight, upstream)
    (autograd,) = torch.autograd.grad(orthogonal_factor(layer.weight, 7), layer.weight, upstream)
    u, _, vh = torch.linalg.svd(layer.weight, full_matrices=False)
    (exact,) = torch.autograd.grad(u @ vh, layer.weight, upstream)
    if program == "fixed":
        assert torch.allclose(ours, autograd, atol=1e-12)  # the same sums in another order
    # 7 cubic steps leave 1e-6 at this condition number, the quintic ones less.
    assert torch.allclose(ours, exact, atol=1e-4)


def test_gradcheck_to_second_order(program):
    torch.manual_seed(4)
    weight = with_condition(3, 4, 2.0).double().requires_grad_()
    layer = IsometricLinear(4, 3, bias=False, dtype=torch.float64)
    x = torch.randn(2, 4, dtype=torch.float64)

    def run(raw: torch.Tensor) -> torch.Tensor:
        factor, iterates = module_under_test.orthogonalize(raw.detach(), 7, keep=True)
        return x @ module_under_test.AttachFactor.apply(raw, factor, iterates, 7).t()

    assert torch.autograd.gradcheck(run, weight)
    assert torch.autograd.gradgradcheck(run, weight)
    loss = layer(x).pow(3).sum()
    (first,) = torch.autograd.grad(loss, layer.weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), layer.weight)
    assert second.isfinite().all()
    assert second.abs().max() > 0


@pytest.mark.parametrize("bad", ["zero", "rank one", "zero rows"])
def test_rank_deficient_weights_give_no_nan_and_can_be_repaired(bad):
    torch.manual_seed(5)
    layer = IsometricLinear(6, 6)
    with torch.no_grad():
        if bad == "zero":
            layer.weight.zero_()
        elif bad == "rank one":
            layer.weight.copy_(torch.outer(torch.randn(6), torch.randn(6)))
        else:
            layer.weight[:3] = 0
    layer(torch.randn(3, 6)).square().sum().backward()
    assert layer.effective_weight().isfinite().all()
    assert layer.weight.grad.isfinite().all()
    layer.reorthogonalize_()
    assert (sigma(layer) - 1).abs().max() < 1e-3


def reference_gradient(layer: IsometricLinear, inputs: list[torch.Tensor]) -> torch.Tensor:
    total = sum(
        nn.functional.linear(x, orthogonal_factor(layer.weight, 7), layer.bias).pow(3).sum() for x in inputs
    )
    return torch.autograd.grad(total, layer.weight)[0]


@pytest.mark.parametrize(
    "schedule", ["one backward", "accumulated", "both forwards first", "no_grad between", "retained"]
)
def test_one_factor_serves_all_forwards_of_a_step(schedule, count):
    torch.manual_seed(6)
    layer = IsometricLinear(6, 5, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(with_condition(5, 6, 3.0))
    batches = [torch.randn(4, 6, dtype=torch.float64) for _ in range(2)]
    expected = reference_gradient(layer, batches)
    losses = []
    for x in batches:
        losses.append(layer(x).pow(3).sum())
        if schedule == "accumulated":
            losses[-1].backward()
        if schedule == "no_grad between":
            with torch.no_grad():
                layer(x)
    if schedule == "one backward":
        sum(losses).backward()
    elif schedule != "accumulated":
        for loss in losses:
            if schedule == "retained":
                loss.backward(retain_graph=True)
                layer.weight.grad = None if loss is losses[0] else layer.weight.grad
            loss.backward()
    assert len(count) == 1
    if schedule == "retained":  # the first loss counts once, the second twice
        expected = expected + reference_gradient(layer, batches[1:])
    assert torch.allclose(layer.weight.grad, expected, atol=1e-10)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, foreach=True),
        lambda p: torch.optim.Adam(p, 0.1, foreach=False),
        lambda p: torch.optim.Adam(p, 0.1, foreach=True),
        lambda p: torch.optim.Adam(p, 0.1, fused=True),
        lambda p: torch.optim.AdamW(p, 0.1),
    ],
)
def test_every_optimizer_step_is_seen_exactly_once(optimizer, count):
    layer = IsometricLinear(4, 4)
    opt = optimizer(layer.parameters())
    x = torch.randn(3, 4)
    for step in range(3):
        opt.zero_grad()
        before = layer.effective_weight().detach().clone()
        layer(x).square().sum().add(layer(-x).sum()).backward()
        assert len(count) == step + 1
        opt.step()
        assert not torch.equal(before, layer.effective_weight())


def test_other_ways_to_change_the_weight_are_seen():
    torch.manual_seed(7)
    layer, other = IsometricLinear(4, 4), IsometricLinear(4, 4)
    layer.effective_weight()
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.effective_weight(), other.effective_weight())
    layer.double()
    assert layer.effective_weight().dtype == torch.float64
    layer.weight = nn.Parameter(torch.eye(4))
    assert torch.allclose(layer.effective_weight(), torch.eye(4), atol=1e-5)
    layer.weight.data.copy_(torch.eye(4).flip(0))  # invisible to autograd ...
    layer.train()  # ... until the mode is set
    assert torch.allclose(layer.effective_weight(), torch.eye(4).flip(0), atol=1e-5)


def test_eval_keeps_the_factor_without_a_graph(count):
    layer = IsometricLinear(4, 4).eval()
    x = torch.randn(2, 4)
    with torch.no_grad():
        layer(x)
        layer(x)
    assert len(count) == 1
    assert layer._cache is not None
    assert layer._cache.iterates is None
    assert layer._cache.attached is None
    x.requires_grad_()
    layer(x).sum().backward()  # an attack or a saliency map: the gradient is there when asked for
    assert x.grad is not None
    assert layer.weight.grad is not None


def test_inference_mode_does_not_poison_training():
    layer = IsometricLinear(4, 4)
    with torch.inference_mode():
        layer(torch.randn(2, 4))
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.weight.grad is not None


def test_frozen_weight_has_no_graph():
    layer = IsometricLinear(4, 4).requires_grad_(False)
    assert not layer(torch.randn(2, 4)).requires_grad


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant):
    layer = IsometricLinear(4, 4)
    x = torch.randn(3, 4, requires_grad=True)
    layer(x).square().sum().backward()
    expected = layer.weight.grad.clone()
    layer.weight.grad = None
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    assert torch.equal(layer.weight.grad, expected)


def test_function_transforms():
    torch.manual_seed(8)
    layer = IsometricLinear(4, 3, dtype=torch.float64)
    x = torch.randn(5, 4, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(p: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, p, (row,)).pow(3).sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    layer(x).pow(3).sum().backward()
    assert torch.allclose(per_sample["weight"].sum(0), layer.weight.grad, atol=1e-10)
    jacobians = torch.func.vmap(torch.func.jacrev(layer))(x)
    assert torch.allclose(jacobians[0], layer.effective_weight(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_computes_in_float32(dtype):
    torch.manual_seed(9)
    layer = IsometricLinear(32, 32).to(dtype)
    with torch.no_grad():
        layer.weight.mul_(300)  # its Gram matrix overflows float16
    assert layer.effective_weight().dtype == dtype
    # Rounding the factor to 8 bits moves singular values by about 2 * 2^-9 / sqrt 3.
    assert (sigma(layer) - 1).abs().max() < (5e-3 if dtype == torch.bfloat16 else 1e-3)
    layer(torch.randn(2, 32).to(dtype)).sum().backward()
    assert layer.weight.grad.dtype == dtype


def test_autocast_is_off_inside():
    torch.manual_seed(10)
    layer = IsometricLinear(32, 32)
    outside = layer.effective_weight().detach().clone()
    layer.train()
    x = torch.randn(4, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.effective_weight(), outside)
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def train(layer: nn.Module, opt: torch.optim.Optimizer, steps: int) -> list[float]:
    """Train towards the identity's cube; return the raw condition number after every step."""
    generator = torch.Generator().manual_seed(0)
    conditions = []
    for _ in range(steps):
        x = torch.randn(16, layer.in_features, generator=generator, dtype=layer.weight.dtype)
        opt.zero_grad()
        (layer(x) - x.pow(3)).pow(2).mean().backward()
        opt.step()
        raw = torch.linalg.svdvals(layer.weight.detach())
        conditions.append((raw[0] / raw[-1]).item())
    return conditions


def test_raw_weight_is_reorthogonalised_on_schedule_without_touching_the_optimizer():
    torch.manual_seed(11)
    layer = IsometricLinear(8, 8, reorthogonalize_every=5)
    with torch.no_grad():
        layer.weight.copy_(with_condition(8, 8, 5.0, scale=3.0))
    opt = torch.optim.Adam(layer.parameters(), lr=1e-3)
    weight = layer.weight
    conditions = train(layer, opt, 4)
    norm = weight.detach().norm()
    moments = {key: value.clone() for key, value in opt.state[weight].items()}
    layer._cache = None
    assert max(conditions) < 1.1  # from the first step on the raw weight is r Q plus one step ...
    assert norm > 2 * 8**0.5  # ... of its own scale
    layer.after_step()
    assert torch.allclose(torch.linalg.svdvals(weight.detach()), torch.ones(8), atol=1e-5)
    assert layer.weight is weight
    assert layer.training_steps == 5
    assert all(torch.equal(value, moments[key]) for key, value in opt.state[weight].items())


def test_conditioning_the_raw_weight_changes_little_of_what_is_learned():
    """Against the textbook layer: the raw weight left alone, the iterations differentiated by autograd."""

    class Textbook(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, orthogonal_factor(self.weight, 9), self.bias)

    torch.manual_seed(12)
    ours = IsometricLinear(6, 6, dtype=torch.float64)
    start = ours.effective_weight().detach()
    book = Textbook(6, 6, dtype=torch.float64)
    book.load_state_dict({k: v for k, v in ours.state_dict().items() if k in ("weight", "bias")})
    conditions = [train(m, torch.optim.SGD(m.parameters(), lr=0.02), 20)[-1] for m in (ours, book)]
    expected = polar_factor(book.weight.detach())
    assert conditions[0] < 1.001 < 1.004 < conditions[1]
    assert (expected - start).norm() > 0.5
    # Conditions that differ by 0.4 % may bend every step by as much; measured 0.2 % of the way.
    assert (ours.effective_weight() - expected).norm() < 0.01 * (expected - start).norm()


def test_keeping_the_raw_weight_conditioned_does_not_change_the_function():
    torch.manual_seed(12)
    layer = IsometricLinear(8, 8)
    with torch.no_grad():
        layer.weight.copy_(with_condition(8, 8, 5.0))
    before = layer.effective_weight().detach().clone()
    layer.after_step()
    assert torch.allclose(layer.effective_weight(), before, atol=1e-3)
    layer.reorthogonalize_()
    assert torch.allclose(layer.effective_weight(), before, atol=1e-3)


def test_only_optimizer_steps_that_train_the_layer_count():
    layer, other = IsometricLinear(4, 4), nn.Linear(4, 4)
    x = torch.randn(2, 4)
    opt = torch.optim.SGD([*layer.parameters(), *other.parameters()], 0.1)
    other(layer(x)).sum().backward()
    opt.step()
    assert layer.training_steps == 1
    opt.zero_grad()
    other(x).sum().backward()
    opt.step()  # the layer has no gradient
    assert layer.training_steps == 1


def test_layers_do_not_outlive_their_owners():
    layer = IsometricLinear(4, 4)
    layer(torch.randn(2, 4)).sum().backward()
    watch = weakref.ref(layer)
    del layer
    gc.collect()
    assert watch() is None


def test_resumed_training_goes_on_to_the_same_bits():
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(13)
        layer = IsometricLinear(6, 6, reorthogonalize_every=7)
        return layer, torch.optim.SGD(layer.parameters(), 0.01)

    straight, opt = start()
    train(straight, opt, 10)
    train(straight, opt, 6)
    first, opt = start()
    train(first, opt, 10)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second, opt = start()
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, opt, 6)
    assert torch.equal(straight.weight, second.weight)
    assert straight.training_steps == second.training_steps == 16


def test_deepcopy_and_pickle_after_use():
    layer = IsometricConv2d(3, 4, 3)
    x = torch.randn(1, 3, 5, 5)
    layer(x).sum().backward()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        assert twin._cache.weight is twin.weight
        assert twin.weight.hard_isometry
        with torch.no_grad():
            twin.weight.mul_(-1)
        assert torch.allclose(twin(x) - twin.bias.view(1, -1, 1, 1), -layer(x), atol=1e-5)


@pytest.mark.parametrize(("stride", "mode"), [(1, "zeros"), (2, "circular")])
def test_convolution_kernel_is_orthogonal_as_a_matrix(stride, mode):
    torch.manual_seed(14)
    layer = IsometricConv2d(4, 6, 3, stride=stride, padding=1, padding_mode=mode)
    with torch.no_grad():
        layer.weight.copy_(with_condition(6, 36, 8.0).view(6, 4, 3, 3))
    assert (sigma(layer) - 1).abs().max() < 1e-3
    x = torch.randn(2, 4, 8, 8)
    plain = to_plain(layer)
    assert type(plain) is nn.Conv2d
    assert torch.allclose(plain(x), layer(x), atol=1e-5)
    layer(x).sum().backward()
    assert layer.weight.grad.shape == layer.weight.shape
    last = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    assert torch.allclose(last(x), layer(x), atol=1e-5)


def test_to_plain_replaces_every_layer_and_nothing_else():
    torch.manual_seed(15)
    net = build("mlp", input_shape=(6,), classes=3, width=8, activation="maxmin", linear="isometric").eval()
    net.layers[1] = net.layers[0].__class__(8, 8)
    net.layers[2] = net.layers[1]  # shared
    plain = to_plain(net)
    x = torch.randn(5, 6)
    assert torch.allclose(plain(x), net(x), atol=1e-5)
    assert not any("Isometric" in type(m).__name__ for m in plain.modules())
    assert plain.layers[1] is plain.layers[2]
    assert not plain.training
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert any(isinstance(m, IsometricLinear) for m in net.modules())


def test_networks_leave_the_head_free():
    net = build("mlp", input_shape=(6,), classes=3, width=8, linear="isometric")
    assert all(isinstance(layer, IsometricLinear) for layer in net.layers)
    assert type(net.head) is nn.Linear


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IsometricConv2d(8, 8, 3, groups=4), r"IsometricConv2d\(8, 8, groups=4\)"),
        (lambda: IsometricLinear(4, 4, iterations=0), "iterations of IsometricLinear is 0"),
        (lambda: IsometricLinear(4, 4, reorthogonalize_every=0), "reorthogonalize_every"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, words):
    with warnings.catch_warnings(), pytest.raises(IsoplastError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
