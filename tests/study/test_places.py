"""Which line of a study's file a refusal names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoplast._core.errors import IsoplastError
from isoplast.study import Run, Study, Tuning, builtin_studies, plan_study, run_study, trials

STUDY = """\
name: small
run:
  tasks: 4
  learner:
    name: supervised
    epochs: 3
  net: {name: mlp, width: 8}
streams:
  - data: digits
    lr: 1e-2
methods:
  - adam
  - method:
      name: adamo
      isometry: 1e-2
seeds: [0, 1]
"""
TUNING = f"""{STUDY}\
tune:
  space:
    lr: [1e-3, 1e-2]
    isometry: [1e-3]
  seeds: [100, 101]
  fraction: 0.5
"""


def refusal(parse: Callable[..., object], text: str, **given: Any) -> str:
    with pytest.raises(IsoplastError) as caught:
        parse(text, "my.yaml", **given)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # Unknown keys and names, at every depth.
        ("name: small\n", "name: small\nsede: 3\n", "line 2: unknown key of a study 'sede': did you mean"),
        ("tasks: 4", "task: 4", "line 3: unknown setting of a run 'task': did you mean 'tasks'"),
        ("    lr: 1e-2", "    lrr: 1e-2", "line 10: unknown setting of a run 'lrr': did you mean 'lr'"),
        ("epochs: 3", "epohcs: 3", "line 6: unknown setting of learner supervised 'epohcs': did you"),
        ("supervised", "suprevised", "line 5: unknown learner 'suprevised': did you mean 'supervised'"),
        ("width", "widht", "line 7: unknown setting of network mlp 'widht': did you mean 'width'"),
        ("isometry:", "isometri:", "line 15: unknown setting of method adamo 'isometri': did you"),
        ("- adam\n", "- admo\n", "line 12: unknown method 'admo': did you mean 'adamo'"),
        ("- data: digits", "- data: digist", "line 9: unknown data set 'digist': did you mean 'digits'"),
        (
            "- data: digits",
            "- stream:\n      name: random-labels\n      data:\n        name: digits\n        smaples: 3",
            "line 13: unknown setting of data digits 'smaples': did you mean 'samples'",
        ),
        ("- data: digits", "- stream: {\n        names: 3}", "line 10: unknown setting of stream"),
        ("seeds:", "sinks: [tensorboard,\n  tensorbord]\nseeds:", "line 17: unknown sink 'tensorbord'"),
        # Wrong types and values out of range.
        ("tasks: 4", "tasks: four", "line 3: tasks of stream random-labels is 'four'"),
        ("width: 8", "width: 0", "line 7: width of network mlp is 0"),
        ("lr: 1e-2", "lr: -1", "line 10: lr is -1"),
        ("isometry: 1e-2", "betas: [0.9,\n        1.0]", "line 15: betas[1] of method adamo is 1.0"),
        ("- adam\n", "- 3\n", "line 12: methods holds 3: it must be a mapping"),
        ("[0, 1]", "\n  - 0\n  - x", "line 18: seed is 'x'"),
        ("[0, 1]", "3", "line 16: seeds is 3: it must be a list"),
        ("name: small", "name: a/b", "line 1: name is 'a/b'"),
        # Impossible combinations: a line of one of those that exclude each other.
        (
            "isometry: 1e-2",
            "isometry: 1.0\n      isometry_time: 9.0",
            "line 16: method adamo got isometry=1.0 and isometry_time=9.0",
        ),
        ("- adam\n", "- method: {name: adam,\n      isometry: 1}\n", "line 13: unknown setting of method"),
        ("- data: digits", "- data: digits\n    stream: shifted-control", "line 10: stream shifted-con"),
        ("- adam\n", "- switch:\n      task: 4\n      method: adam\n", "line 13: switch at task 4 of 4"),
        ("- adam\n", "- adam\n  - adam\n", "line 13: two methods are labelled 'Adam'"),
        ("- adam\n", "- method: adam\n    seed: 3\n", "line 13: seed is set for some of the runs"),
        ("[0, 1]", "\n  - 0\n  - 0", "line 18: 'Adam' and 'Adam' with seed 0 are the same run"),
        # Swept values.
        ("isometry: 1e-2", "isometry: [1e-2,\n        x]", "line 16: isometry of method adamo is 'x'"),
        ("isometry: 1e-2", "isometry: []", "line 15: method.isometry is an empty list"),
        ("isometry: 1e-2", "betas: [[0.9, 0.9],\n        [0.9, 2]]", "line 16: betas[1] of method adamo is"),
        ("lr: 1e-2", "lr:\n      - 1\n      - 1", "line 12: 'Adam, lr 1' and 'Adam, lr 1' with seed"),
        ("{name: mlp, width: 8}", "[mlp, {name: mlp,\n    width: 0}]", "line 8: width of network mlp is 0"),
        # Two settings are wrong: the line is that of the one that is named.
        ("width: 8}", "widht: 8}\n  device: tpu", "line 7: unknown setting of network mlp 'widht'"),
        # Aliases and merge keys: where the value is written.
        ("{name: mlp, width: 8}", "&n {name: mlp,\n    <<: {width: 0}}", "line 8: width of network mlp is 0"),
        (
            "- adam\n",
            "- method: &a\n      name: adamo\n      isometry: 1\n"
            "  - switch: {task: 1, method: {<<: *a, isometry: -1.0}}\n",
            "line 15: isometry of method adamo is -1.0",
        ),
    ],
)  # fmt: skip
def test_a_refusal_names_the_line_of_what_is_refused(old: str, new: str, message: str) -> None:
    assert STUDY.count(old) == 1, old
    assert refusal(Study.parse, STUDY.replace(old, new)).startswith(f"my.yaml, {message}")
    assert refusal(Tuning.parse, TUNING.replace(old, new, 1)).startswith(f"my.yaml, {message}")


def test_a_document_on_one_line_has_line_1() -> None:
    said = refusal(Study.parse, "{name: a, run: {net: {widht: 3}}, methods: [adam, {method: adamo}]}")
    assert said.startswith("my.yaml, line 1: unknown setting of network mlp 'widht'")


def test_what_is_missing_has_no_line() -> None:
    assert refusal(Study.parse, "methods: [adam]").startswith("my.yaml: name is None")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "fraction: 0.5",
            "fractoin: 0.5",
            "line 22: unknown key of tune 'fractoin': did you",
        ),
        ("fraction: 0.5", "fraction: much", "line 22: tune.fraction is 'much'"),
        ("fraction: 0.5", "trials: 0", "line 22: tune.trials is 0"),
        ("fraction: 0.5", "sampler: tpe", "line 22: tune.trials is missing"),
        ("[100, 101]", "[100,\n    1]", "line 22: tune.seeds: 1 is a seed of the evaluation"),
        ("[100, 101]", "[]", "line 21: tune.seeds: it is empty"),
        ("lr: [1e-3, 1e-2]", "lr: 3", "line 19: tune.space.lr is 3"),
        ("lr: [1e-3, 1e-2]", "lr: {low: 1, hihg: 2}", "line 19: unknown key of tune.space.lr 'hihg'"),
        ("tune:\n", "tune: 3\nothers:\n", "line 17: a file for tuning is a study with a mapping 'tune'"),
        ("lr: [1e-3, 1e-2]\n", "", "line 19: method 'Adam' has none of the settings of tune.space"),
    ],
)
def test_a_refused_tuning_names_the_line(old: str, new: str, message: str) -> None:
    assert old in TUNING
    assert refusal(Tuning.parse, TUNING.replace(old, new)).startswith(f"my.yaml, {message}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lr": -1}, "overridden by lr=-1: lr is -1"),
        ({"lr": [1, -1]}, "overridden by lr=[1, -1]: lr is -1"),
        ({"net": {"width": 0, "depth": 2}}, "overridden by net.width=0: width of network mlp is 0"),
        ({"net": {"widht": 1}}, "overridden by net.widht=1: unknown setting of network mlp"),
        ({"epohcs": 1}, "overridden by epohcs=1: unknown setting of a run 'epohcs'"),
        ({"epochs": 0}, "overridden by epochs=0: epochs of learner supervised is 0"),
        ({"seed": 1}, "overridden by seed=1: seed is set for some of the runs"),
        ({"seeds": [0, "x"]}, "overridden by seeds=[0, 'x']: seed is 'x'"),
        ({"methods": ["adam", "admo"]}, "overridden by methods=['adam', 'admo']: unknown method 'admo'"),
        ({"sinks": ["csv"]}, "overridden by sinks=['csv']: unknown sink 'csv'"),
    ],
)
def test_what_is_wrong_with_an_override_is_not_put_down_to_the_file(
    overrides: dict[str, Any], message: str
) -> None:
    assert refusal(Study.parse, STUDY, overrides=overrides).startswith(f"my.yaml, {message}")


def test_what_is_wrong_with_the_file_is_not_put_down_to_an_override() -> None:
    said = refusal(Study.parse, STUDY.replace("width: 8", "width: 0"), overrides={"net": {"depth": 1}})
    assert said.startswith("my.yaml, line 7: width")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data: {name: digits, samples: 9999}", "my.yaml, run 'AdamO': "),
        ("net: gpt, label: reads", "my.yaml, run 'reads': network gpt reads token sequences"),
    ],
)
def test_what_the_data_show_names_the_file_and_the_run(settings: str, message: str, tmp_path: Path) -> None:
    text = f"{{name: a, run: {{{settings}}}}}"
    study = Study.parse(text, "my.yaml")
    for act in (plan_study, run_study):
        with pytest.raises(IsoplastError, match=re.escape(message)):
            act(study, tmp_path)
    with pytest.raises(IsoplastError, match=r"^run 'AdamO': network gpt"):
        plan_study(Study("a", [Run(net="gpt")]), tmp_path)


def test_the_trials_of_a_tuning_are_of_its_file() -> None:
    known = trials(Tuning.parse(TUNING, "my.yaml"))
    assert known is not None
    assert known.source == "my.yaml"


@pytest.mark.parametrize("study", builtin_studies().values(), ids=lambda path: path.stem)
def test_every_setting_of_a_ready_made_study_has_its_line(study: Path) -> None:
    """Each key in turn is spelled wrongly: the line of the refusal is the line of the key."""
    lines = study.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        found = re.match(r"( *(?:- )?\{?)([a-z_]+):(?= |$)", line)
        # Without its name a part is another one, whose settings may be other ones.
        if found is None or found[2] in ("about", "name"):
            continue
        wrong = f"{found[1]}{found[2]}_x{line[found.end(2) :]}"
        said = refusal(Study.parse, "\n".join([*lines[:number], wrong, *lines[number + 1 :]]))
        assert said.startswith(f"my.yaml, line {number + 1}: "), (wrong, said)
