"""The kill switch on a real journal: flags that bind in decision and claim, cancels and exits that may be repeated, FOREIGN sent once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from activities.kill_calls import record_of
from core.brokers.port import BrokerPosition
from core.config import Settings
from core.errors import NotPlaced, OutcomeUnknown
from core.kill_work import AccountOrder
from core.storage import kill as store
from core.storage.claims import ClaimResult
from core.storage.kill_foreign import foreign_sends
from core.storage.risk import RiskJournal
from core.trading.types import Exchange, Intent, Product, Side
from tests.integration.kill_world import INFY_TOKEN, Account, KillWorld, book_row, close, kill_world, position
from tests.journal_world import trade

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[KillWorld]:
    async with kill_world(stack) as one:
        yield one


def strategy(world: KillWorld) -> str:
    return world.journal.instance.split("@")[0]


# the flag ---------------------------------------------------------------------------------------------------------


async def test_a_strategys_flag_binds_its_entries_in_the_claim_and_nobody_elses(world: KillWorld) -> None:
    await world.hold(Side.BUY, 10)
    entry, other = await world.order(), await world.order(strategy_id="another")
    leave = await world.order(Side.SELL, intent=Intent.EXIT)
    await world.engage(world.kill(strategy_id=strategy(world)))
    assert (await world.journal.claim(entry)).result is ClaimResult.KILLED
    assert (await world.journal.claim(leave)).result is ClaimResult.CLAIMED
    assert (await world.journal.claim(other)).result is ClaimResult.CLAIMED


async def test_a_strategys_flag_reaches_the_risk_managers_decision(world: KillWorld) -> None:
    await world.engage(world.kill(strategy_id="stopped"))
    async with RiskJournal(world.journal.engine, world.account).turn() as turn:
        assert turn.killed("stopped") == "a test (tester)"
        assert turn.killed("another") is None


async def test_the_accounts_flag_binds_every_entry(world: KillWorld) -> None:
    entry = await world.order()
    await world.engage(world.kill())
    assert (await world.journal.claim(entry)).result is ClaimResult.KILLED
    async with RiskJournal(world.journal.engine, world.account).turn() as turn:
        assert turn.killed("anything") is not None


async def test_engaging_again_is_the_same_switch_until_it_has_finished(world: KillWorld) -> None:
    engine, first = world.journal.engine, world.kill()
    one = await store.engage(engine, record_of(first))
    assert (await store.engage(engine, record_of(first))).kill_id == one.kill_id
    assert (await store.engage(engine, record_of(world.kill()))).kill_id == one.kill_id
    await store.finish_kill(engine, one.kill_id, {})
    another = await store.engage(engine, record_of(world.kill()))
    assert another.kill_id != one.kill_id


async def test_release_is_refused_while_it_works_and_lifts_only_its_own_scope(world: KillWorld) -> None:
    engine = world.journal.engine
    await world.engage(world.kill())
    await world.engage(world.kill(strategy_id="slow"))
    with pytest.raises(store.KillBusy, match="has not finished"):
        await store.release(engine, world.account, None, by="me", reason="enough", force=False)
    (record,) = await store.release(engine, world.account, None, by="me", reason="enough", force=True)
    assert (record.released_by, record.release_reason) == ("me", "enough")
    state = await store.kill_state(engine, world.account)
    assert state.account_flag is None
    assert set(state.strategy_flags) == {"slow"}


async def test_a_late_retry_never_sets_a_released_flag_again(world: KillWorld) -> None:
    engine, kill = world.journal.engine, world.kill()
    await world.engage(kill)
    await store.release(engine, world.account, None, by="me", reason="enough", force=True)
    await world.engage(kill)
    assert (await store.kill_state(engine, world.account)).account_flag is None
    assert (await world.exits(kill)).released


# cancels ----------------------------------------------------------------------------------------------------------


async def test_every_open_order_is_cancelled_once_however_often_the_step_runs(world: KillWorld) -> None:
    entry = await world.order()
    exit_ = await world.order(Side.SELL, intent=Intent.EXIT)
    kill = world.kill()
    await world.engage(kill)
    for _ in range(3):
        told = await world.cancel(kill)
    asked = [row for row in await world.commands() if row["order_id"] in {entry, exit_}]
    assert {row["order_id"] for row in asked} == {entry, exit_}
    assert len(asked) == 2
    assert any("workflow is gone" in line for line in told)
    assert (await world.journal.claim(entry)).result in {ClaimResult.CANCELLED, ClaimResult.KILLED}


async def test_one_strategys_switch_cancels_its_orders_alone(world: KillWorld) -> None:
    mine, other = await world.order(), await world.order(strategy_id="another")
    kill = world.kill(strategy_id=strategy(world))
    await world.engage(kill)
    await world.cancel(kill)
    asked = {row["order_id"] for row in await world.commands()}
    assert mine in asked
    assert other not in asked


async def test_its_own_exits_are_not_cancelled_while_fresh(world: KillWorld) -> None:
    order_id = await world.order(Side.SELL, intent=Intent.EXIT, source="kill")
    kill = world.kill()
    await world.engage(kill)
    await world.cancel(kill)
    assert order_id not in {row["order_id"] for row in await world.commands()}


async def test_after_a_release_it_cancels_nothing_more(world: KillWorld) -> None:
    kill = world.kill()
    await world.engage(kill)
    await store.release(world.journal.engine, world.account, None, by="me", reason="enough", force=True)
    order_id = await world.order()
    await world.cancel(kill)
    assert order_id not in {row["order_id"] for row in await world.commands()}


# exits ------------------------------------------------------------------------------------------------------------


async def test_an_exit_asked_for_twice_is_one_signal(world: KillWorld) -> None:
    await world.hold(Side.BUY, 10)
    kill = world.kill()
    await world.engage(kill)
    first = await world.exits(kill, ("NSE:INFY", 10))
    again = await world.exits(kill, ("NSE:INFY", 10))
    assert (first.exits, again.exits) == (1, 1)
    (topic, one), (_, two) = world.log.sent
    assert topic == "zerodha.signals.raw"
    assert one.id == two.id
    signal: Any = one.data
    assert (signal.side, signal.quantity, signal.intent, signal.source) == (Side.SELL, 10, Intent.EXIT, "kill")
    assert signal.instance == world.journal.instance


async def test_while_its_order_works_no_other_is_asked_for_and_after_a_short_end_the_next_one_is(
    world: KillWorld,
) -> None:
    await world.hold(Side.BUY, 10)
    kill = world.kill()
    await world.engage(kill)
    await world.exits(kill, ("NSE:INFY", 10))
    order_id = await world.decided(world.log.sent[0][1], accepted=True)
    assert order_id is not None
    view = await world.exits(kill, ("NSE:INFY", 10))
    assert (view.exits, view.nets[0].exiting, view.is_flat) == (0, 10, False)
    await world.journal.sent(order_id)
    await world.journal.fill(order_id, trade(4), status="CANCELLED")
    view = await world.exits(kill, ("NSE:INFY", 6))
    assert view.exits == 1
    first, second = world.log.sent[0][1], world.log.sent[-1][1]
    assert first.id != second.id
    signal: Any = second.data
    assert signal.quantity == 6


async def test_a_denied_exit_is_told_and_not_asked_for_at_once(world: KillWorld) -> None:
    await world.hold(Side.BUY, 10)
    kill = world.kill()
    await world.engage(kill)
    await world.exits(kill, ("NSE:INFY", 10))
    await world.decided(world.log.sent[0][1], accepted=False)
    view = await world.exits(kill, ("NSE:INFY", 10))
    assert view.exits == 0
    assert "INSTRUMENT: not listed" in view.waits[0]


async def test_no_exit_goes_while_an_order_of_the_instrument_is_in_doubt(world: KillWorld) -> None:
    await world.hold(Side.BUY, 10)
    kill = world.kill()
    doubt = await world.order()
    await world.journal.claim(doubt)
    await world.journal.journal.unknown(doubt, 1, "read timeout")
    await world.engage(kill)
    view = await world.exits(kill, ("NSE:INFY", 10))
    assert view.exits == 0
    assert "UNKNOWN" in view.waits[0]
    await world.journal.journal.unresolved(doubt, 1, "the day is over")
    assert "UNRESOLVED" in (await world.exits(kill, ("NSE:INFY", 10))).stuck[0]


async def test_it_never_sells_past_the_brokers_net_and_says_so(world: KillWorld) -> None:
    await world.hold(Side.BUY, 10)
    kill = world.kill()
    await world.engage(kill)
    assert (await world.exits(kill, ("NSE:INFY", 4))).exits == 1
    signal: Any = world.log.sent[0][1].data
    assert signal.quantity == 4
    world.log.sent.clear()
    view = await world.exits(kill)
    assert not world.log.sent
    assert "10 short" in view.stuck[0]
    assert not view.is_flat


async def test_foreign_orders_and_positions_are_listed_and_ours_are_not(world: KillWorld) -> None:
    await world.hold(Side.BUY, 10)
    ours = await world.order(Side.SELL, intent=Intent.EXIT)
    broker_order_id = await world.journal.sent(ours)
    kill = world.kill()
    await world.engage(kill)
    rows = [
        AccountOrder(broker_order_id=broker_order_id, tags=(), what="SELL 10 NSE:INFY"),
        AccountOrder(broker_order_id="in-the-app", tags=(), what="BUY 3 NSE:SBIN"),
    ]
    view = await world.exits(kill, ("NSE:INFY", 10), ("NSE:SBIN", 7), working=rows)
    assert view.foreign == ("order BUY 3 NSE:SBIN (in-the-app)", "position +7 NSE:SBIN MIS")
    assert not view.foreign_open


async def test_an_order_that_ended_here_and_works_at_the_broker_keeps_the_switch_at_work(world: KillWorld) -> None:
    order_id = await world.order()
    broker_order_id = await world.journal.sent(order_id)
    await world.journal.fill(order_id, status="CANCELLED")
    kill = world.kill()
    await world.engage(kill)
    row = AccountOrder(broker_order_id=broker_order_id, tags=(), what="BUY 10 NSE:INFY")
    assert not (await world.exits(kill, working=[row])).is_flat
    assert (await world.exits(kill)).is_flat


# FOREIGN ----------------------------------------------------------------------------------------------------------


async def test_foreign_is_touched_only_when_a_person_typed_so(world: KillWorld) -> None:
    account, kill = Account(), world.kill()
    account.rows, account.held = (book_row("app"),), (position(5),)
    await world.engage(kill)
    assert await close(world, account, kill) == ()
    assert (account.cancelled, account.placed) == ([], [])


async def test_foreign_orders_are_cancelled_first_and_then_positions_closed_once(world: KillWorld) -> None:
    account, kill = Account(), world.kill(include_foreign=True)
    account.rows, account.held = (book_row("app"),), (position(5),)
    await world.engage(kill)
    await close(world, account, kill)
    assert (account.cancelled, account.placed) == (["app"], [])
    account.rows = ()
    for _ in range(3):
        await close(world, account, kill)
    (request,) = account.placed
    assert request.leaves is not None, "its turn counts from when it leaves"
    assert (request.side, request.quantity, request.tradingsymbol) == (Side.SELL, 5, "SBIN")


@pytest.mark.parametrize("trouble", [OutcomeUnknown("read timeout"), RuntimeError("killed in the middle")])
async def test_a_foreign_exit_without_an_answer_is_never_sent_again(world: KillWorld, trouble: Exception) -> None:
    account, kill = Account(), world.kill(include_foreign=True)
    account.held, account.refusal = (position(5),), trouble
    await world.engage(kill)
    for _ in range(3):
        try:
            await close(world, account, kill)
        except RuntimeError:
            assert trouble.args == ("killed in the middle",)
    assert len(account.placed) == 1
    view = await world.exits(kill, ("NSE:SBIN", 5))
    assert view.foreign_open
    account.rows = (book_row("late", "COMPLETE", account.placed[0].tag, filled=5),)
    account.held = ()
    await close(world, account, kill)
    (send,) = await foreign_sends(world.journal.engine, kill.kill_id)
    assert (send["state"], send["broker_order_id"]) == ("DONE", "late")
    assert (await world.exits(kill)).is_flat


async def test_a_refused_foreign_exit_is_tried_again_a_few_times_and_told(world: KillWorld) -> None:
    account, kill = Account(), world.kill(include_foreign=True)
    account.held = (position(-5),)
    account.refusal = NotPlaced("margin", code="MARGIN", retryable=False)
    await world.engage(kill)
    for _ in range(8):
        told = await close(world, account, kill)
    assert len({request.tag for request in account.placed}) == len(account.placed) == 5
    assert account.placed[0].side is Side.BUY
    assert "5 exits did not close it" in told[0]


async def test_what_ours_holds_is_not_foreign(world: KillWorld) -> None:
    await world.hold(Side.BUY, 10)
    account, kill = Account(), world.kill(include_foreign=True)
    account.held = (BrokerPosition(Exchange.NSE, "INFY", INFY_TOKEN, Product.MIS, 14, Decimal(1500)),)
    await world.engage(kill)
    await close(world, account, kill)
    assert [request.quantity for request in account.placed] == [4]
