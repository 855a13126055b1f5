"""The page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
import synthetic

from isoplast.report import write_report

BINARY = browser.find()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no chromium on this machine")

# The size of every piece of text that is displayed: HTML and SVG alike.
SMALLEST_FONT = """(() => {
  const sizes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() && parent.getClientRects().length) {
      sizes.push(parseFloat(getComputedStyle(parent).fontSize));
    }
  }
  return Math.min(...sizes);
})()"""


def lines_drawn(plot: str) -> str:
    """An expression: how many lines with markers a plot shows, bands left out."""
    traces = f"""[...document.querySelectorAll('[data-figure="{plot}"] .scatterlayer .trace')]"""
    return f"{traces}.filter((trace) => trace.querySelector('.point')).length"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = synthetic.write_study(tmp_path_factory.mktemp("study"))
    broken = synthetic.specification("AdamO", 2)
    synthetic.write_run(
        study, broken, synthetic.staying, "failed", "the loss is nan at task 7 " + "x" * 80, 7
    )
    return write_report(study)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    assert BINARY is not None
    with browser.launched(BINARY, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
def test_all_methods_are_drawn_in_every_figure_without_a_complaint(
    page: browser.Page, report: Path, dark: bool
) -> None:
    page.show(report, dark=dark)
    assert page.complaints() == []
    assert page.requests() == [report.resolve().as_uri()]
    for name in ("score", "sigma_max", "sigma_min", "dead", "dormant"):
        assert page.evaluate(lines_drawn(f"figure-{name}")) == len(synthetic.METHODS)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    paper = page.evaluate("document.querySelector('.plot .main-svg').style.background")
    assert background == ("rgb(13, 15, 18)" if dark else "rgb(245, 246, 248)")
    assert paper == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")


def test_the_theme_can_change_while_the_page_is_open(page: browser.Page, report: Path) -> None:
    page.show(report)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.wait("document.querySelector('.plot .main-svg').style.background === 'rgb(21, 24, 28)'")
    assert page.complaints() == []


def test_a_method_can_be_hidden_and_a_layer_picked(page: browser.Page, report: Path) -> None:
    page.show(report)
    page.evaluate("document.querySelector('button.curve').click()")
    for name in ("score", "sigma_min", "dormant"):
        page.wait(f"{lines_drawn(f'figure-{name}')} === {len(synthetic.METHODS) - 1}")
    assert page.evaluate("document.querySelectorAll('button.curve[aria-pressed=false]').length") == 5
    shown = """document.querySelector('[data-figure="figure-dead"]').data.find((t) => t.visible && t.name)"""
    last = f"{shown}.y.bdata"
    before = page.evaluate(last)
    page.evaluate(
        "(() => { const pick = document.querySelectorAll('select')[1]; pick.value = 'activations.0';"
        " pick.dispatchEvent(new Event('change')); })()"
    )
    page.wait(f"{last} !== {before!r}")
    assert page.complaints() == []


@pytest.mark.parametrize("width", [375, 768, 1040, 1280])
def test_it_is_readable_at_every_width(page: browser.Page, report: Path, width: int) -> None:
    page.show(report, width=width, phone=width == 375)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(SMALLEST_FONT) >= 12
    widest = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.main-svg')].map((s) => s.clientWidth))"
    )
    assert 0.8 * min(width, 1120) <= widest <= width
    assert page.complaints() == []


# How many of the cells that are displayed reach beyond their section, and the height of names in lines.
CUT_OFF = """[...document.querySelectorAll('.cards tbody :is(th, td)')].filter((cell) => {
  const [own, around] = [cell, cell.closest('section')].map((part) => part.getBoundingClientRect());
  return cell.getClientRects().length && (own.right > around.right + 1 || own.left < around.left - 1);
}).length"""
NAME_LINES = """Math.max(...[...document.querySelectorAll('.cards tbody th')].map(
  (cell) => cell.getClientRects()[0].height / parseFloat(getComputedStyle(cell).lineHeight)))"""


@pytest.mark.parametrize("width", [375, 600, 768, 900, 1041, 1280])
def test_tables_are_neither_cut_off_nor_squeezed(page: browser.Page, dozen: Path, width: int) -> None:
    page.show(dozen, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT_OFF) == 0
    assert page.evaluate(NAME_LINES) < 6.5
    heading = "(h => h.getClientRects()[0].height / parseFloat(getComputedStyle(h).lineHeight))"
    lines = page.evaluate(f"{heading}(document.querySelector('h1'))")
    assert lines < (6.5 if width == 375 else 3.5)


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve methods, some of them with long names."""
    folder = tmp_path_factory.mktemp("dozen")
    for index in range(12):
        name = f"AdamO + LayerNorm, isometry 0.0{index}, lr 0.003" if index % 3 else f"Adam {index}"
        settings = {"method": "adamo+layernorm"} if index % 3 else {"method": "adam"}
        run = synthetic.specification(name, 0, tasks=4, lr=1e-3 * (index + 1), **settings)
        synthetic.write_run(folder, run, synthetic.staying if index % 2 else synthetic.collapsing)
    return write_report(folder)


def test_of_many_methods_the_best_few_are_shown_and_one_button_shows_all(
    page: browser.Page, dozen: Path
) -> None:
    page.show(dozen)
    pressed = "document.querySelectorAll('#score-heading ~ .bar button.curve[aria-pressed=true]').length"
    page.wait(f"{lines_drawn('figure-score')} === 6")  # five, and the first that the study names
    assert page.evaluate(pressed) == 6
    page.evaluate("document.querySelector('button.all').click()")
    page.wait(f"{lines_drawn('figure-score')} === 12")
    assert page.evaluate(pressed) == 12
    page.evaluate("document.querySelector('button.all').click()")
    page.wait(f"{lines_drawn('figure-score')} === 6")
    assert page.evaluate(pressed) == 6
    assert page.complaints() == []


def test_without_scripts_a_still_picture_is_shown(page: browser.Page, report: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.call("Page.navigate", url=report.resolve().as_uri())
        page.wait("document.querySelector('noscript svg') !== null && document.readyState === 'complete'")
        assert page.evaluate("document.querySelector('noscript svg').clientWidth") > 300
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
