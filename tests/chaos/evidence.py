"""Why an intent has no order at the broker, judged anew: absence from the recorded looks, refusals from the sandbox's own log. Pure.

Shares no code with what it checks. What is not proven is a breach; what the plan did not write down counts against its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from core.trading.types import OrderStatus, SendState
from sandbox.fault_kinds import CATALOGUE, Family, FaultKind
from tests.chaos.books import Fault
from tests.chaos.home import FACTOR
from tests.chaos.plan import Planned

BOOKS = 3
SPACING = timedelta(seconds=30 / FACTOR)
AFTER = timedelta(seconds=120 / FACTOR)
"""What proves absence (docs: an order's life), divided as the run's durations are."""

LEARNING = timedelta(seconds=2)
"""What the journal knows is read before a book is asked for: a broker order learned within so long need not count yet."""


def unproven(send: Mapping[str, Any], looks: Iterable[Mapping[str, Any]], known: Iterable[datetime]) -> str | None:
    """What the looks of one send lack to prove its absence; None when they prove it.

    `looks` are those of this send alone; `known` is when each broker order of the account became known to the journal: a book
    asked for later and shorter than that is no evidence, whatever was written beside it.
    """
    if send["deadline_at"] is None:
        return "it has no send deadline"
    learned = sorted(known)
    counted: list[datetime] = []
    for look in sorted(looks, key=lambda row: row["requested_at"]):
        asked = look["requested_at"]
        whole = look["rows"] >= sum(moment < asked - LEARNING for moment in learned)
        spaced = not counted or asked - counted[-1] >= SPACING
        own = (look["account"], look["trading_day"]) == (send["account"], send["trading_day"])
        if look["healthy"] and whole and own and asked > send["deadline_at"] and spaced:
            counted.append(asked)
    if len(counted) < BOOKS:
        return f"{len(counted)} healthy books {SPACING.total_seconds():g} s apart after its deadline, {BOOKS} prove it"
    late = counted[-1] - send["deadline_at"]
    if late < AFTER:
        return f"the last book {late.total_seconds():.1f} s after its deadline, {AFTER.total_seconds():g} s prove it"
    return None


def refusals(send: Mapping[str, Any], faults: Iterable[Fault]) -> list[Fault]:
    """What in the sandbox's log can have refused this send for good."""
    kinds = {FaultKind.ERROR.value}
    return [one for one in faults if one.tag == send["tag"] and one.kind in kinds and not one.carried_out]


def what_is_wrong(
    send: Mapping[str, Any],
    doubted: bool,
    looks: Sequence[Mapping[str, Any]],
    known: Iterable[datetime],
    faults: Iterable[Fault],
) -> str | None:
    """Why the end of one send is not proven; None when it is. `doubted`: an UNKNOWN of this send was published."""
    state, number = send["state"], send["send_no"]
    if state == SendState.REFUSED:
        return None if refusals(send, faults) else f"send {number} is REFUSED, the broker's log has no such refusal"
    if state != SendState.ABSENT:
        return None
    if doubted:
        lacks = unproven(send, looks, known)
        return f"send {number} was UNKNOWN and is held absent: {lacks}" if lacks else None
    if send["claimed_at"] is not None and "not placed" not in (send["answer"] or ""):
        return f"send {number} was claimed, never UNKNOWN and is held absent: {send['answer']}"
    return None


def planned(
    one: Planned, order: Mapping[str, Any], sends: Iterable[Mapping[str, Any]], faults: Iterable[Fault]
) -> bool:
    """Whether the plan wrote this end down: an entry made to be too old too soon, or a send that the plan told the sandbox to fail."""
    reason = order["reason"] or ""
    if one.may_expire and order["status"] == OrderStatus.EXPIRED and reason.startswith("too old"):
        return True
    tags = {row["tag"] for row in sends if row["state"] in {SendState.ABSENT, SendState.REFUSED}}
    return any(
        fault.tag in tags and CATALOGUE[FaultKind(fault.kind)].family is Family.ANSWER and not fault.carried_out
        for fault in faults
    )
