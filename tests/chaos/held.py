"""Did an exit ever sell more than was held? Judged from the brokers' own books alone, at the moment each exit was accepted. Pure.

The sandbox keeps executions and ends in whole seconds, rounded down: within one second the exit gets the benefit of the doubt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from uuid import UUID

from core.trading.types import Broker, Intent, Side
from tests.chaos.books import BookOrder
from tests.chaos.plan import Planned

Leg = tuple[Planned, BookOrder]
PositionKey = tuple[str, int, str]
"""Instance, instrument token, product."""


def legs_by_position(
    intents: Iterable[Planned], reached: Mapping[UUID, list[BookOrder]]
) -> dict[PositionKey, list[Leg]]:
    """Every order at the broker under the position it moves."""
    found: dict[PositionKey, list[Leg]] = defaultdict(list)
    for one in intents:
        for row in reached[one.order_id]:
            found[position_of(one, row.product)].append((one, row))
    return found


def position_of(one: Planned, product: str) -> PositionKey:
    return f"{one.strategy_id}@{Broker(one.broker).value}", one.instrument_token, product


def may_still_exit(legs: Iterable[Leg], side: Side, moment: datetime, but: BookOrder | None = None) -> int:
    """Units an exit of this side may take at a moment: what is held in its direction less what other exits still work for."""
    held = working = 0
    for one, row in legs:
        if row is but:
            continue
        filled = row.filled_by(moment)
        held -= Side(row.side).sign * filled * side.sign
        if one.intent is Intent.EXIT and row.works_at(moment) and row.side == side.value:
            working += max(0, row.placed - filled)
    return held - working


def oversold(legs: list[Leg]) -> Iterator[tuple[UUID, str]]:
    """Exits of one position that were accepted for more than could be left to exit: order and words."""
    for one, row in legs:
        if one.intent is not Intent.EXIT or row.accepted_at is None:
            continue
        left = may_still_exit(legs, Side(row.side), row.accepted_at, but=row)
        if row.placed > left:
            yield (
                one.order_id,
                f"OVERSOLD: exit {row.broker_order_id} accepted for {row.placed}, {max(left, 0)} were left to exit",
            )
