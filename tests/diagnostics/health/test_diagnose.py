"""Everything at once: healthy networks raise no alarm, others hear what is wrong and where."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from isoplast import AdamO, diagnose
from isoplast._core.errors import IsoplastError
from isoplast.diagnostics._selection import for_jacobian, for_kernel
from isoplast.diagnostics.health import _diagnose
from isoplast.nn import build

NETWORKS = {
    "mlp": ((64,), {"width": 64}),
    "cnn": ((3, 8, 8), {}),
    "resnet18": ((3, 8, 8), {"width": 4}),
    "vit": ((3, 8, 8), {"width": 16, "depth": 2, "heads": 2}),
}


@pytest.fixture
def short(monkeypatch):
    """A probe that is short enough for networks with convolutions."""
    monkeypatch.setattr(_diagnose, "_PROBE_TASKS", 2)
    monkeypatch.setattr(_diagnose, "_PROBE_STEPS", 20)


def network(**options):
    torch.manual_seed(0)
    return build("mlp", input_shape=(16,), classes=4, **{"width": 32, "depth": 3, **options})


def inputs(samples=96):
    return torch.randn(samples, 16, generator=torch.Generator().manual_seed(1))


def said(found):
    return [(one.severity, one.where, one.what) for one in found.findings]


class TestHealthy:
    @pytest.mark.parametrize("init", ["orthogonal", "torch"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_fresh_networks_raise_no_alarm(self, short, name, init):
        shape, options = NETWORKS[name]
        torch.manual_seed(0)
        model = build(name, input_shape=shape, classes=10, init=init, **options)
        found = diagnose(model, torch.randn(64, *shape), optimizer=AdamO(model.parameters()), steps=100_000)
        assert found.healthy
        assert not found.left_out
        # torch's initialisation lets signals fade in 18 layers without normalisation: notes, no verdict
        assert {one.severity for one in found.findings} <= {"note"}
        if init == "orthogonal":
            assert said(found) == [("note", "network", "64 inputs are too few for a verdict on its features")]

    def test_a_network_that_is_sure_of_its_labels_gets_no_verdict_for_that(self):
        """Its loss on other labels is high: it begins late, and learns less in 100 steps than a fresh one."""
        torch.manual_seed(0)
        model, x, y = network(width=64), inputs(300), torch.randint(4, (300,))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        found = diagnose(model, x, y, optimizer=optimizer)
        assert found.healthy
        assert found.plasticity.losses[:, 0].mean() > 2 * found.plasticity.fresh.losses[:, 0].mean()

    def test_a_head_that_starts_at_zero_is_worth_a_note(self):
        model = network()
        nn.init.zeros_(model.head.weight)
        found = diagnose(model, inputs(), probe=False)
        assert found.healthy
        assert ("note", "head", "the weight is all zero") in said(found)
        assert not any("same for all" in what for _, _, what in said(found))


class TestWhatIsWrong:
    def test_a_dead_layer_is_named(self):
        model = network()
        nn.init.constant_(model.layers[1].bias, -50.0)
        found = diagnose(model, inputs(300))
        assert not found.healthy
        critical = [one for one in found.findings if one.severity == "critical"]
        assert "the outputs are the same for all 300 inputs" in {one.what for one in critical}
        assert "activations.1" in {one.where for one in found.findings}
        assert found.findings[0].severity == "critical"

    def test_stretched_layers_are_numbers_without_a_verdict(self):
        model = network(activation="tanh")
        with torch.no_grad():
            for layer in model.layers:
                layer.weight.copy_(
                    torch.outer(layer.weight[:, 0], layer.weight[0]) * 30 + 0.01 * layer.weight
                )
        found = diagnose(model, inputs(), probe=False)
        assert ("note", "layers.0") in [(severity, where) for severity, where, _ in said(found)]
        assert "the largest singular value is" in " ".join(what for _, _, what in said(found))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_non_finite_weights_are_reported_and_nothing_else_is_tried(self, value):
        model = network()
        model.layers[2].weight.data[0, 0] = value
        found = diagnose(model, inputs(), optimizer=AdamO(model.layers.parameters()))
        assert ("critical", "layers.2", "the weight holds non-finite values") in said(found)
        assert any("head.weight, head.bias" in what for _, _, what in said(found))
        assert set(found.left_out) == {"activity", "jacobian", "ntk", "plasticity"}
        assert found.ntk is None
        assert math.isnan(found.as_dict()["weights/largest"])

    def test_outputs_that_overflow_are_critical(self):
        model = network()
        with torch.no_grad():
            for layer in model.layers:
                layer.weight.mul_(1e20)
        found = diagnose(model, inputs(), probe=False)
        assert ("critical", "activations.1", "the activations are not finite") in said(found)
        assert ("critical", "network", "the empirical NTK is not finite") in said(found)

    def test_what_disables_a_method_is_found_too(self):
        model = network()
        optimizer = AdamO(model.layers.parameters(), lr=1e-4, isometry=1e-4)
        found = diagnose(model, inputs(), optimizer=optimizer, steps=1000, probe=False)
        whats = " ".join(what for _, _, what in said(found))
        assert "head.weight, head.bias" in whats
        assert "time constant" in whats

    def test_a_frozen_network_learns_nothing(self):
        found = diagnose(network().requires_grad_(False), inputs())
        assert ("critical", "network", "no parameter requires a gradient: nothing can be learned") in said(
            found
        )
        assert "no trainable parameter" in found.left_out["ntk"]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(8, 16), nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, first, second):
        return self.head(torch.relu(self.one(first) + self.other(second)))


class TestModels:
    @pytest.mark.parametrize("kind", [tuple, dict])
    def test_of_several_inputs(self, kind):
        torch.manual_seed(0)
        parts = {"first": torch.randn(64, 8), "second": torch.randn(64, 4)}
        found = diagnose(Pair(), parts if kind is dict else tuple(parts.values()), probe=False)
        assert found.healthy
        assert list(found.left_out) == ["jacobian"]
        assert "jacobian is left out: the Jacobian is by inputs that are one tensor" in str(found)

    def test_of_language(self, short):
        torch.manual_seed(0)
        model = build("gpt", input_shape=(6,), classes=12, width=16, depth=1, heads=2)
        tokens = torch.randint(12, (64, 7))
        found = diagnose(model, tokens[:, :-1], tokens[:, 1:])
        assert said(found) == [("note", "network", "64 inputs are too few for a verdict on its features")]
        assert list(found.left_out) == ["jacobian"]
        assert found.ntk.size == 28 * 6 * 11  # samples, positions, centred outputs; 2048 rows at most
        assert found.gradients.norm > 0
        assert found.curvature.sharpness > 0

    @pytest.mark.parametrize("shape", [(96,), (96, 1)])
    def test_of_one_number(self, shape):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
        found = diagnose(model, inputs(), torch.randn(shape))
        assert found.healthy
        assert list(found.left_out) == ["plasticity"]
        assert "no classes for random labels: give task=" in found.left_out["plasticity"]
        reference = torch.autograd.grad(_mean_square(model, shape), model[0].weight)[0].norm()
        assert found.gradients["0"].norm == pytest.approx(
            math.hypot(float(reference), _bias_norm(model, shape)), rel=1e-5
        )

    def test_that_returns_a_plain_vector(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))
        found = diagnose(model, inputs(), torch.randn(96), probe=False)
        assert found.healthy
        assert not found.left_out

    def test_without_hidden_layers(self):
        found = diagnose(nn.Linear(16, 4), inputs())
        assert said(found) == []
        assert found.left_out == {"activity": "no hidden layer was seen"}
        assert found.ntk.condition_number == math.inf  # 68 parameters, 96 rows: it has to be

    def test_with_dropout_and_batchnorm_is_left_as_it_was(self):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4)
        )
        x, y = inputs(), torch.randint(4, (96,))
        optimizer = torch.optim.Adam(model.parameters())
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        before, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        grads, random = [p.grad.clone() for p in model.parameters()], torch.get_rng_state()
        found = diagnose(torch.compile(model, backend="eager"), x, y, optimizer=optimizer)
        assert found.healthy
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
        assert all(module.training for module in model.modules())
        assert torch.equal(torch.get_rng_state(), random)
        assert str(optimizer.state_dict()) == str(state)

    def test_that_a_twin_cannot_be_made_of(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.w = nn.Linear(16, 8), nn.Parameter(torch.randn(8, 8))

            def forward(self, x):
                return torch.relu(self.body(x)) @ self.w

        found = diagnose(Own(), inputs())
        assert "nothing knows how to draw w" in found.left_out["plasticity"]


def _mean_square(model, shape):
    torch.manual_seed(0)
    nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))  # the draws before the targets
    targets = torch.randn(shape).flatten()[:64]
    return (model(inputs()[:64]).flatten() - targets).square().mean()


def _bias_norm(model, shape):
    return float(torch.autograd.grad(_mean_square(model, shape), model[0].bias)[0].norm())


def test_every_number_has_a_name_of_its_own():
    x, y = inputs(), torch.arange(96) % 4
    found = diagnose(network(), x, y, initial=network(), probe=False)
    numbers = found.as_dict()
    groups = {name.partition("/")[0] for name in numbers}
    assert groups == {"weights", "activity", "jacobian", "ntk", "gradients", "curvature"}
    assert all(isinstance(value, float) for value in numbers.values())
    assert numbers["weights/distance_from_initialisation"] == 0
    assert max(map(len, str(found).splitlines())) <= 120


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.randn(8, 15), None, r"inputs of shape \(8, 15\) do not fit"),
        (torch.zeros(0, 16), None, "at least one"),
        ([1.0], None, "must be tensors"),
        (torch.full((8, 16), math.nan), None, "the inputs hold NaN or infinities"),
        (torch.randn(8, 16), torch.zeros(7, dtype=torch.long), r"\(7,\) do not fit outputs \(8, 4\)"),
        (torch.randn(8, 16), torch.zeros(8), r"torch.float32 \(8,\) do not fit"),
        (torch.randn(8, 16), torch.full((8,), 4), r"classes outside 0\.\.3"),
    ],
    ids=["width", "none", "list", "nan", "too few targets", "numbers for classes", "class"],
)
def test_bad_input_is_refused_in_one_line(x, y, words):
    with pytest.raises(IsoplastError, match=words) as raised:
        diagnose(network(), x, y)
    assert "\n" not in str(raised.value)


class TestSelection:
    def test_repeated_samples_count_once(self):
        x = torch.arange(6.0).repeat_interleave(5)[:, None]
        assert for_kernel(x, 2, 4, 1000).flatten().tolist() == [0, 1, 2, 3]
        assert for_kernel(x[:5], 2, 4, 1000).flatten().tolist() == [0]

    def test_many_outputs_mean_fewer_samples(self):
        x = torch.randn(50, 3)
        assert len(for_kernel(x, 100, 32, 1000)) == 10
        assert len(for_kernel({"a": x}, 100, 32, 1000)["a"]) == 10
        assert len(for_kernel(x[:2], 500, 32, 1000)) == 2
        with pytest.raises(IsoplastError, match="300 outputs per sample"):
            for_kernel(x, 300, 32, 1000)

    def test_large_inputs_mean_fewer_samples(self):
        assert len(for_jacobian(torch.empty(50, 3, 8, 8), 16)) == 16
        assert len(for_jacobian(torch.empty(50, 3, 224, 224), 16)) == 1
