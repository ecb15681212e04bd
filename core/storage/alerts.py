"""Alerts and their deliveries in PostgreSQL: taken in once by their id, told by each channel at its own pace, kept as history.

Nothing here sends anything, and nothing knows a channel's URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.alerting.policy import KEPT_TRYING, SAME, Waiting
from core.clock import utc_now
from core.events.payloads import Alert
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_alerts import AlertChannelRow, AlertDeliveryRow, AlertRow

ALERTS = table_of(AlertRow)
DELIVERIES = table_of(AlertDeliveryRow)
CHANNELS = table_of(AlertChannelRow)

KEPT = timedelta(days=90)
"""How long history goes back (core/storage/tidy.py ends it)."""

ERROR_KEPT = 300


class Outcome(StrEnum):
    """What became of an alert on a channel."""

    WAITING = "WAITING"
    SENT = "SENT"
    CLEARED = "CLEARED"
    """No longer true when it would have been told."""

    FAILED = "FAILED"
    """Given up: too old, or its channel is no longer configured."""


@dataclass(frozen=True, slots=True)
class Told:
    """One alert on one channel, for people."""

    channel: str
    state: Outcome
    attempts: int
    error: str | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class History:
    """An alert and what became of it. `repeats`: the younger alert with the same words that was told instead."""

    alert_id: UUID
    kind: str
    subject: str
    message: str
    action: str
    source: str
    at: datetime
    repeats: UUID | None
    told: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class ChannelState:
    """`active`: in the settings of the alert-sender that runs, or ran last."""

    channel: str
    active: bool
    last_sent_at: datetime | None
    failing_since: datetime | None
    last_error: str | None
    waiting: int


async def take_in(
    engine: AsyncEngine,
    alert_id: UUID,
    alert: Alert,
    source: str,
    channels: Sequence[str],
    told: Mapping[str, str | None] | None = None,
    *,
    again: bool = True,
) -> bool:
    """Store an alert once, with what each channel still has to tell. False: it was here already.

    `told`: channels that were tried already, without this table, and their error or None; with `again` those that failed try once more.

    Raises:
        Transient: the database is away; nothing was stored.
    """
    now = utc_now()
    async with transient("storing an alert"), engine.begin() as connection:
        repeats = await _same_words(connection, alert) if told is None else None
        values = {"alert_id": alert_id, "source": source, "received_at": now, "repeats": repeats}
        values |= alert.model_dump(include={"kind", "subject", "message", "action", "details", "at"})
        stored = insert(ALERTS).values(**values).on_conflict_do_nothing().returning(ALERTS.c.alert_id)
        if (await connection.execute(stored)).one_or_none() is None:
            return False
        if repeats is None and channels:
            rows = [_delivery(alert_id, alert, name, told or {}, now, again) for name in channels]
            await connection.execute(insert(DELIVERIES).values(rows))
        return True


async def _same_words(connection: AsyncConnection, alert: Alert) -> UUID | None:
    query = (
        select(ALERTS.c.alert_id)
        .where(ALERTS.c.kind == alert.kind, ALERTS.c.subject == alert.subject, ALERTS.c.message == alert.message)
        .where(ALERTS.c.at.between(alert.at - SAME, alert.at + SAME), ALERTS.c.repeats.is_(None))
        .order_by(ALERTS.c.at.desc())
        .limit(1)
    )
    found: UUID | None = await connection.scalar(query)
    return found


def _delivery(
    alert_id: UUID, alert: Alert, channel: str, told: Mapping[str, str | None], now: datetime, again: bool
) -> dict[str, Any]:
    state, error = Outcome.WAITING, told.get(channel)
    if now - alert.at >= KEPT_TRYING:
        state, error = Outcome.FAILED, "older than a day when it was read"
    elif channel in told and error is None:
        state = Outcome.SENT
    elif channel in told and not again:
        state = Outcome.FAILED
    return {
        "alert_id": alert_id, "channel": channel, "kind": alert.kind, "state": state.value, "attempts": int(channel in told),
        "told_with": alert_id if state is Outcome.SENT else None, "error": error,
        "ended_at": None if state is Outcome.WAITING else now,
    }  # fmt: skip


async def waiting(engine: AsyncEngine, channel: str) -> list[Waiting]:
    """What a channel has not told yet; what is too old by now is given up. Raises Transient."""
    now = utc_now()
    here = and_(DELIVERIES.c.channel == channel, DELIVERIES.c.state == Outcome.WAITING.value)
    old = select(ALERTS.c.alert_id).where(ALERTS.c.at < now - KEPT_TRYING)
    names = ("alert_id", "kind", "subject", "message", "action", "at")
    query = (
        select(*(ALERTS.c[name] for name in names), DELIVERIES.c.attempts)
        .join(DELIVERIES, DELIVERIES.c.alert_id == ALERTS.c.alert_id)
        .where(here)
        .order_by(ALERTS.c.at)
    )
    async with transient("reading alerts that wait"), engine.begin() as connection:
        rows = [Waiting(**row) for row in (await connection.execute(query)).mappings()]
        if any(now - row.at > KEPT_TRYING for row in rows):
            given_up = func.concat("given up after a day; ", func.coalesce(DELIVERIES.c.error, "quiet hours"))
            await connection.execute(
                update(DELIVERIES)
                .where(here, DELIVERIES.c.alert_id.in_(old))
                .values(state=Outcome.FAILED.value, error=given_up, ended_at=now)
            )
    return [row for row in rows if now - row.at <= KEPT_TRYING]


async def last_told(engine: AsyncEngine, channel: str, since: datetime) -> dict[str, datetime]:
    """Kind → when a message of it last went out on this channel. Raises Transient."""
    query = (
        select(DELIVERIES.c.kind, func.max(DELIVERIES.c.ended_at))
        .where(
            DELIVERIES.c.channel == channel, DELIVERIES.c.state == Outcome.SENT.value, DELIVERIES.c.ended_at >= since
        )
        .group_by(DELIVERIES.c.kind)
    )
    async with transient("reading alerts told"), engine.connect() as connection:
        rows = (await connection.execute(query)).all()
    return {str(kind): at for kind, at in rows}


async def attempt(engine: AsyncEngine, channel: str, alerts: Iterable[UUID]) -> None:
    """Count a try before it is made. Raises Transient: then none is made."""
    async with transient("counting a try of an alert"), engine.begin() as connection:
        await connection.execute(
            update(DELIVERIES).where(_these(channel, alerts)).values(attempts=DELIVERIES.c.attempts + 1)
        )


async def settle(
    engine: AsyncEngine, channel: str, alerts: Sequence[UUID], state: Outcome, error: str | None = None
) -> None:
    """Write what a try came to; WAITING with an error is tried again. `alerts` begins with the one whose words led.

    Raises:
        Transient: the database is away.
    """
    now = utc_now()
    over = state is not Outcome.WAITING
    values = {
        "state": state.value,
        "error": error and error[:ERROR_KEPT],
        "ended_at": now if over else None,
        "told_with": alerts[0] if state is Outcome.SENT else None,
    }
    async with transient("writing what became of an alert"), engine.begin() as connection:
        await connection.execute(update(DELIVERIES).where(_these(channel, alerts)).values(**values))
        if state is Outcome.SENT:
            await _say(connection, channel, {"last_sent_at": now, "failing_since": None, "last_error": None})
        elif error is not None:
            since = func.coalesce(CHANNELS.c.failing_since, now)
            await _say(connection, channel, {"failing_since": since, "last_error": error[:ERROR_KEPT]})


async def _say(connection: AsyncConnection, channel: str, values: dict[str, Any]) -> None:
    await connection.execute(update(CHANNELS).where(CHANNELS.c.channel == channel).values(**values))


def _these(channel: str, alerts: Iterable[UUID]) -> ColumnElement[bool]:
    return and_(DELIVERIES.c.channel == channel, DELIVERIES.c.alert_id.in_(list(alerts)))


async def begin(engine: AsyncEngine, channels: Sequence[str]) -> None:
    """At the start: these channels are active; what waits for one that is gone is given up. Raises Transient."""
    now = utc_now()
    async with transient("preparing the alert channels"), engine.begin() as connection:
        await connection.execute(update(CHANNELS).values(active=CHANNELS.c.channel.in_(channels)))
        for name in channels:
            row = insert(CHANNELS).values(channel=name, active=True)
            await connection.execute(row.on_conflict_do_nothing())
        await connection.execute(
            update(DELIVERIES)
            .where(DELIVERIES.c.state == Outcome.WAITING.value, DELIVERIES.c.channel.not_in(channels))
            .values(state=Outcome.FAILED.value, error="its channel is no longer in ALERT_URLS", ended_at=now)
        )


async def channel_states(engine: AsyncEngine) -> list[ChannelState]:
    """How every channel there ever was is, the active ones first. Raises Transient."""
    count = (
        select(func.count())
        .where(DELIVERIES.c.channel == CHANNELS.c.channel, DELIVERIES.c.state == Outcome.WAITING.value)
        .scalar_subquery()
    )
    query = select(CHANNELS, count.label("waiting")).order_by(CHANNELS.c.active.desc(), CHANNELS.c.channel)
    async with transient("reading the alert channels"), engine.connect() as connection:
        return [ChannelState(**row) for row in (await connection.execute(query)).mappings()]


async def history(
    engine: AsyncEngine,
    *,
    kind: str | None = None,
    since: datetime | None = None,
    before: tuple[datetime, UUID] | None = None,
    state: Outcome | None = None,
    limit: int = 50,
) -> list[History]:
    """Alerts with what became of them, newest first; `before` is the last one of the page before. Raises Transient."""
    query = select(ALERTS).order_by(ALERTS.c.at.desc(), ALERTS.c.alert_id.desc()).limit(limit)
    if kind is not None:
        query = query.where(ALERTS.c.kind == kind)
    if since is not None:
        query = query.where(ALERTS.c.at >= since)
    if before is not None:
        at, alert_id = before
        query = query.where((ALERTS.c.at < at) | ((ALERTS.c.at == at) & (ALERTS.c.alert_id < alert_id)))
    if state is not None:
        some = select(DELIVERIES.c.alert_id).where(DELIVERIES.c.state == state.value)
        query = query.where(ALERTS.c.alert_id.in_(some))
    async with transient("reading alerts"), engine.connect() as connection:
        rows = (await connection.execute(query)).mappings().all()
        wanted = [row["alert_id"] for row in rows]
        told = select(DELIVERIES).where(DELIVERIES.c.alert_id.in_(wanted)).order_by(DELIVERIES.c.channel)
        found: dict[UUID, list[Told]] = {alert_id: [] for alert_id in wanted}
        for each in (await connection.execute(told)).mappings():
            outcome = Told(each["channel"], Outcome(each["state"]), each["attempts"], each["error"], each["ended_at"])
            found[each["alert_id"]].append(outcome)
    names = ("alert_id", "kind", "subject", "message", "action", "source", "at", "repeats")
    return [History(**{name: row[name] for name in names}, told=tuple(found[row["alert_id"]])) for row in rows]
