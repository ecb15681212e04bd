"""What flatten --direct did becomes ours in the journal: fills, positions and events, once, and only what was ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from core import ids
from core.brokers.port import BookRow, Trade
from core.clock import trading_day, utc_now
from core.config import Settings
from core.flatten_file import FlattenSend, Outcome, SendLine, new_tag
from core.storage.db import broker_engine
from core.storage.flatten import Ended, Flattened, book_flattened, ended_in_book, ended_in_file, not_ours
from core.storage.journal import Journal
from core.trading.orders import SeenFill
from core.trading.types import Broker, Exchange, Intent, OrderStatus, OrderType, Product, Side
from tests.journal_world import JournalWorld, trade

pytestmark = pytest.mark.stack


class World:
    """An account with two instances of ours in one instrument."""

    def __init__(self, one: JournalWorld, two: JournalWorld) -> None:
        self.one, self.two = one, two
        self.account = f"F{ids.new_id().hex[-10:]}"

    @property
    def journal(self) -> Journal:
        return self.one.journal

    async def hold(self, at: JournalWorld, side: Side, quantity: int, *, filled_at: datetime | None = None) -> None:
        order_id = await at.order(side, quantity, account=self.account)
        await at.sent(order_id)
        await at.fill(order_id, trade(quantity, at=filled_at or utc_now() - timedelta(seconds=5)))

    def send(self, quantity: int, side: Side = Side.SELL, **changes: Any) -> FlattenSend:
        now = utc_now()
        line = SendLine(
            tag=new_tag(), at=now, deadline_at=now + timedelta(seconds=8), account=self.account, target="test",
            trading_day=trading_day(now), exchange=Exchange.NSE, tradingsymbol="INFY", instrument_token=408065,
            product=Product.MIS, side=side, quantity=quantity,
        )  # fmt: skip
        return FlattenSend(line, **changes)

    def ended(self, quantity: int, *parts: int, side: Side = Side.SELL) -> list[Ended]:
        fills = tuple(
            SeenFill(f"T{n}{ids.new_id().hex[-6:]}", part, Decimal(101), utc_now()) for n, part in enumerate(parts, 1)
        )
        send = self.send(
            quantity, side, outcome=Outcome.ENDED, broker_order_id=f"F{ids.new_id().hex[-8:]}", trades=fills,
            status="COMPLETE", filled_quantity=sum(parts),
        )  # fmt: skip
        return ended_in_file([send], self.account, "test")


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[World]:
    engine = broker_engine(stack, Broker.ZERODHA)
    yield World(await JournalWorld.make(engine, Broker.ZERODHA), await JournalWorld.make(engine, Broker.ZERODHA))
    await engine.dispose()


async def test_an_exit_becomes_a_filled_order_of_the_instance_that_held_it(world: World) -> None:
    await world.hold(world.one, Side.BUY, 10)
    ended = world.ended(10, 6, 4)
    (order_id,) = (await book_flattened(world.journal, ended)).orders
    found = await world.journal.load(order_id)
    assert (found.status, found.order["filled_quantity"], found.intent) == (OrderStatus.FILLED, 10, Intent.EXIT)
    assert found.order["source"] == "flatten"
    assert found.send["tag"] == ended[0].send.line.tag
    position = await world.one.position()
    assert (position["quantity"], position["realized_pnl"]) == (0, Decimal(10))
    events = await world.one.events(order_id)
    assert [row["order_seq"] for row in events] == list(range(1, len(events) + 1))
    assert sum(row["topic"].endswith(".filled") for row in events) == 2


async def test_booked_again_it_is_booked_once(world: World) -> None:
    await world.hold(world.one, Side.BUY, 10)
    ended = world.ended(10, 10)
    assert len((await book_flattened(world.journal, ended)).orders) == 1
    assert (await book_flattened(world.journal, ended)).orders == ()
    assert (await world.one.position())["quantity"] == 0


async def test_a_booking_that_died_before_its_fills_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.hold(world.one, Side.BUY, 10)
    ended = world.ended(10, 10)

    async def die(*_: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "fold", die)
        with pytest.raises(RuntimeError, match="killed"):
            await book_flattened(world.journal, ended)
    assert (await world.one.position())["quantity"] == 10
    assert len((await book_flattened(world.journal, ended)).orders) == 1
    assert (await world.one.position())["quantity"] == 0


async def test_one_exit_of_two_instances_is_split_and_every_unit_booked_once(world: World) -> None:
    await world.hold(world.one, Side.BUY, 10)
    await world.hold(world.two, Side.BUY, 4)
    booked = await book_flattened(world.journal, world.ended(14, 7, 7))
    assert len(booked.orders) == 2
    assert ((await world.one.position())["quantity"], (await world.two.position())["quantity"]) == (0, 0)
    assert sorted(row["quantity"] for row in await world.one.fills()) == [3, 7, 10]
    assert sorted(row["quantity"] for row in await world.two.fills()) == [4, 4]


async def test_what_closed_somebody_elses_position_is_not_ours(world: World) -> None:
    await world.hold(world.one, Side.BUY, 6)
    ended = world.ended(10, 10)
    await book_flattened(world.journal, ended)
    assert (await world.one.position())["quantity"] == 0
    assert await not_ours(world.journal, [ended[0].broker_order_id]) == {ended[0].broker_order_id: 4}


async def test_what_was_bought_after_it_is_not_closed_by_it(world: World) -> None:
    """Booked late: the position it finds now is not the one that it closed."""
    ended = world.ended(10, 10)
    await world.hold(world.one, Side.BUY, 10, filled_at=utc_now() + timedelta(seconds=2))
    for _ in range(2):
        assert (await book_flattened(world.journal, ended)).orders == ()
    assert (await world.one.position())["quantity"] == 10


async def test_a_short_is_bought_back(world: World) -> None:
    await world.hold(world.one, Side.SELL, 5)
    await book_flattened(world.journal, world.ended(5, 5, side=Side.BUY))
    assert (await world.one.position())["quantity"] == 0


async def test_where_the_file_holds_no_end_the_book_tells_it(world: World) -> None:
    await world.hold(world.one, Side.BUY, 10)
    send = world.send(10)
    row = BookRow(
        "B1", (send.line.tag,), "COMPLETE", None, Exchange.NSE, "INFY", 408065, Side.SELL, Product.MIS, OrderType.MARKET,
        10, 10, 0, None, None, None, utc_now(),
    )  # fmt: skip
    one = Trade("T9", "B1", Exchange.NSE, "INFY", 408065, Side.SELL, Product.MIS, 6, Decimal(100), utc_now())
    assert ended_in_book([send], world.account, "test", [row], {"B1": (one,)}) == [], "its trades lag behind the book"
    two = Trade("T10", "B1", Exchange.NSE, "INFY", 408065, Side.SELL, Product.MIS, 4, Decimal(100), utc_now())
    ended = ended_in_book([send], world.account, "test", [row], {"B1": (one, two)})
    assert len((await book_flattened(world.journal, ended)).orders) == 1
    assert (await world.one.position())["quantity"] == 0


async def test_nothing_is_decided_before_our_own_fill_is_booked(world: World) -> None:
    """Our entry filled, its workflow had no time to book it, and flatten sold what it had bought."""
    entry = await world.one.order(Side.BUY, 10, account=world.account)
    await world.one.sent(entry)
    filled_at = utc_now() - timedelta(seconds=5)
    ended = world.ended(10, 10)
    found = await book_flattened(world.journal, ended)
    assert found == Flattened(waiting=frozenset({("NSE:INFY", Product.MIS)}))
    assert await not_ours(world.journal, [ended[0].broker_order_id]) == {}
    await world.one.fill(entry, trade(10, at=filled_at))
    found = await book_flattened(world.journal, ended)
    assert (len(found.orders), found.waiting) == (1, frozenset())
    assert (await world.one.position())["quantity"] == 0


async def test_a_fill_that_the_broker_shows_and_the_journal_lacks_holds_it_back(world: World) -> None:
    await world.hold(world.one, Side.BUY, 6)
    ended = world.ended(10, 10)
    key = ended[0].send.key
    assert (await book_flattened(world.journal, ended, {key})).waiting == {key}
    await world.hold(world.two, Side.BUY, 4)
    assert len((await book_flattened(world.journal, ended)).orders) == 2


async def test_what_was_never_sent_or_sent_long_after_it_does_not_hold_it_back(world: World) -> None:
    await world.hold(world.one, Side.BUY, 10)
    await world.two.order(Side.BUY, 4, account=world.account)
    ended = world.ended(10, 10)
    long_ago = utc_now() - timedelta(minutes=5)
    early = replace(ended[0], trades=tuple(replace(fill, filled_at=long_ago) for fill in ended[0].trades))
    later = await world.two.order(Side.BUY, 4, account=world.account)
    await world.two.sent(later)
    assert (await book_flattened(world.journal, [early])).waiting == frozenset()


async def test_another_account_or_target_is_not_booked_here(world: World) -> None:
    (ended,) = world.ended(10, 10)
    assert ended_in_file([ended.send], "SOMEBODY", "test") == []
    assert ended_in_file([ended.send], world.account, "production") == []
