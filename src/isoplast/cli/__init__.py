"""The command line: `isoplast demo | run | study | report | methods | inspect | repair | spectra`."""

from isoplast.cli._main import main

__all__ = ["main"]
