"""Importing isoplast is quick: it brings neither the extras nor torch's compiler."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, sys, torch
before = set(sys.modules)
import isoplast, isoplast.nn, isoplast.diagnostics
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# The compiler alone costs seconds; the extras may not be there at all.
HEAVY = ("tyro", "rich", "polars", "plotly", "sklearn", "yaml", "PIL", "scipy", "torch._dynamo", "sympy")


def test_importing_the_library_brings_nothing_heavy() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    modules = json.loads(found.stdout)
    assert "isoplast.optim" in modules
    assert [m for m in modules if m.startswith(HEAVY)] == []
