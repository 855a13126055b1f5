"""What is wrong is found and says its rate; what has no rate is a note."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from isoplast.diagnostics import activity, inspect, weight_spectra
from isoplast.diagnostics.health._decide import decide
from isoplast.diagnostics.health._evidence import Evidence, kind_of
from isoplast.diagnostics.health._finding import Finding, has_critical, ordered
from isoplast.diagnostics.health._limits import LIMITS, Limit, judged
from isoplast.diagnostics.health._notes import (
    activity_findings,
    barrier_findings,
    silence_findings,
    weight_findings,
)
from isoplast.nn import build, names


@dataclasses.dataclass
class Units:
    """The activity of a healthy layer, to be changed."""

    finite: bool = True
    units: int = 100
    dead: float = 0.0
    rare: float = 0.0
    inputs: int = 256
    inputs_needed: int = 256
    dormant: float = 0.1
    saturated: float = 0.0
    linearised: float = 0.0


def network(name: str, **options: str) -> nn.Module:
    shape = (16,) if name == "gpt" else (3, 32, 32)
    small = {"mlp": {"width": 64}, "cnn": {"width": 16}}.get(name, {})
    return build(name, input_shape=shape, classes=10, **small, **options)


@pytest.mark.parametrize("init", ["torch", "orthogonal"])
@pytest.mark.parametrize("name", [name for name in names() if name != "resnet18"])
def test_fresh_networks_have_no_findings(name: str, init: str) -> None:
    torch.manual_seed(0)
    model = network(name, init=init)
    inputs = torch.randint(0, 10, (8, 16)) if name == "gpt" else torch.randn(64, 3, 32, 32)
    assert inspect(model).findings == ()
    # torch's initialisation leaves deep layers constant: worth a note, no more.
    assert all(finding.severity == "note" for finding in inspect(model, inputs).findings)
    assert inspect(dict(model.state_dict())).findings == ()


def test_fresh_square_layers_of_torch_are_healthy_whatever_their_condition_number() -> None:
    """Of 40 uniform 64 x 64 matrices the worst condition number is above 1000: no reason for alarm."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(40)))
    assert weight_spectra(model).condition_number > 1000
    assert inspect(model).findings == ()


def changed(edit: object, layer: int = 0) -> list[Finding]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        edit(model[layer].weight)  # type: ignore[operator]
    return weight_findings(weight_spectra(model))


def rank_one(weight: Tensor) -> None:
    weight.copy_(torch.outer(torch.ones(32), torch.ones(32)) / 32 + 1e-4 * torch.randn(32, 32))


@pytest.mark.parametrize(
    ("edit", "severity", "words"),
    [
        (lambda w: w[0, 0].fill_(math.nan), "critical", "non-finite"),
        (lambda w: w[3, 3].fill_(math.inf), "critical", "non-finite"),
        (lambda w: w.mul_(10), "note", "largest singular value is 1"),
        (lambda w: w.mul_(1e-5), "note", "hardly any signal"),
        (lambda w: w.zero_(), "note", "all zero"),
        (rank_one, "note", "effective rank"),
    ],
)
def test_each_remarkable_weight_is_one_finding_at_its_layer(edit: object, severity: str, words: str) -> None:
    """Only lost numbers are critical: the rest is as frequent in networks that go on learning."""
    (found,) = changed(edit)
    assert (found.severity, found.where) == (severity, "0")
    assert words in found.what
    assert found.advice


def test_growth_since_the_start_is_said() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.mul_(8)
    (found,) = inspect(model, initial=initial).findings
    assert "8 times the initial one" in found.what


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"finite": False}, "critical", "not finite"),
        ({"dead": 1.0}, "note", "100% of 100 units are dead (zero on every input)"),
        ({"dead": 0.45}, "note", "45% of 100 units are dead"),
        ({"dead": 0.45, "rare": 0.4, "inputs_needed": 2000}, "note", "but most of them fire rarely"),
        ({"dead": 0.61, "linearised": 0.27}, "note", "61% of 100 units are dead and 27% always on"),
        ({"saturated": 0.7}, "note", "saturated"),
        ({"linearised": 0.95}, "note", "nearly linear"),
        ({"dormant": 0.7}, "note", "dormant"),
    ],
)
def test_what_units_do(change: dict[str, float], severity: str, words: str) -> None:
    layers = {"relu": dataclasses.replace(Units(), **change), "other": Units()}
    (found,) = activity_findings(layers, 256)
    assert (found.severity, found.where) == (severity, "relu")
    assert words in found.what


