"""The commands of the command line, by name."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from isoplast._core.errors import IsoplastError
from isoplast.cli.checkpoints import _inspect
from isoplast.cli.methods import _methods
from isoplast.cli.results import _ls, _rm, _show, _watch
from isoplast.cli.studies import _studies, _tune

_Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]


def list_methods(names: _Names = ()) -> int:
    """List the methods: reference, defaults and what they control.

    Args:
        names: Explain these alone, such as adamo or adamo+layernorm.
    """
    print("\n\n".join(map(_methods.details, names)) if names else _methods.listing())
    return 0


def run_command(words: Sequence[str]) -> int:
    """Parse the words of a command line and do what they say; returns the exit status."""
    commands: dict[str, Callable[..., int]] = {
        "demo": _studies.demo,
        "run": _studies.run,
        "study": _studies.study,
        "tune": _tune.tune,
        "report": _studies.report,
        "ls": _ls.ls,
        "show": _show.show,
        "rm": _rm.rm,
        "watch": _watch.watch,
        "methods": list_methods,
        "inspect": _inspect.inspect,
        "repair": _inspect.repair,
        "spectra": _studies.spectra,
    }
    given = list(words)
    if given[:1] == ["lens"]:
        given[0] = "spectra"  # its name before 0.1; goes with 0.2
    parsed: Callable[[], int] = _one_line_of_errors(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {name: _later(command) for name, command in commands.items()},
            prog="isoplast",
            description="isoplast keeps neural networks able to learn (arXiv:2606.09762).\n"
            "`isoplast --version` prints the version.",
            args=given,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    )
    return parsed()


def _later(command: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    """The command, to be called once the words are known to be right."""

    @functools.wraps(command)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], int]:
        return functools.partial(command, *args, **kwargs)

    return bound


def _one_line_of_errors(parse: Callable[[], Any]) -> Any:
    """What parsing gives; the box that tyro draws around an error becomes one line.

    The box quotes the words as they are, with whatever a terminal would obey.
    """
    said, shown = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            return parse()
    except SystemExit as left:
        if not left.code:  # after --help, whose first line names all commands, however many they are
            print(re.sub(r"\{demo,.*?\}", "COMMAND ...", shown.getvalue(), count=1), end="")
            raise
    text = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue())
    text = text.strip().partition("\n")[2]  # without the title, which the text repeats
    raise IsoplastError(
        " ".join(re.sub("[\u2500-\u257f]|-{3,}", " ", text).split()) or "these words are no command"
    )
