"""The journal on a real PostgreSQL, once for each broker's schema: claims, transitions, events, positions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update

from core import ids
from core.config import Settings
from core.errors import Transient
from core.events.envelope import decode
from core.events.payloads import OrderEvent
from core.storage.claims import ClaimResult, sends_since, sends_today
from core.storage.db import broker_engine
from core.storage.journal import ORDERS, exit_is_short
from core.storage.leases import Lease
from core.storage.models import LeaseRow
from core.storage.outbox import Outbox
from core.trading.types import Broker, Intent, OrderStatus, SendState, Side
from tests.journal_world import ACCOUNT, JournalWorld, before, trade

pytestmark = pytest.mark.stack


@pytest.fixture(params=list(Broker))
async def world(stack: Settings, request: pytest.FixtureRequest) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(stack, request.param)
    yield await JournalWorld.make(engine, request.param)
    await engine.dispose()


# the claim --------------------------------------------------------------------------------------------------------


async def test_of_many_who_claim_one_send_exactly_one_may_send(world: JournalWorld) -> None:
    order_id = await world.order()
    claims = await asyncio.gather(*(world.claim(order_id) for _ in range(8)))
    assert sorted(claim.result for claim in claims) == [ClaimResult.ALREADY] * 7 + [ClaimResult.CLAIMED]


async def test_a_holder_thawed_after_its_lease_moved_on_may_not_send(world: JournalWorld) -> None:
    old = world.proof
    async with world.engine.begin() as connection:
        await connection.execute(
            update(LeaseRow).where(LeaseRow.name == old.name).values(expires_at=text("now() - interval '1 second'"))
        )
    epoch = await Lease(world.engine, LeaseRow, old.name, "another").acquire()
    assert epoch == old.epoch + 1
    order_id = await world.order()
    assert (await world.claim(order_id, proof=old)).result is ClaimResult.NOT_OURS
    fresh = replace(old, holder="another", epoch=epoch)
    assert (await world.claim(order_id, proof=fresh)).result is ClaimResult.CLAIMED


@pytest.mark.parametrize("there", [("OTHER1", "test"), (ACCOUNT, "production")])
@pytest.mark.parametrize("intent", list(Intent))
async def test_an_order_of_another_account_or_target_is_never_claimed(
    world: JournalWorld, there: tuple[str, str], intent: Intent
) -> None:
    """Decided on `local`, it must not leave in production."""
    await world.hold(Side.BUY, 10)
    account, target = there
    order_id = await world.order(Side.SELL, 10, intent, account=account, target=target)
    refused = await world.claim(order_id, proof=world.proof)
    assert refused.result is ClaimResult.ELSEWHERE
    assert f"decided for account {account} on {target}" in refused.told
    assert (await world.journal.load(order_id)).send["state"] == SendState.INTENT
    assert (await world.claim(order_id, proof=world.logged_in(account, target))).result is ClaimResult.CLAIMED


async def test_the_kill_switch_binds_entries_and_lets_exits_go(world: JournalWorld) -> None:
    account = f"K{ids.new_id()}"
    await world.kill_switch(True, account)
    await world.hold(Side.BUY, 10)
    entry = await world.order(account=account)
    leave = await world.order(Side.SELL, 10, Intent.EXIT, account=account)
    assert (await world.claim(entry)).result is ClaimResult.KILLED
    assert (await world.claim(leave)).result is ClaimResult.CLAIMED


@pytest.mark.parametrize("doubt", [OrderStatus.UNKNOWN, OrderStatus.UNRESOLVED])
async def test_no_entry_leaves_while_another_order_of_its_instrument_is_in_doubt(
    world: JournalWorld, doubt: OrderStatus
) -> None:
    """Whose strategy it is does not matter: it is one account. Another instrument, or another account, waits for nothing."""
    lost = await world.order(instance="another@x", strategy_id="another")
    entry, other = await world.order(), await world.order(instrument_token=world.token + 1)
    await world.claim(lost)
    await world.journal.unknown(lost, 1, "read timeout")
    if doubt is OrderStatus.UNRESOLVED:
        await world.journal.unresolved(lost, 1, "the day is over")
    refused = await world.claim(entry)
    assert refused.result is ClaimResult.IN_DOUBT
    assert refused.told == f"INSTRUMENT_IN_DOUBT: order {lost} of NSE:INFY is {doubt}"
    found = await world.journal.load(entry)
    assert (found.send["state"], found.send["answer"]) == (SendState.INTENT, refused.told)
    assert (await world.claim(other)).result is ClaimResult.CLAIMED
    elsewhere = await world.order(account="OTHER1")
    assert (await world.claim(elsewhere)).result is ClaimResult.CLAIMED
    await world.journal.submitted(lost, 1, f"B{ids.new_id()}", "found by its tag")
    assert (await world.claim(entry)).result is ClaimResult.CLAIMED


async def test_an_exit_leaves_while_another_position_of_its_instrument_is_in_doubt(world: JournalWorld) -> None:
    """What the instance itself holds is known."""
    await world.hold(Side.BUY, 10)
    lost = await world.order(instance="another@x", strategy_id="another")
    await world.claim(lost)
    await world.journal.unknown(lost, 1, "read timeout")
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    assert (await world.claim(leave)).result is ClaimResult.CLAIMED


async def test_a_latched_cancel_stops_an_order_that_was_not_sent(world: JournalWorld) -> None:
    order_id = await world.order()
    async with world.engine.begin() as connection:
        await connection.execute(update(ORDERS).where(ORDERS.c.order_id == order_id).values(cancel_requested=True))
    assert (await world.claim(order_id)).result is ClaimResult.CANCELLED


async def test_an_exit_is_cut_to_what_is_held_minus_exits_working(world: JournalWorld) -> None:
    await world.hold(Side.BUY, 10)
    first = await world.order(Side.SELL, 7, Intent.EXIT)
    second = await world.order(Side.SELL, 10, Intent.EXIT)
    third = await world.order(Side.SELL, 10, Intent.EXIT)
    assert (await world.claim(first)).quantity == 7
    assert (await world.claim(second)).quantity == 3
    assert (await world.claim(third)).result is ClaimResult.WAITS


async def test_exits_that_claim_at_once_never_oversell(world: JournalWorld) -> None:
    await world.hold(Side.SELL, 10)
    exits = [await world.order(Side.BUY, 10, Intent.EXIT) for _ in range(6)]
    claims = await asyncio.gather(*(world.claim(order_id) for order_id in exits))
    assert sum(claim.quantity for claim in claims) == 10


async def test_a_new_holder_counts_the_sends_before_its_own(world: JournalWorld) -> None:
    account = f"C{ids.new_id()}"
    for _ in range(3):
        await world.claim(await world.order(account=account))
    await world.order(account=account)
    assert len(await sends_since(world.journal, account, 60)) == 3
    assert await sends_today(world.journal, account) == 3


# answers ----------------------------------------------------------------------------------------------------------


async def test_not_placed_for_certain_may_be_claimed_again(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.claim(order_id)
    await world.journal.release(order_id, 1, "429: Too many requests")
    assert (await world.claim(order_id)).result is ClaimResult.CLAIMED


async def test_unknown_is_never_claimed_again_and_a_late_answer_is_believed(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.claim(order_id)
    assert (await world.journal.unknown(order_id, 1, "read timeout")).status is OrderStatus.UNKNOWN
    assert (await world.claim(order_id)).result is ClaimResult.ALREADY
    released = await world.journal.release(order_id, 1, "a refusal that comes after the doubt")
    assert released.send["state"] == SendState.UNKNOWN
    assert (await world.journal.submitted(order_id, 1, "B1", "late answer")).status is OrderStatus.SUBMITTED


async def test_an_entry_proven_absent_expires_and_an_exit_opens_its_next_send(world: JournalWorld) -> None:
    await world.hold(Side.BUY, 10)
    entry, leave = await world.order(), await world.order(Side.SELL, 10, Intent.EXIT)
    for order_id in (leave, entry):
        await world.claim(order_id)
    for order_id in (leave, entry):
        await world.journal.unknown(order_id, 1, "read timeout")
    assert (await world.journal.absent(entry, 1, "3 books")).status is OrderStatus.EXPIRED
    opened = await world.journal.absent(leave, 1, "3 books")
    assert (opened.status, opened.send["send_no"], opened.send["state"]) == (OrderStatus.PENDING, 2, SendState.INTENT)
    assert opened.send["tag"] != ids.order_tag(leave, 1)
    assert (await world.claim(leave, 2)).quantity == 10


async def test_an_order_once_claimed_cannot_be_expired_as_unsent(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.claim(order_id)
    assert (await world.journal.end_unsent(order_id, OrderStatus.EXPIRED, "too old")).status is OrderStatus.PENDING


# fills, positions, events --------------------------------------------------------------------------------------------


async def test_a_fill_moves_the_position_and_stores_what_it_realised(world: JournalWorld) -> None:
    await world.hold(Side.BUY, 10, "100")
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(leave)
    await world.fill(leave, trade(4, "101"), trade(6, "103"))
    position, found = await world.position(), await world.journal.load(leave)
    assert (position["quantity"], position["realized_pnl"]) == (0, Decimal(22))
    assert (found.status, found.order["average_price"]) == (OrderStatus.FILLED, Decimal("102.2"))
    assert found.order["realized_pnl"] == Decimal(22)
    assert position["charges"] == sum(fill["charges"] for fill in await world.fills())


async def test_a_book_seen_twice_books_its_fills_once(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.sent(order_id)
    fills = [trade(4), trade(6)]
    await asyncio.gather(*(world.fill(order_id, *fills) for _ in range(4)))
    assert (await world.position())["quantity"] == 10
    assert len(await world.events(order_id)) == 4  # submitted, ack, filled, filled


async def test_an_order_reduced_in_the_brokers_app_to_what_is_filled_ends_and_says_so(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.sent(order_id)
    done = trade(6)
    await world.fill(order_id, done, status="OPEN")
    await world.fill(order_id, done, status="COMPLETE", quantity=6)
    found = await world.journal.load(order_id)
    assert (found.status, found.order["filled_quantity"]) == (OrderStatus.FILLED, 6)
    assert (await world.events(order_id))[-1]["topic"].endswith(".orders.modified")


async def test_a_late_refusal_of_an_earlier_send_leaves_the_next_one_alone(world: JournalWorld) -> None:
    await world.hold(Side.BUY, 10)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.claim(leave)
    await world.journal.unknown(leave, 1, "read timeout")
    await world.journal.absent(leave, 1, "3 books")
    assert (await world.journal.refused(leave, 1, "MARGIN: too late")).status is OrderStatus.PENDING


async def test_an_exit_that_finds_nothing_left_is_not_short_of_its_goal(world: JournalWorld) -> None:
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    assert (await world.claim(leave)).result is ClaimResult.FLAT
    assert not exit_is_short(await world.journal.end_unsent(leave, OrderStatus.CANCELLED, "flat"))


async def test_an_exit_that_ended_at_the_broker_with_less_is_short(world: JournalWorld) -> None:
    await world.hold(Side.BUY, 10)
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(leave)
    await world.fill(leave, trade(4), status="COMPLETE", quantity=4)
    assert exit_is_short(await world.journal.load(leave))


async def test_a_late_fill_folds_the_whole_position_again(world: JournalWorld) -> None:
    late = await world.order(Side.BUY, 10)
    await world.sent(late)
    await world.hold(Side.BUY, 10, "110")
    leave = await world.order(Side.SELL, 10, Intent.EXIT)
    await world.sent(leave)
    await world.fill(leave, trade(10, "120"))
    assert (await world.position())["realized_pnl"] == Decimal(100)
    await world.fill(late, trade(10, "100", at=before(60)))
    position = await world.position()
    assert (position["quantity"], position["average_price"]) == (10, Decimal(105))
    assert position["realized_pnl"] == Decimal(150)
    assert sum(fill["realized_pnl"] for fill in await world.fills()) == Decimal(150)


async def test_a_fill_after_the_end_is_booked_and_the_end_stays(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.sent(order_id)
    await world.fill(order_id, status="CANCELLED")
    assert (await world.journal.load(order_id)).status is OrderStatus.CANCELLED
    await world.fill(order_id, trade(3), status="CANCELLED")
    found = await world.journal.load(order_id)
    assert (found.status, found.order["filled_quantity"]) == (OrderStatus.CANCELLED, 3)
    assert (await world.position())["quantity"] == 3


async def test_events_are_gapless_carry_the_full_state_and_go_to_their_topics(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.sent(order_id)
    await world.fill(order_id, trade(4), status="OPEN")
    await world.fill(order_id, trade(4), status="OPEN")
    rows = await world.events(order_id)
    assert [row["order_seq"] for row in rows] == [1, 2, 3, 4]
    assert [row["topic"].split(".", 1)[1] for row in rows] == [
        "orders.submitted",
        "orders.ack",
        "orders.filled",
        "orders.filled",
    ]
    assert {row["topic"].split(".")[0] for row in rows} == {world.journal.broker.value}
    last = decode(bytes(rows[-1]["value"])).data
    assert isinstance(last, OrderEvent)
    assert last.fill is not None
    assert (last.order.status, last.order.filled_quantity, last.order.sends[0].send_no) == ("PARTIALLY_FILLED", 8, 1)


# publishing -------------------------------------------------------------------------------------------------------


class _Log:
    """A producer that cannot take one order's events and takes all others."""

    def __init__(self, refuses: UUID) -> None:
        self._refuses = str(refuses).encode()
        self.taken: list[bytes] = []

    async def send_raw(self, topic: str, *, key: bytes, value: bytes, headers: object) -> None:
        if key == self._refuses:
            raise Transient("the log knows no such topic")
        self.taken.append(key)


