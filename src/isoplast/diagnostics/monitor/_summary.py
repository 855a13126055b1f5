"""What a monitor says when the training ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isoplast.diagnostics.health._finding import RANKS, Finding
from isoplast.diagnostics.monitor._account import Account


def summary(
    steps: int,
    records: Sequence[Mapping[str, float]],
    findings: Sequence[tuple[int, Finding]],
    accounts: Mapping[str, Account],
    length: int | None,
) -> str:
    """One line: what was found first of the worst kind; or that nothing was, and what was not looked at.

    Args:
        steps: watched.
        records, findings: of the monitor.
        accounts: the books of its measures.
        length: of the training, if it was given.
    """
    watched = f"Monitor watched {steps} steps with {len(records)} look{'s' if len(records) != 1 else ''}"
    serious = [(step, one) for step, one in findings if one.severity != "note"]
    if serious:
        step, worst = min(serious, key=lambda item: (RANKS[item[1].severity], item[0]))
        more = f", {len(serious)} findings in all" if len(serious) > 1 else ""
        return f"{watched}: {worst.severity} from step {step} on: {worst.where}: {worst.what}{more}"
    taken = {number for record in records for number in record}
    never = [name for name in accounts if not any(number.startswith(f"{name}/") for number in taken)]
    if not records:
        need = min((account.first for account in accounts.values()), default=0.0)
        known = "" if length is not None else "give steps=, or "
        way = f"the first look comes at step {need:,.0f}: {known}raise budget="
        return f"{watched}: it saw nothing; {way}"
    missing = f"; too short for {', '.join(never)}" if never else ""
    return f"{watched}: nothing critical, no warning{missing}"
