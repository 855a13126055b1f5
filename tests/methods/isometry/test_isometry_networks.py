"""Networks that are isometric by construction, at the start, or where a task begins."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import pytest
import scipy.linalg
import torch
from contract_runs import SIZES, different, network, started, train, values
from deel.torchlip.normalizers import bjorck_normalization
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from isoplast import methods
from isoplast._core.errors import IsoplastError
from isoplast.methods import TaskContext, Training
from isoplast.nn import IsometricConv2d, IsometricLinear, build


def effective(model: nn.Module) -> dict[str, Tensor]:
    """The hidden weights that the network applies, as matrices."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and name != "head":
            isometric = isinstance(module, IsometricLinear | IsometricConv2d)
            weight = module.effective_weight() if isometric else module.weight
            found[name] = weight.detach().flatten(1)
    return found


def normal_(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("net", SIZES)
def test_newton_schulz_starts_at_the_polar_factors_and_leaves_the_rest(net: str) -> None:
    plain = normal_(network(net))
    before = values(plain)
    weights = effective(plain)
    model = methods.get("newton-schulz").prepare(plain)
    found = effective(model)
    assert found.keys() == weights.keys()
    for name, weight in found.items():
        factor, _ = scipy.linalg.polar(weights[name].double().numpy())
        # The fixed program of float32 iterations promises singular values to 1e-3.
        torch.testing.assert_close(weight.double(), torch.from_numpy(factor), rtol=0, atol=1e-3)
    raw = {f"{name}.weight" for name in weights}
    assert set(different(values(model), before)) == raw
    assert type(model.head) is nn.Linear


def test_newton_schulz_is_the_bjorck_normalisation_of_torchlip() -> None:
    plain = network()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    raw = {name: weight / torch.linalg.matrix_norm(weight, 2) for name, weight in effective(plain).items()}
    for name, weight in effective(methods.get("newton-schulz").prepare(plain)).items():
        oracle = bjorck_normalization(raw[name], eps=1e-9, beta=0.5)
        torch.testing.assert_close(weight, oracle, rtol=0, atol=1e-4)


@pytest.mark.parametrize("net", SIZES)
def test_newton_schulz_keeps_all_singular_values_at_one_in_training(net: str) -> None:
    run = started("newton-schulz", net, reorthogonalize_every=7)
    model = run.model
    train(run, 30, net=net)
    for name, weight in effective(model).items():
        assert (torch.linalg.svdvals(weight) - 1).abs().max() < 1e-3, name


def test_newton_schulz_replaces_a_shared_layer_by_one() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared), nn.Linear(4, 2))
    bias = shared.bias
    model = methods.get("newton-schulz", iterations=9).prepare(model)
    assert isinstance(model[0], IsometricLinear)
    assert model[0] is model[2][0]
    assert model[0].bias is bias
    assert (model[0].iterations, model[0].reorthogonalize_every) == (9, 10_000)


def test_newton_schulz_keeps_the_geometry_of_a_convolution() -> None:
    layer = nn.Conv2d(2, 3, (3, 1), stride=2, padding=(1, 0), dilation=2, padding_mode="circular", bias=False)
    model = methods.get("newton-schulz").prepare(nn.Sequential(layer.double(), nn.Flatten(), nn.Linear(3, 2)))
    new = model[0]
    assert isinstance(new, IsometricConv2d)
    inputs = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    layer.weight.data = new.effective_weight().detach()
    torch.testing.assert_close(new(inputs), layer(inputs))