def test_units_that_fire_rarely_are_not_called_dead() -> None:
    """Each of 400 units fires on 0.2 % of inputs: 256 of them leave 60 % silent, of which none is dead."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 400)
    with torch.no_grad():
        layer.weight.div_(layer.weight.norm(dim=1, keepdim=True))
        layer.bias.fill_(-2.878)  # a standard normal number exceeds 2.878 once in 500
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(400, 3))
    found = inspect(model, torch.randn(256, 64))
    (said,) = (one for one in found.findings if one.where == "1")
    assert said.severity == "note"
    assert "are zero on all 256 inputs, but most of them fire rarely" in said.what
    needed = activity(model, torch.randn(256, 64))["1"].inputs_needed
    # All but 2 % have fired after ln(50) / 0.002 = 1956 inputs.
    assert 1000 < needed < 4000
    assert f"give {found.activity['1'].inputs_needed} inputs" in said.advice
    assert activity(model, torch.randn(8000, 64))["1"].dead < 0.02
    with torch.no_grad():
        layer.bias[:300] = -100.0
        layer.bias[300:] = 0.0
    dead = activity(model, torch.randn(256, 64))["1"]
    assert (dead.dead, dead.rare, dead.inputs_needed) == (0.75, 0.0, 256)


def test_healthy_units_are_no_finding() -> None:
    # 16 % dead: the most among networks trained on one task.
    assert activity_findings({"relu": Units(), "second": Units(dead=0.16, dormant=0.46)}, 256) == []


def test_the_barrier_names_how_many_biases() -> None:
    (few,) = barrier_findings({"0": (2, 64, 8.4), "2": (0, 64, 3.0)})
    assert (few.severity, few.where) == ("note", "0")
    assert "2 of 64 biases lie below -8.4" in few.what
    assert barrier_findings({"0": (40, 64, 0.1)}, constant={"0"}) == []


def test_silence_on_normal_inputs_has_no_verdict() -> None:
    found = [silence_findings({"2": units}) for units in ((0.47, 0.03), (0.99, 0.0), (0.1, 0.4))]
    assert [[one.severity for one in each] for each in found] == [["note"], ["note"], []]


class TestRates:
    def test_every_limit_says_how_often_networks_were_beyond(self) -> None:
        for limit in LIMITS:
            (wrong, healthy), (right, lost) = limit.false, limit.hits
            assert 0 <= wrong <= healthy > 0
            assert 0 <= right <= lost > 0
            assert f"of {healthy} looks at networks that went on learning" in limit.rate
            assert limit.beyond(limit.value + limit.sign)
            assert not limit.beyond(limit.value - limit.sign)
            assert not limit.beyond(math.nan)

    def test_critical_lies_beyond_warning(self) -> None:
        for which in {(limit.number, limit.kind, limit.memorises) for limit in LIMITS}:
            severe = {one.severity: one for one in LIMITS if (one.number, one.kind, one.memorises) == which}
            if len(severe) == 2:
                worst = severe["critical"].value + severe["critical"].sign * 1e-6
                assert severe["warning"].beyond(worst)
                assert judged(*which, worst) is severe["critical"]

    def test_a_verdict_is_given_by_limits_alone(self) -> None:
        """A collapsed layer: the finding carries the rate of its limit; below no limit there is none."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
        assert not [one for one in inspect(model, torch.randn(300, 16)).findings if one.severity != "note"]
        with torch.no_grad():
            model[2].weight[2:] = 0.0
            model[2].bias[2:] = -1.0
        severe = [one for one in inspect(model, torch.randn(300, 16)).findings if one.severity != "note"]
        assert severe
        assert {one.where for one in severe} == {"3"}
        assert {one.rate for one in severe} <= {limit.rate for limit in LIMITS}
        # with fewer inputs than the limits were fitted with nothing is claimed
        few = inspect(model, torch.randn(64, 16)).findings
        assert {one.severity for one in few} == {"note"}
        assert any("64 inputs are too few for a verdict" in one.what for one in few)

    def test_advice_fits_the_optimizer_and_what_can_be_repaired(self) -> None:
        grown = Evidence(largest={"0": 9.0, "2": 1.0}, initial={"0": 1.0, "2": 1.0}, assumed="relu")
        plain = decide(grown)[0]
        assert plain.severity == "critical"
        assert "the largest singular values before the head are 9.0 times the initial ones" in plain.what
        assert "AdamO" in plain.advice
        assert "repair_" not in plain.advice
        assert "repair_, which forgets" in decide(grown.with_(repairable=frozenset({"0"})))[0].advice
        kept = decide(grown.with_(isometric=True, repairable=frozenset({"0"})))[0].advice
        assert "more strength" in kept
        assert "AdamO or attach" not in kept

    def test_kinds_of_networks_are_told_by_their_units(self) -> None:
        torch.manual_seed(0)
        seen = {}
        for name, layers in {
            "relu": [nn.ReLU()],
            "smooth": [nn.Tanh()],
            "normalised": [nn.LayerNorm(8), nn.ReLU()],
        }.items():
            model = nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 2))
            seen[name] = kind_of(inspect(model, torch.randn(9, 4)).evidence)
        assert seen == {name: name for name in seen}

        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.cell(x)[0][:, -1])

        assert kind_of(inspect(Last(), torch.randn(9, 3, 4)).evidence) == "recurrent"
        assert kind_of(Evidence()) is None

    def test_what_is_not_finite_is_critical_without_a_rate(self) -> None:
        found = decide(Evidence(jacobian_condition=math.nan))
        assert [(one.severity, one.rate) for one in found] == [("critical", "")]
        assert (
            decide(Evidence(constant=True, inputs=9))[0].what == "the outputs are the same for all 9 inputs"
        )

    def test_a_limit_has_a_sign(self) -> None:
        falling = Limit("x", "relu", False, "warning", -1, 0.5, (1, 100), (30, 60))
        assert (falling.beyond(0.4), falling.beyond(0.6)) == (True, False)
        assert falling.rate == (
            "seen in 1.0% of 100 looks at networks that went on learning, "
            "in 50% of 60 at networks that had lost plasticity"
        )


def test_the_worst_comes_first_and_prints_in_one_line() -> None:
    note, warning, critical = (Finding(s, "a", "b", "c") for s in ("note", "warning", "critical"))  # type: ignore[arg-type]
    assert ordered([note, warning, critical]) == [critical, warning, note]
    assert has_critical([note, critical])
    assert not has_critical([note, warning])
    assert str(critical) == "critical: a: b; c"
