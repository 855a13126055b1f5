"""The specification of a run: canonical, hashable, checked."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplast._core.errors import IsoplastError
from isoplast.study import Run, Switch

EXAMPLES = [
    Run(),
    Run(method="adam", data={"name": "digits", "samples": 128}, label="mine"),
    Run(method={"name": "adamo", "isometry": 0.03, "isometry_every": 20, "betas": (0.8, 0.99)}),
    Run(method="adam", switch=Switch(12, {"name": "adamo", "isometry_time": 1000.0})),
    Run(net={"name": "mlp", "width": 32, "activation": "maxmin", "normalization": "layernorm"}),
]


@pytest.mark.parametrize("run", EXAMPLES, ids=lambda run: run.id)
def test_yaml_round_trip_keeps_the_run_its_label_and_its_id(run: Run) -> None:
    again = Run.from_yaml(run.to_yaml())
    assert again == run
    assert hash(again) == hash(run)
    assert (again.label, again.id, again.to_yaml()) == (run.label, run.id, run.to_yaml())


@given(lr=st.floats(1e-300, 1e38), seed=st.integers(0, 2**63 - 1), isometry=st.floats(0, 1e300))
def test_yaml_round_trip_keeps_every_bit_of_a_number(lr: float, seed: int, isometry: float) -> None:
    run = Run(lr=lr, seed=seed, method={"name": "adamo", "isometry": isometry})
    assert Run.from_yaml(run.to_yaml()) == run


def test_equal_settings_are_equal_runs_however_they_are_written() -> None:
    given_ = Run(method={"name": "adamo", "weight_decay": 0, "isometry": 0.01}, lr=1)
    default = Run(method={"name": "adamo", "isometry": 1e-2}, lr=1.0)
    assert given_ == default
    assert given_.id == default.id


def test_a_run_says_all_its_settings_so_that_a_changed_default_cannot_change_it() -> None:
    mapping = Run(method="adamw").to_mapping()
    assert mapping["method"] == {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2}
    assert mapping["net"]["width"] == 512


def test_the_label_is_no_part_of_the_identity() -> None:
    one, other = Run(label="a"), Run(label="b")
    assert one == other
    assert one.id == other.id


def test_labels_by_default() -> None:
    assert Run(method="adamo").label == "AdamO"
    assert Run(method="adam", switch=Switch(12, "adamo")).label == "Adam, then AdamO from task 12"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"lr": 1e-4},
        {"stream": {"name": "random-labels", "tasks": 3}},
        {"method": {"name": "adamo", "isometry": 1.0}},
        {"switch": Switch(1, "adam")},
    ],
)
def test_every_setting_changes_the_id(change: dict[str, object]) -> None:
    changed = dataclasses.replace(Run(), **change)  # type: ignore[arg-type]
    assert changed.id != Run().id
    assert changed != Run()


def test_the_id_is_a_readable_directory_name() -> None:
    name = Run(method="adam", switch=Switch(12, "adamo"), lr=3e-3, seed=4).id
    assert name.startswith("random-labels-digits-mlp-adam-then-adamo-lr0.003-s4-")
    assert len(name.rpartition("-")[2]) == 8


def test_the_canonical_form_is_strict_json_without_the_label() -> None:
    mapping = json.loads(Run(label="x").canonical())
    assert "label" not in mapping
    assert mapping["lr"] == 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": math.nan}, "lr is nan: the learning rate must be a finite number > 0"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": -1e-3}, "lr is -0.001"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"epochs": 0}, "epochs of learner supervised is 0: it must be at least 1"),
        ({"tasks": 2.5}, "tasks of stream random-labels is 2.5: it must be a whole number"),
        ({"batch_size": True}, "batch_size of learner supervised is True"),
        ({"samples": -1}, "samples=-1 of data 'digits': ask for at least 1"),
        ({"seed": -1}, "seed is -1: it must be a whole number >= 0"),
        ({"stream": "random-label"}, "unknown stream 'random-label': did you mean 'random-labels'?"),
        ({"data": "mnits"}, "unknown data set 'mnits': did you mean 'mnist'?"),
        ({"net": "mpl"}, "unknown network 'mpl': did you mean 'mlp'?"),
        ({"method": "admo"}, "unknown method 'admo': did you mean 'adamo'?"),
        ({"device": "gpu"}, "device is 'gpu'"),
        (
            {"method": {"name": "adamo", "isometri": 1.0}},
            "unknown setting of method adamo 'isometri': did you mean 'isometry'?",
        ),
        ({"method": {"name": "adamo", "isometry": math.nan}}, "isometry of method adamo is nan"),
        (
            {"method": {"name": "adamo", "isometry": -1.0}},
            "isometry of method adamo is -1.0: it must not be negative",
        ),
        (
            {"method": {"name": "adamo", "betas": [0.9]}},
            r"betas of method adamo is \[0.9\]: it must be a list of 2",
        ),
        ({"method": {"name": "adamo", "betas": [0.9, 1.0]}}, r"betas\[1\] of method adamo is 1.0"),
        ({"method": {"name": "adamo", "isometry": 1.0, "isometry_time": 9.0}}, "give one of them"),
        (
            {"net": {"name": "mlp", "widht": 3}},
            "unknown setting of network mlp 'widht': did you mean 'width'?",
        ),
        (
            {"net": {"name": "mlp", "width": "big"}},
            "width of network mlp is 'big': it must be a whole number",
        ),
        ({"net": {"name": "mlp", "width": 0}}, "width of network mlp is 0"),
        ({"label": 3}, "label is 3: it must be text"),
        ({"tasks": 3, "switch": Switch(3, "adam")}, "switch at task 3 of 3"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        Run.from_mapping(settings)
    assert "\n" not in str(caught.value)


def test_a_switch_checks_itself() -> None:
    with pytest.raises(IsoplastError, match="task of switch is 0"):
        Switch(0, "adam")
    with pytest.raises(IsoplastError, match="unknown method 'adma'"):
        Switch(1, "adma")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{epoch: 3}", "unknown setting of a run 'epoch': did you mean 'epochs'?"),
        ("{net: [3]}", "give a name, or a mapping with 'name'"),
        ("{tasks: 3, stream: {tasks: 3}}", "tasks is given twice, as tasks and as stream.tasks"),
        ("{data: digits, stream: {data: mnist}}", "data is given twice"),
        ("{instruments: [weight]}", "unknown instrument 'weight': did you mean 'weights'?"),
        ("{hyper: {isometry: 1}}", "unknown setting of a run 'hyper'"),
        ("{seed: 9223372036854775808}", "seed is 9223372036854775808: it must be below 2"),
        ("{method: 3}", "method is 3"),
        ("{switch: {task: 3}}", "give a mapping with 'task' and 'method'"),
        ("{switch: {task: 3, method: adam, lr: 1.0}}", "unknown setting of switch 'lr'"),
        ("[1, 2]", "must be a mapping"),
        ("{lr: 1e-3, lr: 2e-3}", "'lr' is given twice"),
        ("{lr: [", "is not YAML"),
    ],
)
def test_wrong_documents_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        Run.from_yaml(text)
    assert "\n" not in str(caught.value)


def test_exponents_are_numbers_without_a_dot_as_well() -> None:
    assert Run.from_yaml("{lr: 1e-3}").lr == 1e-3
    assert Run.from_yaml("{lr: 3E-3}").lr == 3e-3


@pytest.mark.parametrize("text", ["{net: &a {name: mlp, width: *a}}", "{lr: &a [*a]}"])
def test_an_alias_inside_its_own_value_is_refused(text: str) -> None:
    with pytest.raises(IsoplastError, match="an alias"):
        Run.from_yaml(text)


def test_merge_keys_are_merged_and_may_be_overridden() -> None:
    text = "method: &c {name: adamo, isometry: 0.5}\nswitch: {task: 1, method: {<<: *c, isometry: 0.25}}"
    run = Run.from_yaml(text)
    assert run.switch is not None
    strengths = [dict(part.settings)["isometry"] for part in (run.method, run.switch.method)]
    assert strengths == [0.5, 0.25]
    with pytest.raises(IsoplastError, match="'lr' is given twice"):
        Run.from_yaml("{<<: {lr: 1.0}, lr: 2.0, lr: 3.0}")


def test_a_method_object_is_made_for_every_task() -> None:
    run = Run(method="adam", switch=Switch(2, {"name": "adamo", "isometry": 0.5}))
    assert [run.make_method(task).name for task in range(4)] == ["adam", "adam", "adamo", "adamo"]
    assert run.switch is not None
    assert dict(run.switch.method.settings)["isometry"] == 0.5


def test_a_part_without_a_name_is_about_the_default_one() -> None:
    assert Run.from_mapping({"net": {"width": 3}}).net == Run(net={"name": "mlp", "width": 3}).net


def test_the_usual_settings_may_stand_beside_the_parts() -> None:
    short = {"samples": 100, "tasks": 3, "epochs": 2, "batch_size": 5}
    long = {"data": {"samples": 100}, "stream": {"tasks": 3}, "learner": {"epochs": 2, "batch_size": 5}}
    nested = {**long, "stream": {"tasks": 3, "data": {"samples": 100}}}
    del nested["data"]
    assert Run.from_mapping(short) == Run.from_mapping(long) == Run.from_mapping(nested)


def test_what_is_measured_is_part_of_the_identity() -> None:
    assert Run(instruments=True) == Run()
    assert Run(instruments=False).instruments == ()
    some = Run(instruments=["ntk", "weights"])
    assert some.instruments == ("weights", "ntk")
    assert Run.from_yaml(some.to_yaml()) == some
    assert Run.from_yaml(Run(instruments=False).to_yaml()).instruments == ()
    assert len({Run().id, some.id, Run(instruments=False).id}) == 3


def test_how_often_is_measured_is_part_of_the_identity_and_after_every_task_without_a_word() -> None:
    seldom = Run(instruments_every=4)
    assert Run.from_yaml(seldom.to_yaml()) == seldom
    assert seldom.id != Run().id
    assert Run(instruments_every=1).id == Run().id
    assert "instruments_every" not in Run().to_mapping()
    with pytest.raises(IsoplastError, match="instruments_every is 0"):
        Run(instruments_every=0)
