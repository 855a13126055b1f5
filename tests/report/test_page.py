"""The page as text: complete, self-contained, and safe whatever the labels are."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic

from isoplast._core.errors import IsoplastError
from isoplast.cli import _commands
from isoplast.cli.studies import _studies
from isoplast.report import write_report
from isoplast.report.data._instruments import PROBES
from isoplast.report.data._source import read_source
from isoplast.study import Run, RunDirectory, read_rows

OF_AGENTS = (
    *("ntk_policy_condition_number", "ntk_value_condition_number"),
    *("policy_churn", "value_churn", "greedy_churn"),
)


class Elements(HTMLParser):
    """All elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words += data

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    study = synthetic.write_study(tmp_path_factory.mktemp("made-up"))
    target = write_report(study)
    assert target == study / "report.html"
    return target.read_text(encoding="utf-8")


def test_the_page_loads_nothing_and_forbids_loading(page: str) -> None:
    elements = Elements(page)
    for _, attributes in elements.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:,") == "data:,"
    policy = next(meta["content"] for meta in elements.find("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert page.count("plotly.js v") == 1
    assert len(page) < 6_000_000


def test_the_page_has_its_parts(page: str) -> None:
    elements = Elements(page)
    assert elements.find("html") == [{"lang": "en"}]
    assert "<title>made-up: isoplast report</title>" in page
    assert len(elements.find("h1")) == 1
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    assert headings == [
        "Ranking",
        "Accuracy after each task",
        "Results",
        "Performance profile",
        "Can it still learn?",
        "Singular values of the weights",
        "Dead and dormant units",
        "Configuration",
        "Provenance",
    ]
    plots = [div for div in elements.find("div") if div.get("role") == "img"]
    assert len(plots) == 10
    assert all("Adam" in (plot["aria-label"] or "") for plot in plots)
    words = " ".join(elements.words.split())
    for expected in (
        "Every number is known.",
        "adamo, isometry 0.01",
        "task 12, method adamo",
        "commit 0123456789ab",
        "torch 2.13.0",
        "Some CPU <at> 3 GHz",
        "96,000",  # steps: 8 runs x 24 tasks x 500
        "300 MiB",
        "isoplast study made-up.yaml",
    ):
        assert expected in words
    assert "node-17" not in page  # the name of the machine is nobody's business


def test_an_infinite_condition_number_is_said_in_words(page: str) -> None:
    plots = {
        plot["data-figure"]: plot["aria-label"] or ""
        for plot in Elements(page).find("div")
        if "data-figure" in plot
    }
    said = plots["figure-ntk_condition_number"]
    assert said.startswith(
        "NTK condition number per task. After the last task, Adam: infinite; AdamW: infinite; "
    )
    assert re.search(r"AdamO: \d", said)


def test_figures_are_json_that_a_browser_can_read(page: str) -> None:
    data = dict(re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page, re.DOTALL))
    assert set(data) == {
        "figure-score",
        "figure-profile",
        "figure-sigma_max",
        "figure-sigma_min",
        "figure-dead",
        "figure-dormant",
        *(f"figure-{name}" for name in PROBES if name not in OF_AGENTS),
        "colors",
    }
    figures = {name: json.loads(text) for name, text in data.items()}
    assert len(figures["figure-score"]["data"]) == 8


def figure(text: str, name: str) -> str:
    found = re.search(rf'<script type="application/json" id="figure-{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return found[1]


def test_policy_and_value_of_agents_have_figures_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = synthetic.row

    def of_agent(run: Run, task: int, curve: synthetic.Curve) -> dict[str, Any]:
        trained = {"policy_churn": 0.01, "value_churn": 0.0, "greedy_churn": 0.0} if task >= 0 else {}
        return row(run, task, curve) | trained | dict.fromkeys(OF_AGENTS[:2], 1e5)

    monkeypatch.setattr(synthetic, "row", of_agent)
    text = write_report(synthetic.write_study(tmp_path, ["Adam"], seeds=2, tasks=3)).read_text()
    for name in OF_AGENTS:
        assert f'id="figure-{name}"' in text
    assert "Churn: how much the last update of a task changes policy" in text
    assert "Churn with DQN: on what share of observations of the replay" in text
    axis = {name: json.loads(figure(text, name))["layout"]["yaxis"].get("type") for name in OF_AGENTS}
    assert axis.pop("greedy_churn") is None  # a share, on a linear axis
    assert set(axis.values()) == {"log"}


def test_a_sweep_has_its_sensitivity_and_methods_with_one_strength_each_have_none(tmp_path: Path) -> None:
    for isometry in (1e-2, 1e-1):
        for lr in (1e-3, 3e-3):
            changes = {"method": {"name": "adamo", "isometry": isometry}, "lr": lr}
            label = f"AdamO {isometry} at {lr}"
            run = synthetic.specification(label, 0, tasks=2, **changes)
            synthetic.write_run(tmp_path / "sweep", run, synthetic.staying)
            if (isometry, lr) in ((1e-2, 1e-3), (1e-1, 3e-3)):
                synthetic.write_run(tmp_path / "pairs", run, synthetic.staying)
    text = write_report(tmp_path / "sweep").read_text()
    traces = json.loads(figure(text, "sensitivity"))["data"]
    assert [(one["name"], one["x"]) for one in traces] == [
        ("lr 0.001", [0.01, 0.1]),
        ("lr 0.003", [0.01, 0.1]),
    ]
    assert "figure-sensitivity" not in write_report(tmp_path / "pairs").read_text()


def test_labels_cannot_become_markup(tmp_path: Path) -> None:
    label = "</script><script>alert('\"&')</script>"
    text = write_report(synthetic.write_study(tmp_path, [label], seeds=1, tasks=2)).read_text()
    assert "alert('" in html.unescape(text)
    assert label not in text
    assert "<script>alert" not in text
    baseline = write_report(synthetic.write_study(tmp_path / "plain", ["Adam"], seeds=1, tasks=2)).read_text()
    assert len(Elements(text).find("script")) == len(Elements(baseline).find("script"))


def test_a_single_run_gets_a_page_and_its_command_makes_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {"name": "adamo", "isometry": 0.03, "betas": (0.8, 0.99)}
    run = Run.from_mapping({"tasks": 2, "samples": 100, "lr": 1e-4, "seed": 3, "method": method})
    synthetic.write_run(tmp_path, run, synthetic.staying, threads=2)
    target = write_report(tmp_path / run.id, tmp_path / "pages" / "one.html")
    assert target == tmp_path / "pages" / "one.html"
    (command,) = re.findall(r"<pre[^>]*>(isoplast run [^<]+)</pre>", target.read_text())
    asked: list[tuple[Run, int]] = []

    def execute(chosen: Run, *rest: Any, threads: int, **more: Any) -> None:
        asked.append((chosen, threads))
        raise KeyboardInterrupt

    monkeypatch.setattr(_studies, "execute", execute)
    with pytest.raises(KeyboardInterrupt):
        _commands.run_command(shlex.split(html.unescape(command))[1:])
    assert asked == [(run, 2)]


def test_the_command_of_a_study_names_its_threads(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=1)
    status = next(study.glob("*/status.json"))
    status.write_text(status.read_text().replace('"threads": 1', '"threads": 2'))
    assert "isoplast study made-up.yaml --threads 2" in write_report(study).read_text()


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=1)
    for name in ("index.json", "status.json", "spec.yaml"):
        file = next(study.rglob(name))
        whole = file.read_bytes()
        file.write_bytes(b"[")
        with pytest.raises(IsoplastError, match=rf"{name} is damaged\b.*: delete \S+"):
            write_report(study)
        file.write_bytes(whole)


def test_one_seed_one_task_and_no_instruments(tmp_path: Path) -> None:
    run = synthetic.specification("Adam", 0, tasks=1)
    synthetic.write_run(tmp_path, run, synthetic.staying)
    metrics = tmp_path / run.id / "metrics.jsonl"
    kept = ("task", "method_active", "steps", "primary", "accuracy", "chance")
    bare = [{key: row[key] for key in kept} for row in read_rows(metrics)]
    metrics.unlink()
    RunDirectory(metrics.parent).append(bare)
    words = Elements(write_report(tmp_path).read_text()).words
    assert "Adam reaches 0.88 on its one task (1 task, one seed, exploratory; chance is 0.10)." in words
    assert "Singular values" not in words
    assert "Can it still learn?" not in words


def test_the_page_says_how_often_the_instruments_looked(tmp_path: Path, page: str) -> None:
    synthetic.write_study(tmp_path, ["Adam", "AdamO"], seeds=2, tasks=250)
    scores = {"task", "method_active", "steps", "seconds", "primary", "accuracy", "chance", "loss"}
    for metrics in tmp_path.glob("*/metrics.jsonl"):
        rows = read_rows(metrics)
        metrics.unlink()
        RunDirectory(metrics.parent).append(
            {key: value for key, value in row.items() if key in scores or row["task"] % 4 == 3}
            for row in rows
        )
    seldom = write_report(tmp_path).read_text()
    assert seldom.count("Measured after 62 of 250 tasks only.") == 3
    assert "Measured after" not in page
    (figure,) = re.findall(r'id="figure-plasticity_learned">(.*?)</script>', seldom, re.DOTALL)
    lines = [trace for trace in json.loads(figure)["data"] if "name" in trace]
    assert len(lines) == 2
    assert all(len(base64.b64decode(line["y"]["bdata"])) == 4 * 63 for line in lines)


def test_the_page_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=1)
    target = write_report(study)
    before = sorted(path.name for path in study.iterdir())
    target.write_text("old")
    write_report(study)
    assert target.read_text() != "old"
    assert sorted(path.name for path in study.iterdir()) == before


