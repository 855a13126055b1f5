"""What the books of a monitor promise, over trainings of any length and speed."""

from __future__ import annotations

import pytest

from isoplast.diagnostics.monitor._account import Account


def lived(account: Account, cost: float, steps: int, a_step: float = 1.0) -> list[tuple[int, float]]:
    """Steps and seconds of training at the runs of a measure that costs so much whenever it is due."""
    runs = []
    for step in range(1, steps + 1):
        elapsed = (step - 1) * a_step
        if account.due_at(step, elapsed) <= step:
            account.charge(cost, elapsed)
            runs.append((step, elapsed))
    return runs


@pytest.mark.parametrize("cost", [0.1, 1.0, 30.0])
def test_all_runs_together_never_take_more_than_the_share(cost: float) -> None:
    account = Account(guess=cost, share=0.01)
    runs = lived(account, cost, 20_000)
    assert all(count * cost <= 0.01 * elapsed + 1e-9 for count, (_, elapsed) in enumerate(runs, 1))
    # Not less either: the last pause was no longer than what a run costs takes to come in.
    assert 20_000 - runs[-1][0] <= cost / 0.01 + 1


@pytest.mark.parametrize("debt", [0.5, 5.0])
def test_the_look_at_the_start_is_paid_off_with_a_quarter_of_what_comes_in(debt: float) -> None:
    account = Account(guess=0.2, share=0.01, debt=debt)
    runs = lived(account, 0.2, 4000)
    for count, (_, elapsed) in enumerate(runs, 1):
        if count > 1:  # the first run is paid for by the guess
            assert 0.2 * count <= 0.01 * elapsed - min(debt, 0.01 * elapsed / 4) + 1e-9
    assert account.spent == pytest.approx(40 - min(debt, 10), abs=0.3)


def test_of_a_known_length_the_look_at_the_start_is_a_part() -> None:
    assert Account(guess=1.0, share=0.01).planned(1, 0.0, 10_000) == 100
    account = Account(guess=1.0, share=0.01, spent=2.0, runs=2, debt=20.0)
    assert account.planned(1001, 1000.0, 10_000) == 80
    account.debt = 1000.0
    assert account.planned(1001, 1000.0, 10_000) == 75


def test_it_is_due_when_the_training_will_have_paid() -> None:
    account = Account(guess=1.0, share=0.01, spent=3.0, runs=3, at=300.0)
    due = account.due_at(351, 350.0)
    assert due == pytest.approx(401, abs=1e-6)
    assert account.due_at(401, 399.9) > 401
    assert account.due_at(401, 400.1) <= 401
