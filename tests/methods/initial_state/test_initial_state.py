"""What the methods that hold on to the initial state do, on cases small enough to work out by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from contract_runs import network, parts, started, step, train
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import Method, StepContext, TaskContext, Training, training
from isoplast.methods._tools._fresh import redraw
from isoplast.methods._tools._penalised import quadratic
from isoplast.methods.initial_state.l2er import feature_rank

INPUTS = torch.zeros(2, 3, dtype=torch.float64)


def small(seed: int = 0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(seed)
    middle = [nn.LayerNorm(4)] if norm else []
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 2)).double()


def moved(model: nn.Module, by: float = 0.1) -> dict[str, Tensor]:
    """Shift every parameter in place, and return where they had been."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by)
    return before


def after_step(method: Method, model: nn.Module, step: int = 1) -> None:
    optimizer = method.optimizer(model, 1e-3)
    method.after_step(StepContext(model, optimizer, INPUTS, torch.zeros(()), step))


def begun(method: Method, model: nn.Module) -> Method:
    method.begin(model, method.optimizer(model, 1e-3))
    return method


def test_the_quadratic_penalty_has_the_value_and_gradient_of_autograd() -> None:
    model = small()
    parameters = dict(model.named_parameters())
    targets = {name: torch.randn_like(p) for name, p in parameters.items()}
    weights = {name: float(i) for i, name in enumerate(parameters)}
    ours = quadratic(parameters, targets, weights)
    plain = sum(0.5 * weights[n] * (p - targets[n]).square().sum() for n, p in parameters.items())
    torch.testing.assert_close(ours, plain)
    found = torch.autograd.grad(3 * ours, model.parameters())
    expected = torch.autograd.grad(3 * plain, model.parameters())
    torch.testing.assert_close(found, expected)


def test_l2init_is_half_the_squared_distance_from_the_first_parameters_norms_left_out() -> None:
    method, model = methods.get("l2init", strength=0.5), small(norm=True)
    penalty = begun(method, model).penalty(model, INPUTS)
    assert penalty is not None
    assert penalty.item() == 0
    moved(model)
    penalty = method.penalty(model, INPUTS)
    assert penalty is not None
    entries = 4 * 3 + 4 + 2 * 4 + 2  # two layers with biases, but not the eight of the normalisation
    assert penalty.item() == pytest.approx(0.5 * 0.5 * entries * 0.1**2)
    gradients = torch.autograd.grad(penalty, model.parameters(), materialize_grads=True)
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        expected = 0.0 if name.startswith("1.") else 0.5 * 0.1
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected))


def test_what_is_initial_survives_a_checkpoint() -> None:
    method, model = methods.get("l2init"), small()
    begun(method, model)
    moved(model)
    again = begun(methods.get("l2init"), model)
    assert again.penalty(model, INPUTS) == 0
    again.load_state(copy.deepcopy(method.state))
    assert again.penalty(model, INPUTS) == method.penalty(model, INPUTS) > 0


def test_l1init_pulls_every_entry_with_the_same_force() -> None:
    method, model = methods.get("l1init", strength=0.25), small()
    begun(method, model)
    moved(model, by=-0.1)
    penalty = method.penalty(model, INPUTS)
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.25 * 0.1 * (4 * 3 + 4 + 2 * 4 + 2))
    for gradient in torch.autograd.grad(penalty, model.parameters()):
        torch.testing.assert_close(gradient, torch.full_like(gradient, -0.25))


