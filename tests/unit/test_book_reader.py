"""One read of the broker serves everybody who asked before it was sent, and nobody who asked after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from core.brokers.paper import UNLIMITED
from core.brokers.port import Book, BookRow, Trade, Trader
from core.brokers.reader import BookReader
from core.brokers.zerodha import LIMITS
from core.clock import trading_day, utc_now
from core.errors import Transient
from core.trading.types import Exchange, OrderType, Product, Side


def row(order_id: str) -> BookRow:
    return BookRow(
        broker_order_id=order_id, tags=(), status="OPEN", status_message=None, exchange=Exchange.NSE,
        tradingsymbol="INFY", instrument_token=1, side=Side.BUY, product=Product.MIS, order_type=OrderType.LIMIT,
        quantity=1, filled_quantity=0, cancelled_quantity=0, average_price=None, price=None, trigger_price=None,
        order_at=None,
    )  # fmt: skip


class Counting:
    """A trader whose reads wait for `go` and remember when they were sent and what for."""

    def __init__(self, **profile: Any) -> None:
        self.profile = replace(UNLIMITED, **profile)
        self.sent: list[float] = []
        self.asked: list[tuple[str, ...]] = []
        self.under_way = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def _send(self, keys: Sequence[str] = ()) -> None:
        self.sent.append(time.monotonic())
        self.under_way.set()
        self.asked.append(tuple(keys))
        await self.go.wait()
        if self.error is not None:
            raise self.error

    async def book(self) -> Book:
        await self._send()
        now = utc_now()
        return Book("PAPER", trading_day(now), now, now, (row("a"), row("b")))

    async def orders(self, keys: Sequence[str]) -> dict[str, BookRow]:
        await self._send(keys)
        return {key: row(key) for key in keys if key != "missing"}

    async def trades(self, keys: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        await self._send(keys)
        return {}


def reader_of(trader: Counting) -> BookReader:
    return BookReader(cast(Trader, trader))


async def test_those_who_ask_together_share_one_read() -> None:
    trader = Counting(reads_by_id=True)
    reader = reader_of(trader)
    now = time.monotonic()
    first, second = await asyncio.gather(
        reader.orders(["a", "missing"], not_before=now), reader.orders(["b"], not_before=now)
    )
    assert (set(first), set(second)) == ({"a"}, {"b"})
    assert trader.asked == [("a", "b", "missing")]


async def test_a_read_under_way_does_not_serve_who_asks_after_it_was_sent() -> None:
    trader = Counting()
    reader = reader_of(trader)
    trader.go.clear()
    first = asyncio.create_task(reader.book(not_before=time.monotonic()))
    await trader.under_way.wait()
    hint = time.monotonic()
    second = asyncio.create_task(reader.book(not_before=hint))
    await asyncio.sleep(0)
    trader.go.set()
    assert (await first) is not (await second)
    assert len(trader.sent) == 2
    assert trader.sent[1] >= hint


async def test_a_snapshot_sent_after_the_hint_serves_it_without_a_new_read() -> None:
    trader = Counting(reads_by_id=False)
    reader = reader_of(trader)
    hint = time.monotonic()
    book = await reader.book(not_before=hint)
    assert await reader.book(not_before=hint) is book
    assert set(await reader.orders(["a", "missing"], not_before=hint)) == {"a"}
    assert len(trader.sent) == 1


async def test_reads_keep_the_brokers_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    now, give_way = [100.0], asyncio.sleep

    async def sleep(seconds: float) -> None:
        now[0] += seconds
        await give_way(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])  # it stands still but for the reader's own waits
    trader = Counting(read_spacing_s=8)
    reader = reader_of(trader)
    for _ in range(3):
        await reader.book(not_before=now[0] + 1)
    now[0] += 50
    await reader.book(not_before=now[0])
    assert trader.sent == [101, 109, 117, 167]


async def test_a_failed_read_fails_those_it_would_have_served_and_the_next_one_works() -> None:
    trader = Counting()
    reader = reader_of(trader)
    trader.error = Transient("away")
    asks = [reader.book(not_before=time.monotonic()) for _ in range(3)]
    failures = await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(failure, Transient) for failure in failures)
    assert len(trader.sent) == 1
    trader.error = None
    assert len((await reader.book(not_before=time.monotonic())).rows) == 2


async def test_an_asker_that_goes_away_leaves_the_others_served() -> None:
    trader = Counting()
    reader = reader_of(trader)
    trader.go.clear()
    gone, stays = (asyncio.create_task(reader.book(not_before=time.monotonic())) for _ in range(2))
    await trader.under_way.wait()
    gone.cancel()
    trader.go.set()
    assert (await stays).rows


async def test_closing_ends_those_who_wait() -> None:
    trader = Counting()
    reader = reader_of(trader)
    trader.go.clear()
    waits = asyncio.create_task(reader.book(not_before=time.monotonic()))
    await trader.under_way.wait()
    await reader.close()
    with pytest.raises(asyncio.CancelledError):
        await waits


def test_zerodha_reads_at_most_four_times_a_second() -> None:
    assert LIMITS.read_spacing_s == 0.25
    assert not LIMITS.reads_by_id
