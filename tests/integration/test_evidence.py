"""What a lost send's order comes to by the books kept as evidence: on a real journal, with a broker that lists what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import update
from temporalio.testing import ActivityEnvironment

from core import ids
from core.brokers.port import Book, BookRow
from core.clock import trading_day, utc_now
from core.config import Settings
from core.order_work import OrderView
from core.storage.db import broker_engine
from core.storage.evidence import record_book
from core.storage.journal import SENDS
from core.trading.types import Broker, Intent, OrderStatus, Side
from tests.integration.command_world import row
from tests.integration.test_broker_calls import ToldTrader, calls, look
from tests.journal_world import JournalWorld

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(stack, Broker.ZERODHA)
    yield await JournalWorld.make(engine, Broker.ZERODHA)
    await engine.dispose()


async def lost(world: JournalWorld, ago_s: float, account: str, intent: Intent) -> UUID:
    """Sent, no answer, its deadline so long past, in an account of its own."""
    side = Side.BUY if intent is Intent.ENTRY else Side.SELL
    order_id = await world.order(side, intent=intent, account=account)
    await world.claim(order_id)
    await world.journal.unknown(order_id, 1, "read timeout")
    past = {"deadline_at": utc_now() - timedelta(seconds=ago_s)}
    async with world.engine.begin() as connection:
        await connection.execute(update(SENDS).where(SENDS.c.order_id == order_id).values(**past))
    return order_id


async def seen(world: JournalWorld, order_id: UUID, account: str, *ages_s: float, rows: int) -> None:
    """Healthy books read so long ago."""
    for age in ages_s:
        at = utc_now() - timedelta(seconds=age)
        book = Book(account, trading_day(utc_now()), at, at, tuple(row(f"F{n}") for n in range(rows)))
        await record_book(world.journal, order_id, 1, book, None)


async def test_empty_books_prove_nothing_and_call_a_person_and_books_that_list_again_prove_it(
    world: JournalWorld,
) -> None:
    await world.hold(Side.BUY, 10)
    account = f"E{world.instance[-12:]}"
    leave = await lost(world, 400, account, Intent.EXIT)
    await seen(world, leave, account, 390, 350, 310, rows=0)
    trader = ToldTrader()
    at = calls(world, trader)
    at.proof = world.logged_in(account)
    listed = trader.book

    async def book() -> Book:
        return replace(await listed(), account=account)

    trader.book = book  # type: ignore[method-assign]
    asked: OrderView = await ActivityEnvironment().run(at.look_up_by_tag, look(leave, None))
    assert asked.status is OrderStatus.UNRESOLVED
    assert "which prove nothing" in (asked.reason or "")
    await seen(world, leave, account, 200, 100, rows=1)
    trader.book_rows = (row("FOREIGN"),)
    proven: OrderView = await ActivityEnvironment().run(at.look_up_by_tag, look(leave, None))
    assert (proven.status, proven.send_no) == (OrderStatus.PENDING, 2), "the exit goes on by itself"


async def test_an_order_of_yesterday_is_found_where_its_tag_leads_to_its_id(world: JournalWorld) -> None:
    """The paper exchange forgets nothing at the day's roll; its book of today lists today's orders."""
    account = f"E{world.instance[-12:]}"
    entry = await lost(world, 400, account, Intent.ENTRY)
    name = f"P{ids.order_tag(entry, 1)}"

    class Remembers(ToldTrader):
        async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
            return {one: row(one, "OPEN") for one in broker_order_ids if one == name}

    trader = Remembers()
    trader.profile = replace(trader.profile, id_of_tag=lambda tag: f"P{tag}", reads_by_id=True)
    at = calls(world, trader)
    at.proof = world.logged_in(account)
    found: OrderView = await ActivityEnvironment().run(at.look_up_by_tag, look(entry, None))
    assert (found.status, found.broker_order_id) == (OrderStatus.ACKED, name)
