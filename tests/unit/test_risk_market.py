"""Last prices as risk folds them from the log: the newest tick counts, gaps and garbage say nothing about a price."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from pydantic import BaseModel

from core import ids
from core.events.envelope import EventType, make
from core.events.topics import MARKET_TICKS
from core.messaging.records import Record
from core.trading.ticks import Gap, Tick
from streams.risk_market import LastPrice, LastPrices

NOON = datetime(2026, 11, 23, 6, 30, tzinfo=UTC)
TOKEN = 408065


def make_record(kind: EventType, data: BaseModel, value: bytes | None = None) -> Record:
    identity = ids.new_id()
    event = make(kind, data, id=identity, key=str(TOKEN), source="test", correlation_id=identity)
    return Record(MARKET_TICKS, 0, 0, event.key.encode(), value or event.encode(), dict(event.headers()), 0)


def tick(price: str, after_s: float = 0) -> Record:
    at = NOON + timedelta(seconds=after_s)
    data = Tick(instrument_token=TOKEN, last_price=Decimal(price), exchange_ts=at, received_at=at)
    return make_record(EventType.TICK, data)


GAP = make_record(EventType.GAP, Gap(instrument_token=TOKEN, since=NOON, until=NOON, reason="reconnect"))
GARBAGE = make_record(EventType.TICK, Gap(instrument_token=TOKEN, since=NOON, until=NOON, reason="-"), b"{")


@pytest.mark.parametrize(
    ("batches", "price"),
    [
        ([[]], None),
        ([[tick("10"), tick("11", 1)]], "11"),
        ([[tick("10"), GAP]], "10"),
        ([[GAP]], None),
        ([[tick("10")], [GARBAGE]], "10"),
        ([[tick("11", 1)], [tick("10")]], "11"),
    ],
    ids=["nothing", "newest of a batch", "gap after a tick", "gap alone", "garbage", "an older tick comes late"],
)
def test_the_last_price_is_the_newest_readable_tick(batches: list[list[Record]], price: str | None) -> None:
    prices = LastPrices()
    for batch in batches:
        prices.fold(batch)
    last = prices.get(TOKEN)
    assert (None if last is None else last.price) == (None if price is None else Decimal(price))


def test_a_price_from_a_clock_ahead_of_ours_is_new_not_younger_than_new() -> None:
    assert LastPrice(Decimal(10), NOON).age_s(NOON - timedelta(seconds=3)) == 0
    assert LastPrice(Decimal(10), NOON).age_s(NOON + timedelta(seconds=3)) == 3
