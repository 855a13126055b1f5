"""Figures and tables for papers: what a name asks for is what is written."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from matplotlib.backends.backend_agg import FigureCanvasAgg

from isoplast._core.errors import IsoplastError
from isoplast.cli import main
from isoplast.report import MethodRuns, instruments_chart, method_runs, write_figures, write_report
from isoplast.report.figures._paper import paper_figures, written
from isoplast.report.pages._tables import escape
from isoplast.study import Study, load_study

BEGINS = {"svg": b"<svg", "pdf": b"%PDF-", "png": b"\x89PNG\r\n", "csv": b"method,seeds,", "tex": b"% needs"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_study(tmp_path_factory.mktemp("made-up"))


@pytest.mark.parametrize("kind", BEGINS)
def test_a_report_is_what_its_name_says(study: Path, tmp_path: Path, kind: str) -> None:
    target = write_report(study, tmp_path / "deep" / f"out.{kind}")
    contents = target.read_bytes()
    assert contents.lstrip()[: len(BEGINS[kind])] == BEGINS[kind]
    assert write_report(study, tmp_path / f"OUT.{kind.upper()}").read_bytes() == contents


@pytest.mark.parametrize("name", ["out", "out.jpg", "out.xlsx", "out.svg.gz", ".pdf"])
def test_any_other_name_is_refused_before_anything_is_written(study: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(IsoplastError, match=r"written as \.html, .*\.tex, not as"):
        write_report(study, tmp_path / "new" / name)
    assert not (tmp_path / "new").exists()


def test_the_ranked_table_has_the_best_first_and_compares_by_seed(study: Path, tmp_path: Path) -> None:
    with write_report(study, tmp_path / "methods.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["method"] == "AdamO"
    means = [float(row["score"]) for row in rows]
    assert means == sorted(means, reverse=True)
    found = {row["method"]: row for row in rows}
    # AdamW is .01 below Adam in every task and seed, so that its gain has no spread at all
    assert float(found["AdamW"]["gain"]) == pytest.approx(-0.01, abs=1e-3)
    assert found["Adam"]["gain"] == ""
    tex = write_report(study, tmp_path / "methods.tex").read_text()
    table, _, notes = tex.partition(r"\bottomrule")
    assert "handwritten digits (scikit-learn)." in notes
    assert rows[0]["data"] == "handwritten digits (scikit-learn)"
    assert {float(row["seconds"]) for row in rows} == {21.5}  # of a run
    page = write_report(study, tmp_path / "page.html").read_text(encoding="utf-8")
    ahead = float(rows[0]["score"]) - float(rows[1]["score"])
    assert f"{rows[0]['method']} is ahead of {rows[1]['method']} by {ahead:.4g} [" in page
    assert "fewer than 10 seeds" in notes
    lines = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert [line.partition(" & ")[0] for line in lines] == ["Method", *(row["method"] for row in rows)]
    assert len({line.count("&") for line in lines}) == 1
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 1


def test_methods_are_compared_on_their_own_problem(tmp_path: Path) -> None:
    """Eight tasks are another problem than sixteen: a score of the one says nothing of the other."""
    for tasks in (8, 16):
        for label, curve in (("Adam", synthetic.collapsing), ("AdamO", synthetic.staying)):
            for seed in (0, 1):
                run = synthetic.specification(label, seed, tasks)
                synthetic.write_run(tmp_path, run, curve)
    with write_report(tmp_path, tmp_path / "methods.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["problem"] for row in rows] == ["random-labels, digits, tasks 8"] * 2 + [
        "random-labels, digits, tasks 16"
    ] * 2
    assert [row["method"].partition(",")[0] for row in rows] == ["AdamO", "Adam"] * 2
    assert [row["gain"] == "" for row in rows] == [False, True] * 2  # Adam is what AdamO is compared with
    tex = write_report(tmp_path, tmp_path / "methods.tex").read_text()
    assert tex.count(r"\begin{tabular}") == 2
    page = write_report(tmp_path).read_text()
    assert page.count("paired by seed, p after Holm") == 2


@pytest.mark.parametrize(
    "first", [{"state": "failed", "done": 0}, {"state": "waiting", "done": 0}, {"state": "done"}]
)
def test_the_others_are_compared_with_the_first_method_whatever_became_of_its_first_run(
    tmp_path: Path, first: dict[str, Any]
) -> None:
    methods = ("Adam", "AdamW", "AdamO")
    runs = [synthetic.specification(label, seed, 4) for seed in (0, 1) for label in methods]
    for run in runs:
        state = first if run == runs[0] else {}
        synthetic.write_run(tmp_path, run, synthetic.METHODS[run.label][1], **state)
    Study("made-up", runs, "", "name: made-up\n").describe(tmp_path)
    if first != {"state": "done"}:
        (tmp_path / runs[0].id / "metrics.jsonl").write_bytes(b"")
    with write_report(tmp_path, tmp_path / "methods.csv").open(newline="") as file:
        gains = {row["method"]: row["gain"] for row in csv.DictReader(file)}
    assert [name for name, gain in gains.items() if not gain] == ["Adam"]


def test_latex_prints_what_a_label_says() -> None:
    assert escape("a_b & 50% #1 {x} $y$") == r"a\_b \& 50\% \#1 \{x\} \$y\$"
    assert escape("λ~^\\") == r"$\lambda$\textasciitilde{}\textasciicircum{}\textbackslash{}"


@pytest.mark.parametrize("label", ["[fast] a", "*a", "a\nb", "a\n\nb", "[", "*"])
def test_a_label_stays_in_its_cell_of_the_latex_table(tmp_path: Path, label: str) -> None:
    for lr, name in enumerate((label, "Adam"), 1):
        run = synthetic.specification(name, 0, 2, lr=lr / 1000)
        synthetic.write_run(tmp_path, run, synthetic.staying, state="failed", done=1)
    tex = write_report(tmp_path, tmp_path / "methods.tex").read_text(encoding="utf-8")
    rows, _, notes = tex.partition(r"\bottomrule")
    assert [line for line in rows.splitlines() if line.startswith(("[", "*"))] == []
    assert len([line for line in rows.splitlines() if line.endswith(r"\\")]) == 3
    end = [line for line in notes.splitlines()[1:] if not line.startswith(r"\multicolumn{7}{l}{")]
    assert end == [r"\end{tabular}"]


def _named(parent: Path, labels: list[str]) -> list[MethodRuns]:
    """The results of a small study under each of these labels."""
    (one,) = method_runs(load_study(synthetic.write_study(parent, ["a"], seeds=1, tasks=2)))
    few = {name: one.per_layer[name] for name in ("sigma_max", "sigma_min")}
    return [replace(one, label=label, per_layer=few, probes={}) for label in labels]


def _legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _inside(figure: Any) -> bool:
    """Whether the legend lies within the figure, and the axes kept their height."""
    FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    whole = figure.bbox
    tall = min(axes.get_window_extent().height for axes in figure.axes) / figure.dpi
    return bool(whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and tall > 1)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (3, 300), (6, 25), (30, 30), (30, 120)])
def test_a_legend_of_any_labels_lies_within_the_figure(tmp_path: Path, count: int, size: int) -> None:
    labels = [f"{index} {'long words ' * size}"[:size].strip() + f" {index}" for index in range(count)]
    for name, figure in paper_figures(_named(tmp_path, labels)):
        if name in ("score", "instruments"):
            assert [text.replace("\n", " ") for text in _legend(figure)] == labels
            assert _inside(figure)


def test_labels_are_drawn_as_written_and_every_curve_is_named(tmp_path: Path) -> None:
    labels = [r"bad $\frac$ x", "cost $5 and $6", "_hidden", "_child0", r"a \$ b", "$", "x^2_y"]
    for _, figure in paper_figures(_named(tmp_path, labels)):
        assert _legend(figure) == labels
        assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())
        written(figure, "png")


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_ticks_stand_at_whole_tasks(tmp_path: Path, tasks: int) -> None:
    study = synthetic.write_study(tmp_path, ["a"], seeds=1, tasks=tasks)
    for name, figure in paper_figures(method_runs(load_study(study))):
        if name != "profile":
            for axes in figure.axes:
                assert [tick for tick in axes.get_xticks() if tick % 1] == []


def test_a_profile_counts_failed_runs_as_chance_and_says_what_is_not_finished(tmp_path: Path) -> None:
    study = synthetic.write_study(tmp_path, ["a"], seeds=4, tasks=4)
    (one,) = method_runs(load_study(study))
    score = np.full_like(one.score, 0.5)
    score[1, -2:] = 0.1  # failed, and filled in
    score[2, -1] = np.nan  # goes on
    figure = dict(paper_figures([replace(one, score=score)]))["profile"]
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    assert line.get_ydata()[0] == pytest.approx(10 / 12)  # above chance
    assert figure.get_suptitle() == "exploratory: 4 seeds, without 1 run that is not finished"
    (axes,) = dict(paper_figures([one]))["profile"].axes
    assert axes.get_title() == ""


def test_all_figures_lie_in_the_folder_and_are_the_same_bytes_again(study: Path, tmp_path: Path) -> None:
    first = write_figures(study, tmp_path / "one")
    again = write_figures(study, tmp_path / "two")
    names = [path.name for path in first]
    assert {"score.svg", "score.pdf", "profile.pdf", "sigma_max.svg", "dead.pdf", "methods.tex"} <= set(names)
    assert "sensitivity.svg" not in names  # one strength only
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(names)
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    with (tmp_path / "one" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(load_study(study))
    assert rows[0]["sigma_max/layers.0"]


def test_the_curves_go_through_the_means(study: Path) -> None:
    results = method_runs(load_study(study))
    figures = dict(paper_figures(results))
    (axes,) = figures["score"].axes
    curves = {str(line.get_label()): line for line in axes.get_lines()}
    for one in results:
        x, y = curves[one.label].get_data()
        assert list(x) == list(one.tasks[one.trained] + 1)
        assert list(y) == pytest.approx(one.score[:, one.trained].mean(axis=0))
    (axes,) = figures["sigma_max"].axes
    curves = {str(line.get_label()): line for line in axes.get_lines()}
    largest = np.exp(np.log(results[0].per_layer["sigma_max"].max(axis=2)).mean(axis=0))  # on a log axis
    assert list(curves[results[0].label].get_ydata()) == pytest.approx(largest)


def test_all_instruments_in_one_figure_show_what_each_alone_shows(study: Path) -> None:
    figures = dict(paper_figures(method_runs(load_study(study))))
    panels = {str(axes.get_gid()): axes for axes in figures["instruments"].axes}
    assert set(panels) == set(figures) - {"score", "profile", "instruments"}
    for name, panel in panels.items():
        (alone,) = figures[name].axes
        assert panel.get_yscale() == alone.get_yscale()
        for line, other in zip(panel.get_lines(), alone.get_lines(), strict=True):
            assert str(line.get_label()) == str(other.get_label())
            assert line.get_xydata().tolist() == other.get_xydata().tolist()


def test_no_instruments_no_figure_of_them(tmp_path: Path) -> None:
    synthetic.write_run(tmp_path, synthetic.specification("Adam", 0, 2), synthetic.staying)
    frame = load_study(tmp_path)
    bare = frame.select("run_id", "label", "seed", "task", "method_active", "score", "primary")
    results = method_runs(bare)
    assert [name for name, _ in paper_figures(results)] == ["score", "profile"]
    with pytest.raises(IsoplastError, match="no instrument was read"):
        instruments_chart(results)


def test_infinite_values_are_drawn_and_named(study: Path) -> None:
    figures = dict(paper_figures(method_runs(load_study(study))))
    (axes,) = figures["ntk_condition_number"].axes
    assert [text.get_text() for text in axes.texts] == ["infinite"]
    top = axes.texts[0].xy[1]
    heights = [max(line.get_ydata()) for line in axes.get_lines() if len(line.get_ydata()) > 2]
    assert max(heights) == pytest.approx(top)


def test_a_swept_strength_gives_a_figure_of_sensitivity(tmp_path: Path) -> None:
    for strength in (1e-3, 1e-2, 1e-1):
        method = {"name": "adamo", "isometry": strength}
        run = synthetic.specification(f"AdamO {strength}", 0, 4, method=method)
        synthetic.write_run(tmp_path, run, synthetic.staying)
    figures = dict(paper_figures(method_runs(load_study(tmp_path))))
    (axes,) = figures["sensitivity"].axes
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == [1e-3, 1e-2, 1e-1]


def test_the_command_line_writes_a_folder_or_a_file(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(study), "--figures", str(tmp_path / "figures")]) == 0
    said = capsys.readouterr().out.split()
    assert said
    assert all(Path(line).is_file() for line in said)
    assert main(["report", str(study), "--out", str(tmp_path / "x.doc")]) == 2
    assert re.search(r"choose one$", capsys.readouterr().err.strip())
    assert main(["report", str(study), "--out", str(tmp_path / "x.csv"), "--figures", str(tmp_path)]) == 2
    (tmp_path / "README").write_text("")
    assert main(["report", str(study), "--figures", str(tmp_path / "README")]) == 2
    assert "is a file" in capsys.readouterr().err
    for name in ("figures.svg", "figures.PDF", "figures.jpg"):
        assert main(["report", str(study), "--figures", str(tmp_path / name)]) == 2
        assert "or one file by --out" in capsys.readouterr().err
        assert not (tmp_path / name).exists()
