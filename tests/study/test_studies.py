"""Studies as YAML: what they expand to, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.study import Part, Study, Switch, builtin_studies, find_study, load_runs, load_study


def test_streams_times_methods_times_seeds_times_swept_values() -> None:
    study = Study.parse(
        """
        name: all
        about: everything at once
        run: {tasks: 5, lr: [1e-3, 3e-3], net: {name: mlp, width: 16}}
        streams:
          - {data: digits, samples: 128}
          - {data: mnist, epochs: 3}
        methods:
          - adam
          - {method: {name: adamo, isometry: [1e-2, 1e-1]}, net: {activation: tanh}}
        seeds: [3, 4]
        """
    )
    assert len(study.runs) == len(set(study.runs)) == 2 * (2 + 4) * 2
    assert [run.seed for run in study.runs] == [3] * 12 + [4] * 12
    assert [run.label for run in study.runs[:6]] == [
        "Adam, lr 0.001",
        "Adam, lr 0.003",
        "AdamO, lr 0.001, isometry 0.01",
        "AdamO, lr 0.001, isometry 0.1",
        "AdamO, lr 0.003, isometry 0.01",
        "AdamO, lr 0.003, isometry 0.1",
    ]
    last = study.runs[-1]
    assert last.data is not None
    assert (last.data.name, dict(last.learner.settings)["epochs"], last.tasks) == ("mnist", 3, 5)
    assert last.lr == 3e-3
    assert dict(last.method.settings)["isometry"] == 0.1
    settings = dict(last.net.settings)
    assert (settings["width"], settings["activation"]) == (16, "tanh")  # nested settings are merged


def test_settings_of_another_method_or_network_are_not_mixed_in() -> None:
    study = Study.parse(
        "{name: a, run: {method: {name: adamw, weight_decay: 0.5}}, methods: [{method: {name: adam}}]}"
    )
    assert study.runs[0].method.name == "adam"


def test_a_study_may_be_a_single_run() -> None:
    (run,) = Study.parse("{name: one, run: {method: adam}}").runs
    assert (run.method.name, run.seed) == ("adam", 0)


def test_the_demo_is_what_it_says() -> None:
    study = Study.load(find_study("demo"))
    assert [run.label for run in study.runs[:4]] == [
        "Adam",
        "AdamW",
        "AdamO",
        "Adam, then AdamO from task 12 (rescue)",
    ]
    learner = Part("supervised", (("batch_size", 64), ("epochs", 25)))
    assert {(run.data, run.tasks, run.learner, run.lr) for run in study.runs} == {
        (Part("digits", (("samples", 1280),)), 24, learner, 3e-3)
    }
    assert study.runs[3].switch == Switch(12, {"name": "adamo", "isometry": 1e-2})
    assert len(study.runs) == 8


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        *(("demo", 8), ("random_labels_cifar", 9), ("lambda_sweep_digits", 24), ("lambda_sweep_cifar", 12)),
        ("lambda_sweep_small", 105),
        *(("control_demo", 12), ("minatar", 48), ("minatar_small", 15), ("minatar_single_small", 12)),
        *(("slippery_ant", 25), ("slippery_ant_small", 9), ("octax", 12)),
    ],
)
def test_the_ready_made_studies_are_found_by_name_and_named_like_their_file(name: str, runs: int) -> None:
    assert name in builtin_studies()
    study = Study.load(find_study(name))
    assert (study.name, len(study.runs)) == (name, runs)
    assert study.about


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: a, method: [adam]}", "unknown key of a study 'method': did you mean 'methods'?"),
        ("{name: a, methods: [admo]}", "unknown method 'admo': did you mean 'adamo'?"),
        ("{name: a, run: {epoch: 3}}", "unknown setting of a run 'epoch': did you mean 'epochs'?"),
        ("{name: a, methods: [{method: {name: adamo, isometri: 1}}]}", "did you mean 'isometry'?"),
        ("{methods: [adam]}", "name is None"),
        ("{name: a/b}", "name is 'a/b'"),
        ("{name: .}", "name is '.'"),
        ("{name: ..}", "name is '..'"),
        ("{name: a, run: {lr: 2024-01-01}}", "lr is '2024-01-01'"),
        ("{name: a, run: {lr: !!set {1, 2}}}", "line 1: the tag '!!set' is not known"),
        ("{name: a, run: {tasks: !!binary aGk=}}", "line 1: the tag '!!binary' is not known"),
        ("{name: a, run: {net: &a {name: mlp, width: *a}}}", "an alias"),
        ("{name: a, run: {label: 3}}", "label is 3: it must be text"),
        ("{name: a, run: {net: {name: mlp, 3: []}}}", "net.3 is an empty list"),
        ("{name: a, about: {b: c}}", "about is {'b': 'c'}: it must be text, put it between quotes"),
        ("{name: a, about: }", "about is None: it must be text"),
        ("{name: a, tune: {}}", "give it to isoplast tune"),
        ("{name: a, streams: [random-label]}", "did you mean 'random-labels'?"),
        (
            "{name: a, methods: [{method: {name: adam, betas: [0.9]}}]}",
            "betas of method adam is .* list of 2",
        ),
        ("{name: a, methods: []}", r"methods is \[\]: it must be a list that is not empty"),
        ("{name: a, seeds: 3}", "seeds is 3"),
        ("{name: a, seeds: [0, 0]}", "'AdamO' and 'AdamO' with seed 0 are the same run"),
        ("{name: a, seeds: [0.5]}", "seed is 0.5"),
        ("{name: a, run: {seed: 3}}", "list all seeds under 'seeds'"),
        ("{name: a, run: {lr: []}}", "lr is an empty list"),
        ("{name: a, run: {lr: [1e-3, 1e-3]}}", "with seed 0 are the same run"),
        ("{name: a, run: {lr: [.nan]}}", "lr is nan"),
        ("{name: a, run: 3}", "run holds 3: it must be a mapping"),
        ("{name: a, methods: [adam, {method: adam, lr: 1.0}]}", "two methods are labelled 'Adam'"),
        ("{name: a, name: b}", "'name' is given twice"),
        ("- a", "a study is a mapping"),
        ("a: [", "is not YAML"),
        ("", "a study is a mapping"),
    ],
)
def test_wrong_studies_are_refused_in_one_line_that_names_the_file(text: str, message: str) -> None:
    with pytest.raises(IsoplastError, match=message) as caught:
        Study.parse(text, "my.yaml")
    assert str(caught.value).startswith("my.yaml")
    assert "\n" not in str(caught.value)


def test_a_stream_may_be_just_its_name() -> None:
    (run,) = Study.parse("{name: a, streams: [random-labels], methods: [adam]}").runs
    assert run.stream.name == "random-labels"


def test_a_list_for_a_setting_that_is_a_list_is_one_value() -> None:
    (run,) = Study.parse("{name: a, run: {method: {name: adam, betas: [0.8, 0.99]}}}").runs
    assert dict(run.method.settings)["betas"] == (0.8, 0.99)
    assert run.label == "Adam"
    swept = Study.parse(
        "{name: a, run: {tasks: 3}, methods:"
        " [{method: {name: [adam, adamw], betas: [[0.8, 0.99], [0.9, 0.95]]}},"
        " {label: late, switch: {task: 1, method: {name: adamo, betas: [0.7, 0.9]}}}]}"
    )
    assert [dict(run.method.settings)["betas"] for run in swept.runs[:4]] == [(0.8, 0.99), (0.9, 0.95)] * 2
    assert len(swept.runs) == 5


def test_labels_tell_equal_methods_apart() -> None:
    study = Study.parse("{name: a, methods: [adam, {method: adam, lr: 1.0, label: fast}]}")
    assert [run.label for run in study.runs] == ["Adam", "fast"]


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsoplastError, match=r"unknown study 'demmo': did you mean 'demo'\?"):
        find_study("demmo")
    with pytest.raises(IsoplastError, match=r"there is no file gone/demo.yaml; ready-made studies: co"):
        find_study("gone/demo.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IsoplastError, match=r"binary\.yaml cannot be read: it is not text"):
        Study.load(tmp_path / "binary.yaml")


def test_a_directory_belongs_to_one_study(tmp_path: Path) -> None:
    Study.parse("{name: one}").describe(tmp_path)
    Study.parse("{name: one, seeds: [0, 1]}").describe(tmp_path)
    assert Study.load(tmp_path / "study.yaml").name == "one"
    with pytest.raises(IsoplastError, match="holds the results of study 'one': choose another --out"):
        Study.parse("{name: two}").describe(tmp_path)


@pytest.mark.parametrize(
    "contents", ["", "[]", "{", '{"name": "one"}', '{"name": 1, "about": "", "runs": []}']
)
def test_a_damaged_index_is_refused(tmp_path: Path, contents: str) -> None:
    (tmp_path / "index.json").write_text(contents)
    for read in (Study.parse("{name: one}").describe, load_study, load_runs):
        with pytest.raises(IsoplastError, match=r"index.json is damaged: delete it, and the same"):
            read(tmp_path)
