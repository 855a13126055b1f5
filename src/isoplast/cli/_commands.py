"""The commands of the command line, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tyro

from isoplast.cli import _inspect, _methods, _studies


def run_command(words: Sequence[str]) -> int:
    """Parse the words of a command line and do what they say; returns the exit status."""
    commands: dict[str, Callable[..., int]] = {
        "demo": _studies.demo,
        "run": _studies.run,
        "study": _studies.study,
        "report": _studies.report,
        "methods": _methods.list_methods,
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