def test_a_name_that_ends_in_svg_gets_the_main_figure(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path, ["Adam", "AdamO"], seeds=2, tasks=3)
    figure = write_report(study, tmp_path / "figure.svg").read_text()
    assert figure.startswith("<svg")
    assert "Accuracy after each task" in figure
    for strength in (1e-3, 1e-2):
        synthetic.write_run(
            tmp_path / "sweep",
            synthetic.specification("AdamO", 0, method={"name": "adamo", "isometry": strength}),
            synthetic.staying,
        )
    assert "isometry strength" in write_report(tmp_path / "sweep", tmp_path / "sweep.svg").read_text()


@pytest.mark.parametrize("make", ["nothing", "empty", "waiting"])
def test_without_results_there_is_one_clear_line(tmp_path: Path, make: str) -> None:
    study = tmp_path / "study"
    if make == "empty":
        study.mkdir()
    if make == "waiting":
        run = synthetic.specification("Adam", 0)
        synthetic.write_run(study, run, synthetic.staying, state="waiting", done=0)
    with pytest.raises(IsoplastError) as caught:
        write_report(study)
    assert "\n" not in str(caught.value)
    assert not (study / "report.html").exists()


def test_the_scope_has_no_part_without_words(tmp_path: Path) -> None:
    source = read_source(synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=2))
    for record in source.records.values():
        record.spec["data"] = ""  # environments have none
    assert source.scope == "random-labels · mlp · 2 tasks · 1 run"
