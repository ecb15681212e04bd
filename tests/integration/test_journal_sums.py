"""Sums the journal keeps: the account's sends of the day, what limits bind, and an order's realised PnL. On a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from core import ids
from core.clock import day_began, trading_day, utc_now
from core.config import Settings
from core.storage.claims import sends_since, sends_today
from core.storage.db import broker_engine
from core.storage.kill import KillRecord, engage
from core.storage.kill_foreign import ForeignExit, claim_foreign
from core.storage.risk import RiskJournal
from core.storage.risk_use import LimitUse, limit_use
from core.trading.types import Broker, Intent, Side
from tests.journal_world import JournalWorld, before, trade
from tests.order_events import make_signal

pytestmark = pytest.mark.stack


@pytest.fixture(params=list(Broker))
async def world(stack: Settings, request: pytest.FixtureRequest) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(stack, request.param)
    yield await JournalWorld.make(engine, request.param)
    await engine.dispose()


async def test_exits_of_what_is_not_ours_use_up_the_accounts_orders_too(world: JournalWorld) -> None:
    account = f"C{ids.new_id()}"
    await world.claim(await world.order(account=account))
    kill = KillRecord(ids.new_id(), account, None, "asha", "test", True, utc_now(), *(None,) * 5)
    await engage(world.engine, kill)
    wanted = ForeignExit(kill.kill_id, account, "NSE:TCS", "MIS", "SELL", 5, 0)
    assert await claim_foreign(world.engine, wanted, world.proof, 8.0)
    assert len(await sends_since(world.journal, account, 60)) == 2
    assert await sends_today(world.journal, account) == 2


async def test_what_people_see_of_limits_is_what_risk_counts(world: JournalWorld) -> None:
    account, now = f"C{ids.new_id()}", utc_now()
    yesterday = now - timedelta(days=1)
    for changes in (
        {},
        {"filled_quantity": 10, "ended_at": now},
        {"ended_at": now},  # ended without a fill: no trade
        {"intent": Intent.EXIT},
        {"created_at": yesterday},  # works on: open, but of yesterday
        {"created_at": yesterday, "filled_quantity": 10, "ended_at": yesterday},
        {"instance": "another@x"},
    ):
        await world.order(account=account, **changes)
    seen = await limit_use(world.engine, account, day_began(trading_day(now)))
    assert seen == {world.instance: LimitUse(open_orders=3, entries=2), "another@x": LimitUse(1, 1)}
    signal = make_signal(world.journal.broker).model_copy(update={"instance": world.instance, "origin_at": now})
    async with RiskJournal(world.engine, account).turn() as turn:
        facts = await turn.facts(signal, trading_day(now), 0)
    whole = seen[world.instance] + seen["another@x"]
    assert (facts.open_orders, facts.trades_today) == (3, 2)
    assert (facts.account_open_orders, facts.account_trades_today) == (whole.open_orders, whole.entries)


async def test_an_orders_realised_pnl_is_the_sum_of_its_fills_after_a_late_one_too(world: JournalWorld) -> None:
    """A late fill of the entry changes what the exits after it realised: theirs, and the late order's own."""
    entry, leave = await world.order(quantity=20), await world.order(Side.SELL, 20, Intent.EXIT)
    await world.sent(entry)
    await world.fill(entry, trade(10, "100", at=before(90)), status="OPEN")
    await world.sent(leave)
    await world.fill(leave, trade(10, "110", at=before(30)), status="OPEN")
    assert (await world.journal.load(leave)).order["realized_pnl"] == Decimal(100)
    late = [trade(10, "100", at=before(90)), trade(10, "104", at=before(60))]
    booked = [fill["trade_id"] for fill in await world.fills()]
    await world.fill(entry, replace(late[0], trade_id=booked[0]), late[1], quantity=20)
    again = await world.fills()
    assert [fill["realized_pnl"] for fill in again] == [0, 0, Decimal(80)]
    for order_id in (entry, leave):
        mine = sum((fill["realized_pnl"] for fill in again if fill["order_id"] == order_id), Decimal(0))
        assert (await world.journal.load(order_id)).order["realized_pnl"] == mine
