"""The commands of the command line, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import tyro

from isoplast.cli import _inspect, _methods, _studies

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
        "tune": _studies.tune,
        "report": _studies.report,
        "methods": list_methods,
        "inspect": _inspect.inspect,
        "repair": _inspect.repair,
        "spectra": _studies.spectra,
    }
    given = list(words)
    if given[:1] == ["lens"]:
        given[0] = "spectra"  # its name before 0.1; goes with 0.2
    status: int = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="isoplast",
        description="isoplast keeps neural networks able to learn (arXiv:2606.09762).\n"
        "`isoplast --version` prints the version.",
        args=given,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return status
