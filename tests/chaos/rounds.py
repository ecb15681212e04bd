"""The account as a whole: orders without our tag must be what the sandbox was told to make, and the last round of reconciliation must
have judged every line, with no difference but the positions the sandbox was told to carry. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from core.trading.types import Side
from sandbox.fault_kinds import FaultKind
from tests.chaos.books import API
from tests.chaos.facts import Facts

_MADE = re.compile(r"order (\d+):")
_CARRIED = re.compile(r"(-?\d+) carried at")
_STRANGERS = {FaultKind.FOREIGN_ORDER.value, FaultKind.RMS_SQUARE_OFF.value}

CARRY_PRODUCT = "MIS"


def untagged_wrongs(facts: Facts) -> Iterator[str]:
    """Orders without a tag that no fault of the sandbox's own log made."""
    made = {name for fault in facts.faults if fault.kind in _STRANGERS for name in _MADE.findall(fault.detail)}
    for row in facts.book:
        if row.tag is not None:
            continue
        what = f"{row.side} {row.placed} of {row.instrument_token}"
        if row.source == API:
            yield f"the broker accepted {row.broker_order_id} ({what}) through the API, and it has no tag"
        elif row.broker_order_id not in made:
            yield f"the broker holds {row.broker_order_id} ({what}) without a tag, and no fault made it"


def wrongs(facts: Facts) -> Iterator[str]:
    """What the last round of reconciliation could not judge or explain."""
    told = facts.round
    if told is None:
        yield "no round of reconciliation after the run"
        return
    if not told["judged"]:
        yield f"the last round of reconciliation was not judged: {told['why_not']}"
        return
    carried = _carried(facts)
    for line in told["lines"]:
        key = f"{line['exchange']}:{line['tradingsymbol']}:{line['product']}"
        due = carried.get(key, 0)
        if line["drift"] is None:
            yield f"the last round of reconciliation could not judge {key}: {line}"
        elif line["drift"] != due:
            yield f"drift in {key}: {line['drift']}, {due} were carried in by the plan: {line}"


def net_at_broker(facts: Facts, instrument: str, token: int, moment: datetime) -> int:
    """The account's net of a line at a moment, signed units, from the broker's own book: ours, strangers', and what was carried in."""
    traded = sum(
        Side(row.side).sign * row.filled_by(moment)
        for row in facts.book
        if row.instrument_token == token and row.product == CARRY_PRODUCT
    )
    return traded + _carried(facts, moment).get(f"{instrument}:{CARRY_PRODUCT}", 0)


def _carried(facts: Facts, until: datetime | None = None) -> Counter[str]:
    """Units that the sandbox's log says it carried into the day in the middle of it: nothing at Zerodha explains such, and it must show."""
    found: Counter[str] = Counter()
    for fault in facts.faults:
        if until is not None and fault.at > until:
            continue
        match = _CARRIED.match(fault.detail) if fault.kind == FaultKind.FOREIGN_POSITION else None
        if match:
            found[f"{fault.symbol}:{CARRY_PRODUCT}"] += int(match.group(1))
    return found
