"""What a person should know: a log line (ERROR, or INFO where it is no trouble), a metric, an event on `alerts`.

Never blocks or fails what raised it.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from core import ids, logging, metrics
from core.alerting.kinds import Severity, severity_of
from core.clock import utc_now
from core.errors import AlphaPandaError
from core.events.envelope import EventType, make
from core.events.payloads import Alert
from core.events.topics import ALERTS
from core.messaging.producer import EventProducer

MAX_OPEN = 100
"""Alerts not yet on the log; more than these are only in the process's own log and metric."""

log = logging.get(__name__)


class Alerts:
    """Raises alerts in the name of `source` (a service)."""

    def __init__(self, producer: EventProducer, source: str) -> None:
        self._producer = producer
        self._source = source
        self._open: set[asyncio.Task[None]] = set()

    async def raise_(self, kind: str, subject: str, message: str, action: str, **details: str) -> None:
        """`kind` groups alerts, `subject` says about what, `action` what a person should do. Returns at once."""
        alert = Alert(kind=kind, subject=subject, message=message, action=action, at=utc_now(), details=details)
        self.raise_as(ids.new_id(), alert)

    def raise_as(self, identity: UUID, alert: Alert) -> None:
        """The same under an id derived from its cause: raised twice it is one alert. Returns at once."""
        kind, subject = alert.kind, alert.subject
        tell = log.info if severity_of(kind) is Severity.INFO else log.error
        tell("ALERT", kind=kind, subject=subject, message=alert.message, action=alert.action, details=alert.details)
        metrics.alerts.labels(kind).inc()
        if len(self._open) >= MAX_OPEN:
            log.error("alert not published: the log is away and too many wait", kind=kind, subject=subject)
            return
        task = asyncio.create_task(self._publish(identity, alert), name=f"alert {kind}")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def drain(self, timeout_s: float = 3.0) -> None:
        """Before a process ends: give the open alerts a moment to reach the log."""
        if self._open:
            await asyncio.wait(self._open, timeout=timeout_s)

    async def _publish(self, identity: UUID, alert: Alert) -> None:
        event = make(
            EventType.ALERT,
            alert,
            id=identity,
            key=alert.kind,
            source=self._source,
            correlation_id=identity,
            ts=alert.at,
        )
        try:
            await self._producer.send(ALERTS, event)
        except (AlphaPandaError, OSError) as error:
            log.error("alert not published", kind=alert.kind, subject=alert.subject, error=str(error))
