"""What an order's workflow may ask of the log: publish what the journal holds, raise an alert. Safe to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import structlog
from temporalio import activity

from core import order_work
from core.alerts import Alerts
from core.order_work import AlertInput
from core.storage.outbox import Outbox
from core.trading.types import Broker


@dataclass(slots=True)
class JournalCalls:
    """The activities of one broker's orders queue."""

    outbox: Outbox
    alerts: Alerts
    broker: Broker

    @activity.defn(name=order_work.PUBLISH_EVENTS)
    async def publish_events(self, order_id: UUID) -> int:
        """Publish everything the order has unpublished now; returns how many events went out."""
        return await self.outbox.publish(order_id)

    @activity.defn(name=order_work.RAISE_ALERT)
    async def raise_alert(self, alert: AlertInput) -> None:
        structlog.contextvars.bind_contextvars(broker=self.broker.value, order_id=alert.subject)
        if alert.correlation_id is not None:
            structlog.contextvars.bind_contextvars(correlation_id=str(alert.correlation_id))
        await self.alerts.raise_(alert.kind, alert.subject, alert.message, alert.action)
