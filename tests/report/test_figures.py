"""The figures hold the numbers of the frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic

from isoplast.report.data._method_runs import MethodRuns, method_runs
from isoplast.report.figures import _plotly as figures
from isoplast.study import load_study


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[MethodRuns]:
    return method_runs(load_study(synthetic.write_study(tmp_path_factory.mktemp("study"))))


def lines(figure: object, view: str = figures.ALL) -> list[object]:
    return [trace for trace in figure.data if trace.mode == "lines+markers" and trace.meta["view"] == view]  # type: ignore[attr-defined]


def test_accuracy_has_a_line_and_a_band_per_method_in_its_own_look(
    found: list[MethodRuns],
) -> None:
    figure = figures.score_figure(found)
    drawn = lines(figure)
    assert [trace.name for trace in drawn] == list(synthetic.METHODS)
    assert (drawn[0].x0, drawn[0].dx) == (1, 1)
    assert drawn[0].y[:3] == pytest.approx((0.915, 0.835, 0.755))
    assert len({(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in drawn}) == 4
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(bands) == 4
    assert bands[0].y[0] == pytest.approx(
        0.92
    )  # the best seed on the first task, and the worst at the end of
    assert bands[0].y[-1] == pytest.approx(0.91)  # the way back


def test_chance_and_the_change_of_method_are_marked(found: list[MethodRuns]) -> None:
    figure = figures.score_figure(found)
    assert {note.text for note in figure.layout.annotations} == {"chance 0.1", "Adam → AdamO"}
    assert sorted(shape.y0 for shape in figure.layout.shapes if shape.y0 == shape.y1) == [0.1]
    assert [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1] == [12.5]


def test_singular_values_are_the_extremes_over_matrices_and_each_matrix_by_name(
    found: list[MethodRuns],
) -> None:
    largest = figures.singular_value_figure(found, "sigma_max")
    smallest = figures.singular_value_figure(found, "sigma_min")
    adam = found[0]
    extremes = adam.per_layer["sigma_max"][:, -1].max(1), adam.per_layer["sigma_min"][:, -1].min(1)
    for figure, values in zip((largest, smallest), extremes, strict=True):  # on a log axis
        assert lines(figure)[0].y[-1] == pytest.approx(np.exp(np.log(values).mean()), rel=1e-3)
    assert figures.views(found, "sigma_max") == synthetic.LAYERS
    for layer in synthetic.LAYERS:
        assert len(lines(largest, layer)) == 4
    assert lines(smallest, "head")[0].y[0] == pytest.approx(1e-3)
    assert all(trace.visible == (trace.meta["view"] == figures.ALL) for trace in largest.data)


def test_log_axes_are_labelled_in_plain_numbers(found: list[MethodRuns]) -> None:
    axis = figures.singular_value_figure(found, "sigma_min").layout.yaxis
    low, high = axis.range
    inside = [
        words for at, words in zip(axis.tickvals, axis.ticktext, strict=True) if low <= np.log10(at) <= high
    ]
    assert 3 <= len(inside) <= 9
    assert "1" in inside


def test_singular_values_of_zero_stay_on_the_axis(tmp_path: Path) -> None:
    (result,) = method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=2)))
    result.per_layer["sigma_min"][:] = 0.0
    drawn = lines(figures.singular_value_figure([result], "sigma_min"))[0].y
    assert drawn == pytest.approx([1e-10] * 3, rel=1e-6)  # float32


def test_dead_units_are_the_mean_over_layers(found: list[MethodRuns]) -> None:
    figure = figures.unit_figure(found, "dead")
    expected = found[0].per_layer["dead"][:, -1].mean()
    assert lines(figure)[0].y[-1] == pytest.approx(expected, rel=1e-3)
    assert figures.last_values(found, "dead").startswith(
        f"After the last task, Adam: {expected:.3g}; AdamW: "
    )


def test_the_probe_is_drawn_on_a_linear_axis_with_room_below_zero(found: list[MethodRuns]) -> None:
    figure = figures.probe_figure(found, "plasticity_learned")
    expected = found[0].probes["plasticity_learned"].mean(0)
    assert expected.min() < 0 < expected.max()
    assert lines(figure)[0].y == pytest.approx(tuple(expected), abs=1e-4)
    assert lines(figure)[0].x0 == 0  # the untrained network
    assert figure.layout.yaxis.type != "log"
    assert figure.layout.yaxis.range[0] < expected.min()
    assert figure.layout.yaxis.range[1] > max(result.probes["plasticity_learned"].max() for result in found)


def test_infinite_condition_numbers_are_drawn_above_all_finite_ones(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path, ["Adam", "AdamO"], seeds=1, tasks=12)))
    values = found[0].probes["ntk_condition_number"][0]
    assert np.isinf(values[-1])
    assert np.isfinite(values[:5]).all()
    figure = figures.probe_figure(found, "ntk_condition_number")
    finite = max(
        result.probes["ntk_condition_number"][np.isfinite(result.probes["ntk_condition_number"])].max()
        for result in found
    )
    drawn = lines(figure)[0].y
    assert len(drawn) == 13  # none is left out
    assert drawn[-1] >= 10 * finite
    assert drawn[:5] == pytest.approx(values[:5], rel=1e-3)
    (note,) = [note for note in figure.layout.annotations if note.text == "infinite"]
    assert 10**note.y == pytest.approx(drawn[-1])
    assert figure.layout.yaxis.range[1] > note.y


def test_where_every_condition_number_is_infinite_or_none_is_there_is_a_figure(tmp_path: Path) -> None:
    (result,) = method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=2)))
    assert "infinite" not in {
        note.text for note in figures.probe_figure([result], "jacobian_condition_number").layout.annotations
    }
    result.probes["ntk_condition_number"][:] = np.inf
    figure = figures.probe_figure([result], "ntk_condition_number")
    assert len(set(lines(figure)[0].y)) == 1
    assert figures.last_values([result], "ntk_condition_number") == "After the last task, Adam: infinite."


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=1)))
    assert [trace.mode for trace in figures.score_figure(found).data] == ["lines+markers"]


def test_labels_are_text_not_markup(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path, ["<b>&</b>"], seeds=1, tasks=1)))
    assert figures.score_figure(found).data[0].name == "&lt;b&gt;&amp;&lt;/b&gt;"


def test_of_many_tasks_an_instrument_draws_some_and_says_so(tmp_path: Path) -> None:
    found = method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], seeds=2, tasks=301)))
    figure = figures.singular_value_figure(found, "sigma_max")
    (drawn,) = lines(figure)
    values = np.exp(np.log(found[0].per_layer["sigma_max"].max(axis=2)).mean(axis=0))
    places = [*range(0, 302, 4), 301]
    assert drawn.x.tolist() == places  # type: ignore[attr-defined]
    assert drawn.y == pytest.approx(values[places], rel=1e-6)  # type: ignore[attr-defined]
    assert figure.layout.xaxis.title.text == "tasks trained on (0: untrained; one in 4 is drawn)"
    (score,) = lines(figures.score_figure(found))
    assert (score.x0, score.dx, len(score.y)) == (1, 1, 301)  # type: ignore[attr-defined]


def test_a_number_beyond_float32_is_drawn_at_its_end(tmp_path: Path) -> None:
    (result,) = method_runs(load_study(synthetic.write_study(tmp_path, ["Adam"], seeds=1, tasks=2)))
    result.probes["ntk_condition_number"][:] = 1e300
    drawn = lines(figures.probe_figure([result], "ntk_condition_number"))[0].y
    assert drawn == pytest.approx([np.finfo(np.float32).max] * 3)