def test_l2_is_the_weight_decay_of_torchs_adam() -> None:
    method, model = methods.get("l2", strength=0.1), small()
    reference = copy.deepcopy(model)
    run = Training(method, model, method.optimizer(model, 1e-2))
    theirs = torch.optim.Adam(reference.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(20):
        batch = torch.randn(5, 3, dtype=torch.float64), torch.randint(2, (5,))
        step(run, batch)
        theirs.zero_grad()
        cross_entropy(reference(batch[0]), batch[1]).backward()
        theirs.step()
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        # Sums in another order differ in the last bits, which Adam's division carries along.
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_resampled_targets_have_the_moments_of_a_fresh_network_and_last_as_long_as_asked() -> None:
    torch.manual_seed(0)
    model = nn.Linear(100, 100)
    nn.init.normal_(model.weight, 0.5, 0.2)
    nn.init.constant_(model.bias, 0.3)
    method = begun(methods.get("l2init-resampled", every=2), model)
    targets = []
    for number in range(1, 5):
        targets.append(method.state["target"])
        after_step(method, model, number)
    assert targets[0] is targets[1]
    assert targets[2] is targets[3]
    assert not torch.equal(targets[1]["weight"], targets[2]["weight"])
    weight = targets[0]["weight"]
    # The mean and deviation of 10 000 numbers are off by 0.2 / 100 and less; five times that.
    assert abs(weight.mean() - 0.5) < 0.01
    assert abs(weight.std() - 0.2) < 0.01
    assert torch.equal(targets[0]["bias"], model.bias)


def test_wasserstein_compares_sorted_entries_and_pulls_each_to_its_own() -> None:
    method, model = methods.get("wasserstein", strength=2.0, every=1), small()
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    begun(method, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.flatten().flip(0).view_as(parameter))
    after_step(method, model)
    penalty = method.penalty(model, INPUTS)
    assert penalty is not None
    assert penalty.item() == 0, "the same entries in other places cost nothing"
    moved(model, by=0.1)
    with torch.no_grad():
        model[0].weight[0, 0] = 9.0
    after_step(method, model)
    penalty = method.penalty(model, INPUTS)
    plain = sum(
        2.0 * (p.flatten().sort().values - first[n].flatten().sort().values).square().mean()
        for n, p in model.named_parameters()
    )
    torch.testing.assert_close(penalty, plain)
    found = torch.autograd.grad(penalty, model.parameters())
    torch.testing.assert_close(found, torch.autograd.grad(plain, model.parameters()))


def test_between_two_sorts_the_wasserstein_penalty_is_an_upper_bound() -> None:
    exact, lazy, model = methods.get("wasserstein", every=1), methods.get("wasserstein"), small()
    for method in (exact, lazy):
        begun(method, model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    for method in (exact, lazy):
        after_step(method, model)
    truth, bound = exact.penalty(model, INPUTS), lazy.penalty(model, INPUTS)
    assert truth is not None
    assert bound is not None
    assert 0 < truth < bound


def test_shrinking_per_step_is_the_same_in_one_go() -> None:
    models = [small(), small()]
    for model, every in zip(models, (1, 5), strict=True):
        method = methods.get("shrink-perturb", shrink=0.9, perturb=0.0, every=every)
        begun(method, model)
        for number in range(1, 11):
            after_step(method, model, number)
    start = small()
    for one, other, initial in zip(*(m.parameters() for m in (*models, start)), strict=True):
        torch.testing.assert_close(one, initial * 0.9**10)
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("every", [1, 10])
def test_the_noise_of_shrink_and_perturb_adds_up_to_its_stationary_law(every: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(200, 200)
    nn.init.orthogonal_(model.weight)
    nn.init.constant_(model.bias, 1.0)
    method = methods.get("shrink-perturb", shrink=0.9, perturb=0.1, every=every)
    begun(method, model)
    for number in range(1, 101):  # 0.9^100 = 3e-5: nothing of the start is left
        after_step(method, model, number)
    # Standard deviation of the entries: 1/sqrt(200) at the start, times p / sqrt(1 - s^2) at the end. That of
    # 40 000 numbers is off by 1 / sqrt(80 000) = 0.4 %; five times that.
    expected = 200**-0.5 * 0.1 / math.sqrt(1 - 0.9**2)
    assert model.weight.std().item() == pytest.approx(expected, rel=0.02)
    torch.testing.assert_close(model.bias.detach(), torch.ones(200))  # 0.9 b + 0.1 * 1 keeps a constant of 1


def test_a_run_too_short_for_its_shrinking_is_reported() -> None:
    run = started("shrink-perturb")
    (line,) = run.report(10_000)  # (1 - 1e-6)^10 000 = 0.990
    assert line == "warning: shrink-perturb leaves 0.99 of a weight after the 10000 steps of this run"
    assert not run.report(1_000_000)[0].startswith("warning")


def test_shrink_and_perturb_at_a_task_adds_a_fresh_network() -> None:
    method, model = methods.get("shrink-perturb-tasks", shrink=0.25, perturb=2.0), network("mlp")
    optimizer = method.optimizer(model, 1e-3)
    method.begin(model, optimizer)
    before = moved(model, 0.0)
    method.on_task(TaskContext(model, optimizer, 0))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters()), (
        "nothing before the first"
    )
    torch.manual_seed(5)
    method.on_task(TaskContext(model, optimizer, 1))
    fresh = dict(network("mlp", seed=5).named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, 0.25 * before[name] + 2.0 * fresh[name])


def test_dash_shrinks_rows_kernels_and_biases_by_their_angle_to_the_descent() -> None:
    layer = nn.Linear(2, 2, bias=True).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0], [-1.0, 0.0]]))
        layer.bias.copy_(torch.tensor([1.0, 0.0]))
    inputs = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    # With mean squared error, outputs y - t = (4 - 6, -1 - 1) = (-2, -2); descent of row k is (2, 0).
    targets = torch.tensor([[6.0, 1.0]], dtype=torch.float64)
    method = methods.get("dash", floor=0.1)
    optimizer = method.optimizer(layer, 1e-3)
    method.on_task(TaskContext(layer, optimizer, 0, inputs, lambda: mse_loss(layer(inputs), targets)))
    assert layer.weight[0, 0] == 3.0
    method.on_task(TaskContext(layer, optimizer, 1, inputs, lambda: mse_loss(layer(inputs), targets)))
    # cos of (3, 4) and (1, 0) is 0.6; (-1, 0) points against the descent: the floor.
    torch.testing.assert_close(layer.weight[0], torch.tensor([1.8, 2.4], dtype=torch.float64))
    torch.testing.assert_close(layer.weight[1], torch.tensor([-0.1, 0.0], dtype=torch.float64))
    # The bias is one vector: (1, 0) against (1, 1).
    torch.testing.assert_close(layer.bias[0], torch.tensor(0.5**0.5, dtype=torch.float64))
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_dash_averages_over_batches_and_takes_every_kernel_by_itself() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)).double()
    inputs, targets = torch.randn(4, 2, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    average = torch.zeros_like(model[0].weight)
    reference = copy.deepcopy(model).train()
    batches = (slice(0, 3), slice(3, 4))
    for rows in batches:
        loss = cross_entropy(reference(inputs[rows]), targets[rows])
        average = 0.7 * average - 0.3 * torch.autograd.grad(loss, reference[0].weight)[0]
    cosine = torch.cosine_similarity(model[0].weight.flatten(2), average.flatten(2), dim=-1)
    expected = model[0].weight.detach() * cosine.clamp(0.05, 1)[:, :, None, None]
    run = training("dash", model, lr=0.0, alpha=0.3, floor=0.05)
    model.eval()  # so that the step before the new task leaves the statistics alone
    step(run, (inputs, targets))
    run.new_task(inputs, lambda: (cross_entropy(model(inputs[rows]), targets[rows]) for rows in batches))
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert torch.equal(model[1].running_mean, torch.zeros(3, dtype=torch.float64)), (
        "a measurement leaves no trace"
    )


def test_weight_clipping_keeps_within_the_fan_in_and_leaves_norms_alone() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-2, 2, parameter.numel()).view_as(parameter))
    before = copy.deepcopy(model)
    after_step(methods.get("weight-clipping", zeta=1.5), model)
    for index, bound in ((0, 1.5 / 18**0.5), (3, 1.5 / 12**0.5)):
        for one, other in zip(model[index].parameters(), before[index].parameters(), strict=True):
            assert torch.equal(one, other.clamp(-bound, bound))
    assert torch.equal(model[1].weight, before[1].weight)


