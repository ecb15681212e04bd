"""What must hold before a start: no broker is switched off while it has open business."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from cli import checks
from core import routing
from core.config import Settings
from core.errors import StopTheStart
from core.storage.roles import connect_admin
from core.trading.types import Broker

pytestmark = pytest.mark.stack

OFF = next(broker for broker in Broker if broker is not Broker.PAPER)


@pytest.fixture
def paper_only(settings: Settings) -> Settings:
    return settings.model_copy(update={"active_brokers": (Broker.PAPER,)})


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_admin(settings)
    yield connection
    await connection.close()


@pytest.fixture
async def held(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """One unit held on the broker that is switched off; its name comes first whatever other tests left there."""
    schema = routing.schema(OFF)
    await admin.execute(
        f'INSERT INTO "{schema}".positions (instance, instrument_token, product, account, instrument, quantity,'
        " average_price, realized_pnl, charges, updated_at)"
        " VALUES ('stack-check', 1, 'MIS', 'AP0001', 'BSE:AAA', 1, 1500, 0, 0, now())"
    )
    yield
    await admin.execute(f"DELETE FROM \"{schema}\".positions WHERE instance = 'stack-check'")


@pytest.mark.usefixtures("held")
async def test_a_broker_with_a_position_cannot_be_switched_off(paper_only: Settings) -> None:
    with pytest.raises(StopTheStart) as caught:
        await checks.inactive_brokers(paper_only)
    text = str(caught.value)
    assert "1 BSE:AAA MIS" in text
    assert "ACTIVE_BROKERS" in text


@pytest.mark.usefixtures("held")
async def test_a_broker_that_stays_on_may_hold_what_it_likes(settings: Settings) -> None:
    await checks.inactive_brokers(settings)
