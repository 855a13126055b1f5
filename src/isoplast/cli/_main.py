"""The command line: `isoplast demo | run | study | report | methods | inspect | repair | lens`."""

from __future__ import annotations

import os
import sys

from isoplast import __version__
from isoplast._core.errors import IsoplastError
from isoplast._core.text import one_line

_EXTRAS = ("tyro", "rich", "polars", "plotly", "sklearn", "yaml", "PIL")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; None takes them from the process.

    Returns:
        The exit status: 0; 1 if something failed on the way; 2 for wrong input; 130 after Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(f"isoplast {__version__}")
        return 0
    try:
        from isoplast.cli._commands import run_command

        return run_command(words)
    except IsoplastError as error:
        return _complain(str(error), 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        return _complain(f'{package} is not installed: pip install "isoplast[bench]"', 2)
    except BrokenPipeError:  # whoever was reading has seen enough, as in `isoplast methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that leaving flushes to nobody
        return 141
    except OSError as error:
        return _complain(f"{error.strerror or error}: {error.filename or 'writing the results'}", 1)
    except KeyboardInterrupt:
        return _complain("interrupted: finished tasks are complete; the same command goes on", 130)


def _complain(message: str, status: int) -> int:
    print(f"isoplast: {one_line(message)}", file=sys.stderr)
    return status