def test_nap_keeps_every_frobenius_norm_and_no_affine_parameter_drifts() -> None:
    run = started("layernorm+nap", "cnn")
    method, model = run.method, run.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(run, 30, net="cnn")
    matrices = [name for name in before if before[name].ndim >= 2]
    assert len(matrices) == 6
    for name, parameter in model.named_parameters():
        if name in matrices:
            # One rounded product per entry: the norm is right to a few times 1e-7.
            assert parameter.norm().item() == pytest.approx(before[name].norm().item(), rel=1e-6)
            assert not torch.equal(parameter, before[name])
        elif name != "head.bias":
            assert torch.equal(parameter, before[name])
    assert not torch.equal(model.head.bias, before["head.bias"])
    assert not any(p.requires_grad for name, p in model.named_parameters() if "norms" in name)
    method.release()
    assert all(p.requires_grad for p in model.parameters())


def test_nap_projects_as_often_as_asked() -> None:
    run = started("layernorm+nap", **{"nap.every": 5})
    model = run.model
    norm = model.head.weight.norm().item()
    train(run, 4)
    assert model.head.weight.norm().item() != pytest.approx(norm, rel=1e-5)
    train(run, 1)
    assert model.head.weight.norm().item() == pytest.approx(norm, rel=1e-6)


