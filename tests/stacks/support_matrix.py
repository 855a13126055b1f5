"""The support matrix of the documentation: runs every claim and writes down which ones held.

python tests/stacks/support_matrix.py && python docs/generate.py stacks      # words choose some claims
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import torch
from every_claim import CLAIMS
from stack_claims import Claim, run

PASSED = Path(__file__).with_name("passed.json")
# The package whose version is named beside a stack; all others are torch's own.
PACKAGES = {
    "LoRA, PEFT": "peft",
    "Lightning": "lightning",
    "transformers Trainer": "transformers",
    "Accelerate": "accelerate",
    "Stable-Baselines3": "stable-baselines3",
    "timm": "timm",
    "JAX": "jax",
    "schedule-free": "schedulefree",
}
# No entry of its own in the table: a stack that is refused.
REFUSED = ("FSDP1", "DeepSpeed")


def measure(words: list[str]) -> dict[str, object]:
    """Runs the claims with one of these words in their names, or all: which held, and with which versions."""
    held: dict[str, bool] = {}
    if words:
        known = json.loads(PASSED.read_text(encoding="utf-8"))["claims"]
        held = {str(claim): known[str(claim)] for claim in CLAIMS if str(claim) in known}
    for claim in CLAIMS:
        if words and not any(word in str(claim) for word in words):
            continue
        if claim.lacks():
            raise SystemExit(f"{claim} cannot run here: {claim.lacks()}")
        outcome = run(claim)
        held[str(claim)] = outcome.held
        print(f"{'held' if outcome.held else 'FAILED'} {outcome.seconds:6.1f} s  {claim}", flush=True)
        if not outcome.held:
            print(outcome.log, flush=True)
    versions = {name: importlib.metadata.version(name) for name in sorted(PACKAGES.values())}
    return {"torch": torch.__version__.partition("+")[0], "versions": versions, "claims": held}


def table() -> str:
    """The matrix: a row for each stack, with what was shown for it."""
    found = json.loads(PASSED.read_text(encoding="utf-8"))
    rows: dict[str, list[Claim]] = {}
    for claim in CLAIMS:
        if found["claims"].get(str(claim)):
            rows.setdefault(claim.stack, []).append(claim)
    lines = [f"Measured with torch {found['torch']}.", "", "| stack | | shown by a test |", "|---|---|---|"]
    for stack, claims in rows.items():
        package = PACKAGES.get(stack)
        version = f" {found['versions'][package]}" if package else ""
        proofs = "; ".join(_proof(claim) for claim in claims)
        lines.append(f"| {stack}{version} | {'refused' if stack in REFUSED else 'yes'} | {proofs} |")
    return "\n".join(lines)


def _proof(claim: Claim) -> str:
    return claim.proves + (f" ({claim.processes} processes)" if claim.processes > 1 else "")


if __name__ == "__main__":
    PASSED.write_text(json.dumps(measure(sys.argv[1:]), indent=1) + "\n", encoding="utf-8")
