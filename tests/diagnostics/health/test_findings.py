"""What is wrong is found, and what is not wrong is not."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from isoplast.diagnostics import inspect, weight_spectra
from isoplast.diagnostics.health._findings import (
    Finding,
    activity_findings,
    barrier_findings,
    is_critical,
    network_findings,
    ordered,
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
        (lambda w: w.mul_(10), "warning", "largest singular value is 1"),
        (lambda w: w.mul_(1e-5), "warning", "hardly any signal"),
        (lambda w: w.zero_(), "note", "all zero"),
        (rank_one, "warning", "effective rank"),
    ],
)
def test_each_illness_of_a_weight_is_one_finding_at_its_layer(
    edit: object, severity: str, words: str
) -> None:
    (found,) = changed(edit)
    assert (found.severity, found.where) == (severity, "0")
    assert words in found.what
    assert found.remedy


def test_scale_is_no_warning_for_the_head_or_before_a_normalisation() -> None:
    (head,) = changed(lambda w: w.mul_(20), layer=4)
    assert head.severity == "note"
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 4))
    with torch.no_grad():
        model[0].weight.mul_(20)
    assert [finding.severity for finding in inspect(model).findings] == ["note"]
    assert [finding.severity for finding in inspect(dict(model.state_dict())).findings] == ["note"]


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
        ({"dead": 1.0}, "critical", "100% of 100 units are dead (zero on every input): nothing"),
        ({"dead": 0.45}, "critical", "45% of 100 units are dead"),
        ({"dead": 0.25}, "warning", "25% of 100 units are dead"),
        (
            {"dead": 0.61, "linearised": 0.27},
            "note",
            "61% of 100 units are dead (zero on every input) and 27%",
        ),
        ({"saturated": 0.7}, "warning", "saturated"),
        ({"linearised": 0.95}, "warning", "nearly linear"),
        ({"dormant": 0.7}, "warning", "dormant"),
    ],
)
def test_each_illness_of_units(change: dict[str, float], severity: str, words: str) -> None:
    (found,) = activity_findings({"relu": dataclasses.replace(Units(), **change), "other": Units()})
    assert (found.severity, found.where) == (severity, "relu")
    assert words in found.what


def test_healthy_units_are_no_finding() -> None:
    # 16 % dead: the most among networks trained on one task.
    assert activity_findings({"relu": Units(), "second": Units(dead=0.16, dormant=0.46)}) == []


def test_the_barrier_names_how_many_biases() -> None:
    (few,) = barrier_findings({"0": (2, 64, 8.4), "2": (0, 64, 3.0)})
    assert (few.severity, few.where) == ("warning", "0")
    assert "2 of 64 biases lie below -8.4" in few.what
    assert barrier_findings({"0": (40, 64, 8.4)})[0].severity == "critical"
    assert barrier_findings({"0": (40, 64, 0.1)}, constant={"0"})[0].severity == "note"


def test_silence_needs_a_stretched_layer_or_units_that_never_fire() -> None:
    # AdamO's network of width 512 that learns every task: 47 % never fire, 3 % on one input, sigma 4.2.
    learning = silence_findings({"2": (0.47, 0.03)}, {"2": 4.2})
    # Adam's at chance, on digits and on CIFAR-10.
    digits = silence_findings({"2": (0.04, 0.043)}, {"2": 7.75})
    cifar = silence_findings({"2": (0.99, 0.0)}, {"2": 7.5})
    assert [one[0].severity for one in (learning, digits, cifar)] == ["warning", "critical", "critical"]
    assert silence_findings({"2": (0.1, 0.4)}, {"2": 9.0}) == []


def test_numbers_of_the_whole_network() -> None:
    assert network_findings({}) == []
    assert network_findings({"plasticity": 0.85, "plasticity_fresh": 0.9, "ntk_condition": 400.0}) == []
    (critical,) = network_findings({"plasticity": 0.1, "plasticity_fresh": 0.9})
    assert (critical.severity, critical.where) == ("critical", "network")
    assert "removes 10% of a fresh task's loss where a fresh network removes 90%" in critical.what
    (ntk,) = network_findings({"ntk_condition": 1e7})
    assert ntk.severity == "warning"
    assert network_findings({"jacobian_condition": math.nan})[0].severity == "critical"


def test_the_worst_comes_first_and_prints_in_one_line() -> None:
    note, warning, critical = (Finding(s, "a", "b", "c") for s in ("note", "warning", "critical"))  # type: ignore[arg-type]
    assert ordered([note, warning, critical]) == [critical, warning, note]
    assert is_critical([note, critical])
    assert not is_critical([note, warning])
    assert str(critical) == "critical: a: b; c"