def test_nap_leaves_alone_what_is_frozen_on_the_way() -> None:
    run = started("layernorm+nap+plasticity-injection", after=3)
    method, model = run.method, run.model
    train(run, 5)
    norms = {name: p.norm().item() for name, p in model.named_parameters()}
    kept = parts(method)[1].state["norms"]
    assert {name.split(".")[1] for name in kept if name.startswith("submod_1")} == {"new", "old"}
    # The rows of a head have a norm that one rounded product sets to a few times 1e-7.
    assert all(norms[name] == pytest.approx(float(norm), rel=1e-6) for name, norm in kept.items())


def test_nap_refuses_a_network_without_normalisation() -> None:
    with pytest.raises(IsoplastError, match=r"nap needs normalisation layers.*layernorm\+nap") as error:
        methods.get("nap").prepare(network("mlp"))
    assert "\n" not in str(error.value)
    with pytest.raises(IsoplastError, match="weight-clipping and nap cannot be combined"):
        methods.get("layernorm+weight-clipping+nap")


def test_feature_norm_is_the_mean_square_of_what_the_head_is_fed_in_the_same_forward_pass() -> None:
    method, model = methods.get("feature-norm", strength=0.5), network("mlp")
    begun(method, method.prepare(model))
    inputs = torch.randn(4, 6)
    model(inputs)
    fed = model.activations[1](model.layers[1](model.activations[0](model.layers[0](inputs))))
    penalty = method.penalty(model, INPUTS)
    assert penalty is not None
    torch.testing.assert_close(penalty, 0.5 * fed.square().mean())
    gradients = torch.autograd.grad(penalty, model.parameters(), materialize_grads=True)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("name", ["feature-norm", "l2er"])
def test_copies_and_evaluations_do_not_feed_the_method(name: str) -> None:
    method, model = methods.get(name), network("mlp")
    begun(method, method.prepare(model))
    model(torch.randn(4, 6))
    twin = copy.deepcopy(model)  # with the features of a forward pass still in the hooks
    method.penalty(model, INPUTS)
    twin(torch.randn(4, 6))
    model.eval()(torch.randn(4, 6))
    with pytest.raises(IsoplastError, match=f"method {name} saw no features: compute the loss with the"):
        method.penalty(model, INPUTS)
    method.release()
    assert not method.handles
    model.train()(torch.randn(4, 6))
    with pytest.raises(IsoplastError, match="saw no features"):
        method.penalty(model, INPUTS)


