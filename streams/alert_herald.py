"""Raises what the alert-sender itself finds out: stored first, then published; told directly where the database is away.

Never loses such an alert while the process lives, and never tells one twice for being stored late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids, logging
from core.alerting import policy
from core.alerting.channels import Channel, ChannelFailed
from core.alerting.kinds import Severity, severity_of
from core.alerts import Alerts
from core.clock import utc_now
from core.errors import Transient
from core.events.payloads import Alert
from core.storage import alerts as storage

DIRECT_EVERY_S = 60.0
MOST_KEPT = 100

log = logging.get(__name__)

Kept = tuple[UUID, Alert, dict[str, str | None]]


class Herald:
    """One of these a process. `wake`: called when a channel has something new to tell."""

    def __init__(
        self,
        engine: AsyncEngine,
        alerts: Alerts,
        source: str,
        channels: Sequence[Channel],
        where: str,
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._alerts = alerts
        self._source = source
        self._channels = channels
        self._where = where
        self._wake = wake
        self._kept: list[Kept] = []
        self._direct_at = float("-inf")

    async def raise_(self, kind: str, subject: str, message: str, action: str, *, cause: UUID | None = None) -> None:
        """`cause`: what it follows from; raised twice for the same cause it is one alert. Where the database is away it is kept."""
        identity, alert = self._make(kind, subject, message, action, cause)
        try:
            await self._take(identity, alert, None)
        except Transient as error:
            await self._without_database(identity, alert, str(error))

    async def raise_stored(
        self, kind: str, subject: str, message: str, action: str, *, cause: UUID, at: datetime
    ) -> None:
        """For what is read from the log, which gives it again; `at` is when it happened. Raises Transient while the database is away."""
        identity, alert = self._make(kind, subject, message, action, cause, at)
        await self._take(identity, alert, None)

    async def catch_up(self) -> None:
        """Store what was kept while the database was away. Raises Transient: it still is."""
        while self._kept:
            await self._take(*self._kept[0])
            del self._kept[0]

    def _make(
        self, kind: str, subject: str, message: str, action: str, cause: UUID | None, at: datetime | None = None
    ) -> tuple[UUID, Alert]:
        identity = ids.new_id() if cause is None else ids.derive(cause, "alert", kind)
        return identity, Alert(kind=kind, subject=subject, message=message, action=action, at=at or utc_now())

    async def _take(self, identity: UUID, alert: Alert, told: dict[str, str | None] | None) -> None:
        names = [channel.name for channel in self._channels]
        if await storage.take_in(self._engine, identity, alert, self._source, names, told or None):
            self._alerts.raise_as(identity, alert)
            self._wake()

    async def _without_database(self, identity: UUID, alert: Alert, why: str) -> None:
        """Kept for later; the gravest are told now, at most one a minute."""
        log.error("alert kept: it cannot be stored", kind=alert.kind, message=alert.message, reason=why)
        told: dict[str, str | None] = {}
        now = time.monotonic()
        if severity_of(alert.kind) is Severity.CRITICAL and now - self._direct_at >= DIRECT_EVERY_S:
            self._direct_at = now
            told = await self._tell_now(identity, alert)
        if len(self._kept) >= MOST_KEPT:
            log.error("too many alerts kept: the oldest is only in this log", kind=self._kept[0][1].kind)
            del self._kept[0]
        self._kept.append((identity, alert, told))

    async def _tell_now(self, identity: UUID, alert: Alert) -> dict[str, str | None]:
        words = policy.Waiting(identity, alert.kind, alert.subject, alert.message, alert.action, alert.at)
        bundle = policy.Bundle(alert.kind, (words,))
        errors = await asyncio.gather(*(self._tell(channel, bundle) for channel in self._channels))
        return {channel.name: error for channel, error in zip(self._channels, errors, strict=True)}

    async def _tell(self, channel: Channel, bundle: policy.Bundle) -> str | None:
        try:
            await channel.send(policy.title(bundle, self._where), policy.body(bundle), bundle.severity)
        except ChannelFailed as error:
            log.warning("alert not taken", channel=channel.name, reason=str(error))
            return str(error)
        return None
