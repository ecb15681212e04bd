"""After a restore: nothing decided before the backup is sent, what may have been sent is asked of the book, and real money is off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import select

from core import ids
from core.clock import trading_day, utc_now
from core.config import Settings
from core.people.roles import Role
from core.storage import audit, roles, sessions, users
from core.storage.claims import ClaimResult
from core.storage.commands import CommandKind, CommandOutcome, read_command, request_command
from core.storage.db import broker_engine, config_engine
from core.storage.journal import ORDERS, SENDS
from core.storage.kill import KillRecord, engage, kill_state, release, unfinished_kills
from core.storage.migrate import migrate
from core.storage.restored import Doubted, doubt, end_sessions, take_opt_ins
from core.storage.roles import connect_admin
from core.storage.strategies import StrategyConfig, load_strategies, save_strategy
from core.trading.types import Broker, Intent, OrderStatus, SendState, Side
from tests.fixtures.people import TESTER
from tests.journal_world import ACCOUNT, JournalWorld, trade

pytestmark = pytest.mark.stack

ZERODHA = Broker.ZERODHA
WHY = "restored from a backup"


@pytest.fixture
async def apart(settings: Settings) -> AsyncIterator[Settings]:
    """A database of its own: what is doubted here is all there is."""
    own = settings.model_copy(update={"postgres_database": f"apart_{ids.new_id().hex}"})
    await roles.prepare(own)
    await migrate(own)
    await roles.grant(own)
    yield own
    admin = await connect_admin(settings)
    await admin.execute(f'DROP DATABASE "{own.postgres_database}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
async def world(apart: Settings) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(apart, ZERODHA)
    yield await JournalWorld.make(engine, ZERODHA)
    await engine.dispose()


async def doubted(world: JournalWorld) -> Doubted:
    return await doubt(world.engine, ACCOUNT, utc_now() - timedelta(minutes=10), WHY)


async def test_what_was_only_meant_may_have_been_sent_and_nobody_sends_it(world: JournalWorld) -> None:
    """Both intents. It is looked up by its tag; where it is not found it ends, and an exit opens nothing that is sent either."""
    await world.hold(Side.BUY, 10)
    entry, leave = await world.order(), await world.order(Side.SELL, intent=Intent.EXIT)
    assert await doubted(world) == Doubted(2, 2, 0, 0)
    for order_id in (entry, leave):
        assert (await world.claim(order_id)).result in {ClaimResult.ALREADY, ClaimResult.IN_DOUBT}
        found = await world.journal.unknown(order_id, 1, "claimed before")
        assert (found.status, found.send["state"]) == (OrderStatus.UNKNOWN, SendState.UNKNOWN)
        assert found.send["trading_day"] == trading_day(utc_now() - timedelta(minutes=10))
    assert (await world.journal.absent(entry, 1, "not in the book")).status is OrderStatus.EXPIRED
    await world.journal.absent(leave, 1, "not in the book")
    assert (await world.claim(leave, 2)).result is ClaimResult.CANCELLED


async def test_an_exit_at_the_broker_is_followed_to_its_end_and_no_further(world: JournalWorld) -> None:
    """It would go on with what was filled since it was sent, and may have done so after the backup."""
    await world.hold(Side.BUY, 10)
    leave = await world.order(Side.SELL, 20, intent=Intent.EXIT)
    claim = await world.claim(leave)
    assert (claim.result, claim.quantity) == (ClaimResult.CLAIMED, 10)
    await world.journal.submitted(leave, 1, "B1", "accepted")
    assert await doubted(world) == Doubted(1, 0, 0, 0)
    found = await world.fill(leave, trade(10), quantity=10)
    assert (found.order["filled_quantity"], found.send["send_no"]) == (10, 1)
    assert (await world.claim(leave, 2)).result is not ClaimResult.CLAIMED


async def test_what_has_ended_and_what_was_sent_stays_as_it_is(world: JournalWorld) -> None:
    over, sent = await world.order(), await world.order()
    await world.journal.end_unsent(over, OrderStatus.EXPIRED, "too old")
    await world.sent(sent)
    before = [(await world.journal.load(each)).send for each in (over, sent)]
    assert await doubted(world) == Doubted(1, 0, 0, 0)
    assert [(await world.journal.load(each)).send for each in (over, sent)] == before


async def test_asked_again_it_changes_nothing_more(world: JournalWorld) -> None:
    await world.order()
    await doubted(world)
    async with world.engine.connect() as connection:
        rows = (
            await connection.execute(select(ORDERS, SENDS).join(SENDS, ORDERS.c.order_id == SENDS.c.order_id))
        ).all()
        assert (await doubted(world)).maybe_sent == 0
        again = await connection.execute(select(ORDERS, SENDS).join(SENDS, ORDERS.c.order_id == SENDS.c.order_id))
        assert again.all() == rows


async def test_entries_are_bound_until_a_person_lifts_it(world: JournalWorld) -> None:
    await doubted(world)
    new = await world.order()
    assert (await world.claim(new)).result is ClaimResult.KILLED
    assert (await kill_state(world.engine, ACCOUNT)).account_flag == WHY
    assert await release(world.engine, ACCOUNT, None, by="meera", reason="looked", force=False) == []
    assert (await world.claim(new)).result is ClaimResult.CLAIMED


async def test_no_modify_and_no_kill_switch_is_carried_out_again_but_a_cancel_is(world: JournalWorld) -> None:
    order_id = await world.order()
    await world.sent(order_id)
    asked = {"order_id": order_id, "requested_by": "meera", "reason": "a test"}
    ids_of = {kind: ids.new_id() for kind in (CommandKind.MODIFY, CommandKind.CANCEL)}
    for kind, request_id in ids_of.items():
        given = {"price": "100"} if kind is CommandKind.MODIFY else {}
        await request_command(world.engine, request_id=request_id, kind=kind, parameters=given, **asked)
    none = dict.fromkeys(("finished_at", "report", "released_at", "released_by", "release_reason"))
    kill = KillRecord(ids.new_id(), ACCOUNT, None, "meera", "a test", False, utc_now(), **none)
    await engage(world.engine, kill)
    assert await doubted(world) == Doubted(1, 0, 1, 1)
    assert await unfinished_kills(world.engine) == []
    modify, cancel = [await read_command(world.engine, ids_of[k]) for k in (CommandKind.MODIFY, CommandKind.CANCEL)]
    assert modify is not None
    assert (modify.outcome, "may have been carried out" in (modify.evidence or "")) == (
        CommandOutcome.NOT_APPLIED,
        True,
    )
    assert cancel is not None
    assert not cancel.is_finished


async def test_opt_ins_and_sessions_end_and_the_audit_says_so(apart: Settings) -> None:
    engine = config_engine(apart)
    try:
        for name, opt_ins in (("real", {"zerodha": "local"}), ("paper-only", {})):
            await save_strategy(engine, StrategyConfig(name, "Momentum", {}, ("NSE:INFY",), True, opt_ins=opt_ins))
        user = await users.add_user(engine, TESTER, "meera", Role.TRADER, "a-password-of-hers")
        session = await sessions.begin(engine, user.user_id, user.name, user.role, "here")
        assert await take_opt_ins(engine, TESTER, WHY) == ["real"]
        assert {row.strategy_id: (row.opt_ins, row.active) for row in await load_strategies(engine)} == {
            "real": ({}, True),
            "paper-only": ({}, True),
        }
        (row,) = await audit.entries(engine, action="strategy.opt-out")
        assert (row.subject, row.reason, row.before) == ("real", WHY, {"opt_ins": {"zerodha": "local"}})
        assert await end_sessions(engine) == 1
        with pytest.raises(sessions.NotLoggedIn):
            await sessions.live(engine, session.session_id, user.user_id)
    finally:
        await engine.dispose()
