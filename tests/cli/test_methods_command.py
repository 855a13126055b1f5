"""`isoplast methods`: everything in the registry is listed, by family, and explained by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest

from isoplast import methods
from isoplast.cli import main
from isoplast.cli.methods._formulas import readable
from isoplast.cli.methods._methods import markdown_table
from isoplast.methods import Family

DOCS = Path(__file__).parents[2] / "docs" / "methods"


def test_every_method_is_listed_once_with_its_source_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert max(map(len, lines)) <= 80
    entries = [line.partition(":")[0] for line in lines if line and line[0].islower() and ": " in line]
    assert sorted(entries) == methods.names()
    for name in methods.names():
        kind = methods.get(name)
        assert f"{name}: {kind.info.title}" in said
        for field, _ in kind.settings():
            assert f"{field}=" in said
    assert said.startswith("ISOMETRY\n")
    assert "`isoplast run --method adamo+layernorm`" in " ".join(said.split())


def test_names_are_explained_with_their_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "redo", "adamo+layernorm"]) == 0
    said = capsys.readouterr().out
    assert "needs task boundaries" not in said
    assert said.count("costs ") == 2  # each part says its cost once, in the metadata
    assert said.count("Args:") == 3  # one for each part
    assert "arXiv:2302.12902" in said
    assert "\nadamo+layernorm: " in said


def test_an_unknown_name_is_one_line_that_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "admo"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("isoplast: unknown method 'admo': did you mean 'adamo'?")
    assert complaint.count("\n") == 1


def test_every_explanation_fits_a_terminal_but_for_formulas_and_loses_no_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in methods.names():
        assert main(["methods", name]) == 0
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= 80
        document = inspect.getdoc(type(methods.get(name))) or ""
        assert " ".join(said.split()).endswith(" ".join(readable(document).split()))
        settings = document.partition("Args:")[2]
        for field, _ in methods.get(name).settings():
            assert f"\n    {field}: " not in settings or f"\n    {field}: " in said, "on a line of its own"


@pytest.mark.parametrize("family", get_args(Family))
def test_the_tables_of_the_documentation_are_those_of_the_metadata(family: Family) -> None:
    """To renew one: print(isoplast.cli.methods._methods.markdown_table("resets"))."""
    table = markdown_table(family)
    page = DOCS / f"{family.replace(' ', '-')}.md"
    assert table in page.read_text(encoding="utf-8"), f"put this table into {page.name}:\n{table}"