@pytest.mark.parametrize("name", ["newton-schulz", "spectral-norm"])
@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.MultiheadAttention(4, 2), r"0\.in_proj_weight is not: fused q, k, v: 3 matrices"),
        (nn.LSTM(4, 4), r"0\.weight_ih_l0 is not: 4 gates of LSTM"),
        (nn.Conv2d(4, 4, 3, groups=2), r"0\.weight is not: kernel seen as 4 x 18, 2 groups"),
    ],
)
def test_layers_of_another_kind_are_refused_not_left_out(name: str, layer: nn.Module, reason: str) -> None:
    with pytest.raises(IsoplastError, match=rf"{name} takes layers of one matrix .*{reason}.*adamo") as error:
        methods.get(name).prepare(nn.Sequential(layer, nn.Linear(4, 2)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["newton-schulz", "spectral-norm"])
def test_a_network_without_hidden_layers_is_refused(name: str) -> None:
    with pytest.raises(IsoplastError, match=f"method {name} found no hidden layer in Linear to act on"):
        methods.get(name).prepare(nn.Linear(4, 2))


@pytest.mark.parametrize("net", SIZES)
def test_spectral_norm_keeps_the_largest_singular_value_at_one(net: str) -> None:
    plain = normal_(network(net))
    head = plain.head.weight.detach().clone()
    raw = effective(plain)
    method = methods.get("spectral-norm", iterations=3)
    model = method.prepare(plain)
    assert torch.equal(model.head.weight, head)
    found = effective(model)
    for name, weight in found.items():
        assert torch.equal(
            model.get_parameter(f"{name}.parametrizations.weight.original").flatten(1), raw[name]
        )
        # The same direction, shorter: the estimate after 15 + 3 power iterations is 1 % too low at most here.
        torch.testing.assert_close(weight / weight.norm(), raw[name] / raw[name].norm())
        assert 0.999 < torch.linalg.matrix_norm(weight, 2) < 1.05, name
    train(Training(method, model, method.optimizer(model, 1e-3)), 40, net=net)
    model.eval()
    for name, weight in effective(model).items():
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=0.02), name


def test_spectral_norm_is_torchs_and_is_saved_with_the_network() -> None:
    model = methods.get("spectral-norm", iterations=2).prepare(network())
    oracle = network()
    for layer in oracle.layers:
        parametrizations.spectral_norm(layer, n_power_iterations=2)
    inputs = torch.randn(3, 6)
    assert torch.equal(model(inputs), oracle(inputs))
    assert "layers.0.parametrizations.weight.0._u" in model.state_dict()


def reference_newton_schulz(matrix: Tensor, iterations: int) -> Tensor:
    x = matrix.double() / matrix.double().norm()
    for _ in range(iterations):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x


def reference_fire(weight: Tensor, iterations: int = 10) -> Tensor:
    """FIRE by loops over the taps of a kernel."""
    scale = math.sqrt(weight.shape[0] / weight.shape[1])
    if weight.ndim == 2:
        return scale * reference_newton_schulz(weight, iterations)
    projected = torch.zeros_like(weight, dtype=torch.float64)
    height, width = weight.shape[2:]
    for i in range(height):
        for j in range(width):
            tap = reference_newton_schulz(weight[:, :, i, j], iterations)
            projected[:, :, i, j] = scale * tap / (height * width)
    return projected


def with_tasks(method: methods.Method, model: nn.Module, tasks: int = 2) -> torch.optim.Optimizer:
    optimizer = method.optimizer(model, 1e-2)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    for task in range(tasks):
        method.on_task(TaskContext(model, optimizer, task))
    return optimizer


@pytest.mark.parametrize("net", ["mlp", "cnn", "resnet18"])
def test_fire_projects_every_weight_to_a_scaled_isometry(net: str) -> None:
    method, model = methods.get("fire"), normal_(network(net))
    with_tasks(method, model, tasks=1)
    before = values(model)
    method.on_task(TaskContext(model, method.optimizer(model, 1e-2), 1))
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            expected = reference_fire(before[name]).to(parameter.dtype)
            # Ten iterations in float32 lose up to 1.5^10 ulps of the smallest singular values.
            torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-5)
        else:
            assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("shape", [(4, 4), (7, 3), (3, 7)])
def test_fire_follows_the_iteration_of_its_source_step_by_step(
    shape: tuple[int, int], iterations: int
) -> None:
    """Square, tall and wide; in float64, where ten iterations lose 1e-14 at most."""
    torch.manual_seed(0)
    model = nn.Linear(shape[1], shape[0], dtype=torch.float64)
    before = model.weight.detach().clone()
    method = methods.get("fire", iterations=iterations)
    for task in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method.on_task(TaskContext(model, optimizer, task))
    torch.testing.assert_close(model.weight.detach(), reference_fire(before, iterations), rtol=0, atol=1e-12)