def test_the_effective_rank_is_the_exponential_of_the_entropy() -> None:
    torch.manual_seed(0)
    features = torch.randn(7, 5, dtype=torch.float64)
    share = torch.linalg.svdvals(features)
    share = share / share.sum()
    expected = math.exp(-sum(p * math.log(p) for p in share.tolist()))
    assert feature_rank(features).item() == pytest.approx(expected)
    assert feature_rank(3 * features).item() == pytest.approx(expected)
    assert feature_rank(torch.eye(6, dtype=torch.float64)[:, :4]).item() == pytest.approx(4)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (300, 140), (1, 4)])
def test_the_gradient_of_the_effective_rank_is_that_of_a_singular_value_decomposition(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    features = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    share = torch.linalg.svdvals(features)
    share = share / share.sum()
    expected = torch.autograd.grad((-share * share.log()).sum().exp(), features)[0]
    # Singular values of 1e-3 of the largest lose six of sixteen digits in the Gram matrix.
    torch.testing.assert_close(
        torch.autograd.grad(feature_rank(features), features)[0], expected, rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["zero", "one direction", "duplicates"])
def test_the_gradient_of_the_effective_rank_is_finite_where_units_are_dead(kind: str) -> None:
    torch.manual_seed(0)
    features = {
        "zero": torch.zeros(5, 3),
        "one direction": torch.randn(5, 1).expand(5, 3).clone(),
        "duplicates": torch.randn(5, 3)[:, [0, 0, 1]],
    }[kind].requires_grad_()
    rank = feature_rank(features)
    assert rank.item() == pytest.approx({"zero": 0.0, "one direction": 1.0}.get(kind, rank.item()))
    gradient = torch.autograd.grad(rank, features)[0]
    assert gradient.isfinite().all()


def test_l2er_raises_the_effective_rank_of_the_features() -> None:
    """Without a task, the penalty alone spreads features that nearly coincide."""
    torch.manual_seed(0)
    method = methods.get("l2er", strength=0.0, rank_strength=1.0)
    layer = nn.Linear(6, 6, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(6, 6) + 0.05 * torch.randn(6, 6))
    model = nn.Sequential(layer, nn.Identity(), nn.Linear(6, 2))
    begun(method, model)
    inputs = torch.randn(20, 6)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    ranks = []
    for _ in range(100):
        model(inputs)
        penalty = method.penalty(model, INPUTS)
        assert penalty is not None
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        ranks.append(-penalty.item())
    assert ranks[0] < 2.5
    assert ranks[-1] > 4


def test_redrawing_keeps_constants_gains_taps_and_the_entries_of_anything_else() -> None:
    torch.manual_seed(0)
    assert torch.equal(redraw(torch.ones(3)), torch.ones(3))
    tall = nn.init.orthogonal_(torch.empty(7, 4), gain=1.5)
    again = redraw(tall)
    assert not torch.equal(again, tall)
    torch.testing.assert_close(torch.linalg.svdvals(again), torch.full((4,), 1.5))
    kernel = torch.zeros(4, 4, 3, 3)
    kernel[:, :, 1, 1] = nn.init.orthogonal_(torch.empty(4, 4))
    delta = redraw(kernel)
    assert torch.equal(delta != 0, kernel != 0)
    torch.testing.assert_close(torch.linalg.svdvals(delta[:, :, 1, 1]), torch.ones(4))
    uniform = torch.rand(20, 30)
    shuffled = redraw(uniform)
    assert not torch.equal(shuffled, uniform)
    assert torch.equal(shuffled.flatten().sort().values, uniform.flatten().sort().values)
