"""The entry point: parses nothing itself, and turns what goes wrong into one line and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

from isoplast import __version__
from isoplast._core.errors import IsoplastError
from isoplast._core.text import one_line

_EXTRAS = ("tyro", "rich", "polars", "plotly", "sklearn", "yaml", "PIL", "jinja2", "filelock", "safetensors")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; None takes them from the process.

    Returns:
        The exit status: 0; 1 if a network is critical or runs failed; 2 for wrong input and everything that
        keeps a command from doing its work; 130 after Ctrl-C.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(f"isoplast {__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal of few letters gets \\u03bb for a Greek one
            stream.reconfigure(errors="backslashreplace")
    try:
        from isoplast.cli._commands import run_command

        status = run_command(words)
        _flush()
        return status
    except IsoplastError as error:
        return _complain(str(error), 2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            return _crash()
        return _complain(f'{package} is not installed: pip install "isoplast[bench]"', 2)
    except BrokenPipeError:  # whoever was reading has seen enough, as in `isoplast methods | head`
        _leave_quietly()
        return 141
    except OSError as error:
        return _complain(f"{error.strerror or error}: {error.filename or 'writing the output'}", 2)
    except KeyboardInterrupt:
        return _complain("interrupted: finished tasks are complete; the same command goes on", 130)
    except Exception:  # a fault of ours: status 1 would say that a network is critical
        return _crash()


def _flush() -> None:
    """Write out all that was printed: what a full disk refuses is told before the exit status is decided."""
    try:
        sys.stdout.flush()
    except OSError:
        _leave_quietly()
        raise


def _leave_quietly() -> None:
    """Send to nobody what is still to be printed, so that leaving does not fail on it again."""
    with contextlib.suppress(OSError, ValueError):  # a test's stream may have no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, status: int) -> int:
    print(one_line(f"isoplast: {message}"), file=sys.stderr)
    return status


def _crash() -> int:
    traceback.print_exc()
    return _complain("this is a fault of isoplast, not of the input: please report the lines above", 2)