async def test_one_orders_trouble_with_the_log_is_not_anothers(world: JournalWorld) -> None:
    sick, well = await world.order(), await world.order()
    for order_id in (sick, well):
        await world.sent(order_id)
    told: Any = _Log(sick)
    outbox = Outbox(world.engine, told)
    publishing = asyncio.create_task(outbox.run())
    try:
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(outbox.publish(sick), outbox.publish(well), return_exceptions=True)
    finally:
        publishing.cancel()
    assert isinstance(outcomes[0], Transient)
    assert outcomes[1] == 1
    assert [row["published_at"] is None for row in await world.events(sick)] == [True]
    assert [row["published_at"] is None for row in await world.events(well)] == [False]


async def test_a_hint_finds_the_order_with_the_correlation_it_began_with(world: JournalWorld) -> None:
    order_id = await world.order()
    broker_order_id = await world.sent(order_id)
    correlation_id = (await world.journal.load(order_id)).order["correlation_id"]
    for name, tag in ((broker_order_id, None), ("no such order", ids.order_tag(order_id, 1))):
        found = await world.journal.find_by_hint(name, tag)
        assert found is not None
        assert (found.order_id, found.correlation_id) == (order_id, correlation_id)
    assert await world.journal.find_by_hint("not ours", "their tag") is None
