"""Every example of the docstrings and of docs/statistics.md gives what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from isoplast import statistics

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"
MODULES = [
    "isoplast.statistics",
    *(f"isoplast.statistics.{one.name}" for one in pkgutil.iter_modules(statistics.__path__)),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", [name for name in statistics.__all__ if callable(getattr(statistics, name))])
def test_every_public_name_says_what_it_is(name: str) -> None:
    text = getattr(statistics, name).__doc__ or ""
    sections = ("Args:", "Returns:", "Example:", "Reference:") if name[0].islower() else ("Args:",)
    assert [section for section in sections if section not in text] == []


def test_the_page() -> None:
    text = re.sub(r"^```.*$", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(found.examples) > 20
    assert doctest.DocTestRunner().run(found).failed == 0


def test_the_page_speaks_of_every_function() -> None:
    text = PAGE.read_text(encoding="utf-8")
    functions = [name for name in statistics.__all__ if name[0].islower() and name != "method_scores"]
    assert [name for name in functions if name not in text and name != "interquartile_mean"] == []
