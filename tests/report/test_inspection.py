"""The page of `isoplast inspect`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
import torch
from torch import nn

from isoplast.diagnostics import Inspection, inspect
from isoplast.diagnostics.health._inspection import Moment
from isoplast.report.figures import _inspection as figures
from isoplast.report.pages._inspection import inspection_page

BINARY = browser.find()


@torch.no_grad()
def critical(inputs: bool = True) -> Inspection:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    model[2].bias.fill_(-100.0)
    model[0].weight.mul_(20)
    return inspect(model, torch.randn(300, 8) if inputs else None)


def moments() -> list[Moment]:
    return [
        Moment(f"step {i}", {"0": 1.0 + i, "<2>": 2.0}, {"0": 0.1, "<2>": 0.0}, {"1": i / 4})
        for i in range(4)
    ]


class _Tags(HTMLParser):
    """Open elements, to see that all of them are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.places += [str(value) for key, value in attrs if key == "data-figure"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def figures_of(page: str) -> dict[str, dict]:
    found = re.findall(r'<script type="application/json" id="figure-(\w+)">(.*?)</script>', page)
    return {name: json.loads(text.replace("\\u003c", "<")) for name, text in found}


def test_the_page_says_what_was_found_and_draws_it() -> None:
    page = inspection_page("a<b>.pt", ["torch file <x>"], critical(), moments())
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    drawn = figures_of(page)
    assert list(drawn) == ["layers", "spectrum", "units", "history", "dead"]
    assert sorted(tags.places) == sorted(f"figure-{name}" for name in drawn)
    assert "<h1>Critical: network: the outputs are the same for all 300 inputs; 3: the features" in page
    assert "looks at networks that went on learning" in page
    assert "a&lt;b&gt;.pt" in page
    assert "torch file &lt;x&gt;" in page
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page[: page.index("<script type")])


def test_what_nobody_measured_is_left_out() -> None:
    page = inspection_page("x.pt", [], critical(inputs=False))
    assert list(figures_of(page)) == ["layers", "spectrum"]
    assert "Dead units show on inputs only: none were given." in page
    silent = [Moment(one.name, one.largest, one.smallest, {}) for one in moments()]
    assert list(figures_of(inspection_page("x.pt", [], critical(inputs=False), silent)))[-1] == "history"


def test_a_healthy_network_says_so() -> None:
    torch.manual_seed(0)
    found = inspect(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    assert "<h1>Healthy: nothing found" in inspection_page("x.pt", [], found)


def test_figures_hold_the_numbers() -> None:
    found = critical()
    layers = figures.layers_figure(found.spectra)
    # four significant digits are drawn
    assert layers.data[0].y == pytest.approx([one.largest for one in found.spectra.values()], rel=1e-3)
    assert layers.data[2].y == pytest.approx([one.smallest for one in found.spectra.values()], rel=1e-3)
    spectrum = figures.spectrum_figure(found.spectra)
    assert [trace.visible for trace in spectrum.data] == [True, False, False]
    assert spectrum.data[1].meta == {"curve": figures.LARGEST, "view": "2"}
    assert spectrum.data[1].y == pytest.approx(found.spectra["2"].singular_values.tolist(), rel=1e-3)
    assert found.activity is not None
    assert figures.units_figure(found.activity).data[0].y == (0.0, 1.0)


def test_long_spectra_are_thinned_but_keep_their_ends() -> None:
    torch.manual_seed(0)
    found = inspect(nn.Sequential(nn.Linear(700, 600), nn.Linear(600, 10)))
    trace = figures.spectrum_figure(found.spectra).data[0]
    assert len(trace.x) == 160
    assert (trace.x[0], trace.x[-1]) == (1, 600)
    assert trace.y[-1] == pytest.approx(found.spectra["0"].smallest, rel=1e-3)


def test_history_shows_the_worst_layer_and_each() -> None:
    history = figures.history_figure(moments())
    of = {(trace.meta["curve"], trace.meta["view"]): trace.y for trace in history.data}
    assert of[figures.LARGEST, "all"] == (2.0, 2.0, 3.0, 4.0)
    assert of[figures.LARGEST, "0"] == (1.0, 2.0, 3.0, 4.0)
    assert of[figures.SMALLEST, "all"] == (1e-10,) * 4  # zero has no place on a log axis
    assert figures.dead_figure(moments()).data[0].y == (0.0, 0.25, 0.5, 0.75)


@torch.no_grad()
def test_non_finite_weights_leave_gaps_not_numbers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    model[0].weight[0, 0] = math.nan
    found = inspect(model)
    assert figures.layers_figure(found.spectra).data[0].y[0] is None
    page = inspection_page("x.pt", [], found)
    assert "Critical: 0: the weight holds non-finite values" in page
    assert "NaN" not in "".join(map(json.dumps, figures_of(page).values()))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    if BINARY is None:
        pytest.skip("no chromium on this machine")
    with browser.launched(BINARY, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (375, False)])
def test_in_a_browser(opened: browser.Page, tmp_path: Path, width: int, dark: bool) -> None:
    file = tmp_path / "x.html"
    file.write_text(inspection_page("x.pt", ["a torch file"], critical(), moments()), encoding="utf-8")
    opened.show(file, width=width, dark=dark, phone=width < 500)
    assert opened.complaints() == []
    assert opened.requests() == [file.resolve().as_uri()]
    assert opened.evaluate("document.querySelectorAll('.plot .scatterlayer').length") == 5
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    pick = "document.querySelectorAll('select')[0]"
    opened.evaluate(f"{pick}.value = '2'; {pick}.dispatchEvent(new Event('change'))")
    lines = """document.querySelector('[data-figure="figure-spectrum"]').data.filter((t) => t.visible)"""
    opened.wait(f"{lines}.length === 1 && {lines}[0].meta.view === '2'")