def test_fire_is_the_nearest_isometry_where_the_iteration_converges() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 20, bias=False)
    nn.init.orthogonal_(model.weight)
    with torch.no_grad():
        model.weight.add_(0.1 * torch.randn(20, 5))
    before = model.weight.detach().clone()
    method = methods.get("fire", reset_optimizer=False)
    method.on_task(TaskContext(model, torch.optim.Adam(model.parameters()), 0))
    assert torch.equal(model.weight, before), "not before the first task"
    method.on_task(TaskContext(model, torch.optim.Adam(model.parameters()), 1))
    factor, _ = scipy.linalg.polar(before.double().numpy())
    torch.testing.assert_close(model.weight.double(), 2 * torch.from_numpy(factor), rtol=0, atol=1e-5)


def test_fire_projects_queries_and_keys_alone_in_a_network_with_attention() -> None:
    for attention in ("query-key", "all"):
        method, model = methods.get("fire", attention=attention), normal_(network("vit"))
        with_tasks(method, model, tasks=1)
        before = values(model)
        method.on_task(TaskContext(model, method.optimizer(model, 1e-2), 1))
        changed = set(different(values(model), before))
        matrices = {name for name, p in model.named_parameters() if p.ndim >= 2 and name != "position"}
        chosen = {name for name in matrices if ".query." in name or ".key." in name}
        assert len(chosen) == 4
        assert changed == (chosen if attention == "query-key" else matrices)


def test_fire_finds_queries_and_keys_in_fused_projections() -> None:
    model = normal_(nn.Sequential(nn.MultiheadAttention(4, 2), nn.Linear(4, 2)))
    before = values(model)
    with_tasks(methods.get("fire"), model)
    rows = model[0].in_proj_weight.detach().chunk(3)
    for block in rows[:2]:
        assert (torch.linalg.svdvals(block) - 1).abs().max() < 0.2
    # one Adam step of 0.01 and no projection
    torch.testing.assert_close(rows[2], before["0.in_proj_weight"].chunk(3)[2], rtol=0, atol=0.011)
    torch.testing.assert_close(model[1].weight, before["1.weight"], rtol=0, atol=0.011)


def fired(model: nn.Module) -> set[str]:
    """The names of the weights that a boundary changes."""
    method, before = methods.get("fire"), values(model)
    for task in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method.on_task(TaskContext(model, optimizer, task))
    return set(different(values(model), before))


def test_fire_takes_the_head_of_a_q_network_for_no_query() -> None:
    assert fired(nn.ModuleDict({"hidden": nn.Linear(4, 6), "q": nn.Linear(6, 3)})) == {
        "hidden.weight",
        "q.weight",
    }


def test_fire_leaves_the_values_beside_fused_keys() -> None:
    model = nn.ModuleDict({"to_q": nn.Linear(4, 4), "to_kv": nn.Linear(4, 8), "out": nn.Linear(4, 4)})
    values_before = model["to_kv"].weight.detach()[4:].clone()  # type: ignore[index, union-attr, operator]
    assert fired(model) == {"to_q.weight", "to_kv.weight"}
    assert torch.equal(model["to_kv"].weight[4:], values_before)  # type: ignore[index, union-attr, operator]


def test_fire_clears_the_optimizers_state_unless_asked_to_keep_it() -> None:
    assert len(with_tasks(methods.get("fire"), network(), tasks=1).state) == 6
    assert len(with_tasks(methods.get("fire"), network(), tasks=2).state) == 0
    assert len(with_tasks(methods.get("fire", reset_optimizer=False), network(), tasks=2).state) == 6


