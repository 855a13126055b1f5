"""The command line: `isoplast COMMAND`; `isoplast --help` lists them all."""

from isoplast.cli._main import main

__all__ = ["main"]
