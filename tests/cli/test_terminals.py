"""Terminals and files of every kind: few letters, odd names, signals."""

from __future__ import annotations

import io
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from isoplast.cli import main
from isoplast.cli.studies._display import display
from isoplast.cli.studies._running import terminable
from isoplast.study import Outcome, Run, RunDirectory

TINY = ["data.samples=40", "stream.tasks=1", "learner.epochs=1", "net.width=4", "net.depth=1"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("words", [["methods"], ["methods", "redo", "adamo"], ["nothing λ"]])
def test_a_terminal_of_few_letters(monkeypatch: pytest.MonkeyPatch, encoding: str, words: list[str]) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert main(words) == (2 if words == ["nothing λ"] else 0)


@pytest.mark.parametrize("name", ["-x", "--help", "a b", "ümlaut", "[red]"])
def test_a_directory_may_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *TINY, "--out", f"./{name}"]) == 0
    assert list((tmp_path / name).glob("*/metrics.jsonl"))
    assert main(["report", f"./{name}", "--out", f"./{name}.svg"]) == 0
    assert (tmp_path / f"{name}.svg").stat().st_size > 1000
    assert f"{name}.svg" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_take_a_directory_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("-s.yaml").write_text(
        "{name: one, run: {samples: 40, tasks: 1, epochs: 1, net: {name: mlp, width: 4}}}"
    )
    assert main(["study", "./-s.yaml", "--out", "./-x"]) == 0
    assert (tmp_path / "-x" / "report.html").exists()


def test_the_signal_that_ends_processes_is_an_interruption() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminated() -> None:
        with terminable():
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        terminated()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_display_shows_the_cursor_again() -> None:
    text, run = io.StringIO(), Run()
    console = Console(file=text, force_terminal=True, width=80)

    def interrupted() -> None:
        with display(console, 1) as shown:
            shown.started(run)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    said = text.getvalue()
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l") >= 0


@pytest.mark.parametrize("terminal", [False, True])
def test_a_label_and_a_reason_say_nothing_to_a_terminal(tmp_path: Path, terminal: bool) -> None:
    text, run = io.StringIO(), Run(label="a\x1b]0;owned\x07[red]\nb")
    console = Console(file=text, force_terminal=terminal, width=200, color_system=None)
    with display(console, 1) as shown:
        shown.started(run)
        shown.ended(Outcome(run, RunDirectory(tmp_path), "it \x1b]0;owned\x07"))
    said = text.getvalue()
    assert "\x1b]0" not in said
    assert "\x07" not in said
    assert r"failed: a\x1b]0;owned\x07[red]\nb, seed 0: it \x1b]0;owned\x07" in said