class Conv1D(nn.Module):
    """GPT-2's linear layer, with a weight (in, out)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))


def attention(**layers: nn.Module) -> nn.Module:
    module = nn.ModuleDict(layers)
    module.num_heads, module.num_kv_heads, module.head_dim = 4, 2, 4
    return module


# network, and the shapes (out, in) of the queries and keys in it
FUSED = {
    "grouped queries": (lambda: attention(qkv=nn.Linear(8, 32)), [(16, 8), (8, 8)]),
    "stored as (in, out)": (lambda: attention(c_attn=Conv1D(32, 8)), [(16, 8), (8, 8)]),
    "interleaved": (lambda: attention(query_key_value=nn.Linear(8, 32)), [(8, 8), (4, 8)] * 2),
    "single": (
        lambda: attention(query=nn.Linear(8, 16), k_proj=nn.Linear(8, 8), v=nn.Linear(8, 8)),
        [(16, 8), (8, 8)],
    ),
    "queries with keys": (
        lambda: attention(to_qk=nn.Linear(8, 32), to_v=nn.Linear(8, 8)),
        [(16, 8), (16, 8)],
    ),
}


@pytest.mark.parametrize(("make", "expected"), FUSED.values(), ids=FUSED)
def test_fire_cuts_fused_projections_as_param_groups_does(make: Any, expected: list[tuple[int, int]]) -> None:
    blocks = methods.get("fire")._blocks(make())
    assert [tuple(block.shape) for block in blocks] == expected


def test_fire_does_not_read_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a table says to people may be said in other words."""
    from isoplast.methods.isometry import fire

    model = attention(qkv=nn.Linear(8, 32), out=nn.Linear(8, 8))
    decided = [dataclasses.replace(decision, reason="quia") for decision in fire.decide(model)]
    monkeypatch.setattr(fire, "decide", lambda model: decided)
    assert len(methods.get("fire")._blocks(model)) == 2


def test_fire_leaves_a_tap_of_zeros() -> None:
    model = nn.Conv2d(3, 3, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[:, :, 1, 1] = 2 * torch.eye(3)
    method = methods.get("fire", reset_optimizer=False)
    for task in range(2):
        method.on_task(TaskContext(model, torch.optim.Adam(model.parameters()), task))
    assert model.weight.isfinite().all()
    torch.testing.assert_close(model.weight[:, :, 1, 1].detach(), torch.eye(3) / 9)
    assert int(model.weight.count_nonzero()) == 3


@pytest.mark.parametrize("net", SIZES)
def test_orthogonal_initialisation_is_what_it_says_and_then_adam(net: str) -> None:
    plain = build(net, classes=3, init="torch", **SIZES[net])
    model = methods.get("orthogonal-init", gain=1.5, head_gain=0.5).prepare(plain)
    for name, weight in effective(model).items():
        torch.testing.assert_close(
            torch.linalg.svdvals(weight), torch.full((min(weight.shape),), 1.5), msg=name
        )
    torch.testing.assert_close(torch.linalg.svdvals(model.head.weight.detach()), torch.full((3,), 0.5))
    optimizer = methods.get("orthogonal-init").optimizer(model, 1e-2)
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults == methods.get("adam").optimizer(model, 1e-2).defaults


def test_whoever_draws_the_network_again_draws_it_orthogonal() -> None:
    """A control that starts afresh, or noise from the initial distribution, must not come from torch's."""
    plain = build("mlp", classes=3, init="torch", **SIZES["mlp"])
    method = methods.get("orthogonal-init+full-reset", gain=1.5)
    model = method.prepare(plain)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model))).rebuild()
    torch.testing.assert_close(torch.linalg.svdvals(twin.head.weight.detach()), torch.full((3,), 1.5))
    before = values(model)
    optimizer = method.optimizer(model, 1e-2)
    method.begin(model, optimizer)
    method.on_task(TaskContext(model, optimizer, 1))
    assert "layers.0.weight" in different(values(model), before)
    for name, weight in effective(model).items():
        torch.testing.assert_close(
            torch.linalg.svdvals(weight), torch.full((min(weight.shape),), 1.5), msg=name
        )


def test_orthogonal_initialisation_can_make_the_operator_isometric() -> None:
    model = methods.get("orthogonal-init", conv="delta").prepare(network("cnn"))
    kernel = model.convs[0].weight.detach()
    assert int(kernel.abs().sum((0, 1)).count_nonzero()) == 1
    with pytest.raises(IsoplastError, match=r"gain of method orthogonal-init is 0\.0: it must be positive"):
        methods.get("orthogonal-init", gain=0)
