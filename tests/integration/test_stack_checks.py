"""What must hold before a start: no open business left alone, of a broker switched off or of another account or target."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from cli import checks
from core import ids, routing
from core.config import Settings
from core.errors import StopTheStart
from core.storage import roles
from core.storage.db import broker_engine
from core.storage.migrate import migrate
from core.storage.roles import connect_admin
from core.trading.types import Broker, KiteTarget, OrderStatus, Side
from tests.journal_world import JournalWorld, trade

pytestmark = pytest.mark.stack

OFF = next(broker for broker in Broker if broker is not Broker.PAPER)


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_admin(settings)
    yield connection
    await connection.close()


@pytest.fixture
async def apart(admin: asyncpg.Connection, settings: Settings) -> AsyncIterator[Settings]:
    """A database of its own with a schema and nothing else: other tests leave open orders behind."""
    own = settings.model_copy(update={"postgres_database": f"apart_{ids.new_id().hex}"})
    await roles.prepare(own)
    await migrate(own)
    await roles.grant(own)
    yield own
    await admin.execute(f'DROP DATABASE "{own.postgres_database}" WITH (FORCE)')


@pytest.fixture
async def world(apart: Settings) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(apart, OFF)
    yield await JournalWorld.make(engine, OFF)
    await engine.dispose()


def as_user(settings: Settings, user: str, target: str) -> Settings:
    return settings.model_copy(update={"kite_user_id": user, "kite_target": KiteTarget(target)})


async def test_a_broker_with_a_position_cannot_be_switched_off(apart: Settings) -> None:
    connection = await connect_admin(apart)
    await connection.execute(
        f'INSERT INTO "{routing.schema(OFF)}".positions (instance, instrument_token, product, account, instrument, quantity,'
        " average_price, realized_pnl, charges, updated_at)"
        " VALUES ('stack-check', 1, 'MIS', 'AP0001', 'BSE:AAA', 1, 1500, 0, 0, now())"
    )
    await connection.close()
    with pytest.raises(StopTheStart) as caught:
        await checks.nothing_left_alone(apart.model_copy(update={"active_brokers": (Broker.PAPER,)}))
    text = str(caught.value)
    assert "1 BSE:AAA MIS" in text
    assert "ACTIVE_BROKERS" in text


async def test_a_broker_with_an_open_order_cannot_be_switched_off(world: JournalWorld, apart: Settings) -> None:
    order_id = await world.order()
    off = apart.model_copy(update={"active_brokers": (Broker.PAPER,)})
    with pytest.raises(StopTheStart, match=f"leaves out {OFF}, which still has 1 open orders"):
        await checks.nothing_left_alone(off)
    await world.journal.end_unsent(order_id, OrderStatus.CANCELLED, "a test")
    await checks.nothing_left_alone(off)


async def test_an_open_order_of_another_account_or_target_stops_the_start(world: JournalWorld, apart: Settings) -> None:
    order_id = await world.order(account="AB0001", target="local")
    await checks.nothing_left_alone(as_user(apart, "AB0001", "local"))
    for user, target in (("AB0001", "production"), ("ZZ9999", "local")):
        with pytest.raises(StopTheStart, match="1 open orders") as caught:
            await checks.nothing_left_alone(as_user(apart, user, target))
        text = str(caught.value)
        assert f"account {user} on {target}" in text
        assert "Put KITE_TARGET=local and KITE_USER_ID=AB0001 back" in text
    await world.journal.end_unsent(order_id, OrderStatus.CANCELLED, "a test")
    await checks.nothing_left_alone(as_user(apart, "AB0001", "production"))


async def test_a_position_of_another_target_stops_the_start_until_it_is_flat(
    world: JournalWorld, apart: Settings
) -> None:
    """What is held now counts, not what the same instance once held on another target."""
    await _trade(world, Side.BUY, "local")
    with pytest.raises(StopTheStart, match=r"account AB0001 on local still has 1 positions \(10 NSE:INFY MIS\)"):
        await checks.nothing_left_alone(as_user(apart, "AB0001", "production"))
    await _trade(world, Side.SELL, "local")
    await checks.nothing_left_alone(as_user(apart, "AB0001", "production"))
    await _trade(world, Side.BUY, "production", "ZZ9999")
    await checks.nothing_left_alone(as_user(apart, "ZZ9999", "production"))
    for user, target in (("ZZ9999", "local"), ("AB0001", "production")):
        with pytest.raises(StopTheStart, match="account ZZ9999 on production still has"):
            await checks.nothing_left_alone(as_user(apart, user, target))


async def _trade(world: JournalWorld, side: Side, target: str, account: str = "AB0001") -> None:
    order_id = await world.order(side, account=account, target=target)
    await world.sent(order_id)
    await world.fill(order_id, trade(10))


async def test_a_database_that_is_not_there_yet_stops_nothing(settings: Settings) -> None:
    await checks.nothing_left_alone(settings.model_copy(update={"postgres_database": "not_there_yet"}))
