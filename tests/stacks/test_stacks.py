"""Every claim about a training stack, in real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from every_claim import CLAIMS
from stack_claims import Claim, run
from support_matrix import PASSED, table


def cases() -> list[object]:
    """The claims; those of several processes are marked, since they take all cores there are."""
    several = pytest.mark.multiprocess
    return [pytest.param(c, id=str(c), marks=[several] if c.processes > 1 else []) for c in CLAIMS]


@pytest.mark.slow
@pytest.mark.parametrize("claim", cases())
def test_claim(claim: Claim) -> None:
    if claim.lacks():
        pytest.skip(claim.lacks())
    outcome = run(claim)
    assert outcome.held, f"\n{outcome.log}"


def test_claims_have_names_of_their_own() -> None:
    assert len({str(claim) for claim in CLAIMS}) == len(CLAIMS)


def test_the_support_matrix_is_of_these_claims() -> None:
    """`python tests/stacks/support_matrix.py` runs them all and writes what passed."""
    passed = json.loads(PASSED.read_text(encoding="utf-8"))["claims"]
    assert set(passed) == {str(claim) for claim in CLAIMS}
    assert table().count("\n| ") == 1 + len({claim.stack for claim in CLAIMS})


def test_a_claim_that_is_false_fails_with_its_log(tmp_path: Path) -> None:
    outcome = run(Claim("none", "fails", "common:must_act", {"settings": {"isometry": 0.0}}))
    assert not outcome.held
    assert "isometry moved the weights by" in outcome.log
