"""Lets go of what nobody can use any more: sessions long over with their tokens, answers to requests, old alerts and minutes of PnL.

Never touches the audit, users, keys or a session that may still be carried on, and never holds many rows in one transaction.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import trading_day
from core.storage import alerts as alert_storage
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_access import RefreshTokenRow, RequestRow, SessionRow
from core.storage.models_pnl import ViewPnlRow

SESSIONS = table_of(SessionRow)
REFRESH = table_of(RefreshTokenRow)
REQUESTS = table_of(RequestRow)
MINUTES = table_of(ViewPnlRow)

SESSIONS_KEPT = timedelta(days=30)
"""After their last day, for whoever looks into what happened."""

ANSWERS_KEPT = timedelta(days=30)
"""So long an Idempotency-Key means the request it was first given with."""

MINUTES_KEPT = timedelta(days=90)
"""Of the day's PnL; its fills are kept for ever."""

BATCH = 500
"""Rows of one transaction: nobody who logs in or acts waits behind more."""


async def sessions(engine: AsyncEngine, now: datetime) -> int:
    """Delete sessions that were over for good long ago, and their refresh tokens. Returns how many. Raises Transient."""
    done = 0
    while True:
        async with transient("letting go of old sessions"), engine.begin() as connection:
            old = select(SESSIONS.c.session_id).where(SESSIONS.c.expires_at < now - SESSIONS_KEPT)
            batch = (await connection.execute(old.limit(BATCH).with_for_update(skip_locked=True))).scalars().all()
            await connection.execute(delete(REFRESH).where(REFRESH.c.session_id.in_(batch)))
            await connection.execute(delete(SESSIONS).where(SESSIONS.c.session_id.in_(batch)))
        done += len(batch)
        if len(batch) < BATCH:
            return done


async def answers(engine: AsyncEngine, now: datetime) -> int:
    """Delete requests begun long ago with their answers. Returns how many. Raises Transient."""
    return await _old(engine, REQUESTS, REQUESTS.c.request_id, REQUESTS.c.begun_at < now - ANSWERS_KEPT)


async def alerts(engine: AsyncEngine, now: datetime) -> int:
    """Delete alerts, and what channels made of them, that history no longer shows. Returns how many. Raises Transient."""
    table = alert_storage.ALERTS
    return await _old(engine, table, table.c.alert_id, table.c.at < now - alert_storage.KEPT)


async def minutes(views: AsyncEngine, now: datetime) -> int:
    """Delete a broker's minutes of PnL of days long past, a day at a time. Returns how many. Raises Transient."""
    done = 0
    old = select(func.min(MINUTES.c.trading_day)).where(MINUTES.c.trading_day < trading_day(now - MINUTES_KEPT))
    while True:
        async with transient("letting go of old minutes of PnL"), views.begin() as connection:
            day = await connection.scalar(old)
            if day is None:
                return done
            done += (await connection.execute(delete(MINUTES).where(MINUTES.c.trading_day == day))).rowcount


async def _old(engine: AsyncEngine, table: Table, key: ColumnElement[object], old: ColumnElement[bool]) -> int:
    done = 0
    while True:
        async with transient(f"letting go of old rows of {table.name}"), engine.begin() as connection:
            batch = (
                (await connection.execute(select(key).where(old).limit(BATCH).with_for_update(skip_locked=True)))
                .scalars()
                .all()
            )
            await connection.execute(delete(table).where(key.in_(batch)))
        done += len(batch)
        if len(batch) < BATCH:
            return done
