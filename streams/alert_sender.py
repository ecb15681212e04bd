"""The service alert-sender: tells people what is on `alerts`, by the channels of ALERT_URLS, and pings the dead-man address.

Trading never waits for it: it only reads the log. An alert is stored before its offset is committed, and told from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from core import logging, metrics
from core.alerting.channels import AppriseChannel, channels
from core.alerting.policy import UNKNOWN, QuietHours, Waiting
from core.alerts import Alerts
from core.errors import Poison
from core.events import topics
from core.events.envelope import Envelope, decode
from core.events.payloads import Alert
from core.messaging.consumer import ConsumerRunner
from core.messaging.producer import EventProducer
from core.messaging.records import Handler, Record
from core.service import ServiceContext
from core.storage import alerts as storage
from core.storage import redis, views
from core.storage.db import config_engine, view_engine
from core.trading.types import OrderStatus
from core.waiting import pause, until_well
from streams.alert_delivery import Delivery
from streams.alert_herald import Herald
from streams.alert_watch import AlertWatch

SERVICE = "alert-sender"
WATCH = "alert-watch"
"""Its second consumer group: fills and refusals, from now on; `alerts` itself is read from the beginning."""

HEARTBEAT_S = 60.0
HEARTBEAT_BOUND_S = 10.0
END_S = 6.0
"""Of the time a process has to stop, what a message under way gets."""

log = logging.get(__name__)


async def main(ctx: ServiceContext) -> None:
    """Take in, tell, watch and ping until the stop."""
    sender = AlertSender(ctx, channels(ctx.settings.alert_urls.get_secret_value()))
    try:
        await sender.run()
    finally:
        await sender.close()


class AlertSender:
    """What the process holds."""

    def __init__(self, ctx: ServiceContext, tells: Sequence[AppriseChannel]) -> None:
        settings = ctx.settings
        self.ctx = ctx
        self.tells = list(tells)
        self.engine: AsyncEngine = config_engine(settings, pool_size=2 + len(self.tells))
        self.views = {broker: view_engine(settings, broker, pool_size=1) for broker in settings.active_brokers}
        self.producer = EventProducer(settings, client_id=SERVICE)
        self.alerts = Alerts(self.producer, SERVICE)
        self.where = f"{settings.kite_target}{', SIMULATED' if settings.simulated else ''}"
        self.herald = Herald(self.engine, self.alerts, SERVICE, self.tells, self.where, self.wake)
        self.cache = redis.client(settings)
        self.watch = AlertWatch(settings, self.herald, self.engine, self.views, self.cache)
        self.workers = [self._worker(channel) for channel in self.tells]

    def _worker(self, channel: AppriseChannel) -> Delivery:
        return Delivery(
            self.engine,
            channel,
            quiet=QuietHours.parse(self.ctx.settings.alert_quiet_hours),
            where=self.where,
            parts=self.ctx.waiting,
            cleared=self._cleared,
            failing=self._failing,
        )

    def wake(self) -> None:
        for worker in self.workers:
            worker.wake.set()

    async def run(self) -> None:
        """Until the stop. What one part raises ends the process: the supervisor starts it again.

        Raises:
            StopTheStart: the log is not there, or refuses us.
        """
        ctx = self.ctx
        names = [channel.name for channel in self.tells]
        log.info("channels", channels=names, quiet_hours=ctx.settings.alert_quiet_hours or "none")
        if not (
            await until_well(ctx.waiting, "postgres", lambda: storage.begin(self.engine, names), ctx.stop)
            and await until_well(ctx.waiting, "kafka", self.producer.start, ctx.stop)
        ):
            return
        told, seen = (
            self._reader(SERVICE, [topics.ALERTS], self._on_alert),
            self._reader(WATCH, self._watched(), self._on_event),
        )
        jobs = {
            "intake": told.run(ctx.stop),
            "watch events": seen.run(ctx.stop),
            "watch": self.watch.run(ctx.stop),
            "heartbeat": self._heartbeat(),
            "start": self._say_started(told, seen),
            "trouble": self._say_trouble(),
            **{f"channel {worker.name}": worker.run(ctx.stop) for worker in self.workers},
        }
        tasks = [asyncio.create_task(job, name=name) for name, job in jobs.items()]
        stop = asyncio.create_task(ctx.stop.wait(), name="stop")
        try:
            await self._until_the_stop(tasks, stop)
        finally:
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)

    async def _until_the_stop(self, tasks: list[asyncio.Task[None]], stop: asyncio.Task[bool]) -> None:
        open_: set[asyncio.Task[None]] = set(tasks)
        while not stop.done():
            await asyncio.wait({*open_, stop}, return_when=asyncio.FIRST_COMPLETED)
            ended = {task for task in open_ if task.done()}
            for task in ended:
                task.result()
            open_ -= ended
        if open_:
            await asyncio.wait(open_, timeout=END_S)
        for task in open_:
            if task.done():
                task.result()
            else:
                log.warning("not finished at the stop", task=task.get_name())

    async def close(self) -> None:
        await self.alerts.drain()
        await self.producer.stop()
        for engine in (self.engine, *self.views.values()):
            await engine.dispose()
        await self.cache.aclose()

    # the log -----------------------------------------------------------------------------------------------------------

    def _reader(self, service: str, names: list[str], handler: Handler) -> ConsumerRunner:
        return ConsumerRunner(
            self.ctx.settings, self.ctx.health, service=service, topics=names, handler=handler, producer=self.producer,
            from_latest=service == WATCH, patient=True,
        )  # fmt: skip

    def _watched(self) -> list[str]:
        found = []
        for broker in self.ctx.settings.active_brokers:
            found += [topics.orders_event(broker, kind) for kind in ("filled", "rejected")]
            found.append(topics.signals_rejected(broker))
        return found

    async def _on_alert(self, record: Record) -> None:
        envelope = decode(record.value)
        if not isinstance(envelope.data, Alert):
            raise Poison(f"{envelope.type} does not belong on {record.topic}", stage="validate")
        await self.take_in(envelope, envelope.data)

    async def take_in(self, envelope: Envelope, alert: Alert) -> None:
        """Store an alert for every channel. Raises Transient while the database is away."""
        names = [channel.name for channel in self.tells]
        if await storage.take_in(self.engine, envelope.id, alert, envelope.source, names):
            self.wake()

    async def _on_event(self, record: Record) -> None:
        broker = topics.broker_of(record.topic)
        if broker is None:
            raise Poison(f"{record.topic} belongs to no broker", stage="validate")
        await self.watch.on_event(decode(record.value), broker)

    # what is told ------------------------------------------------------------------------------------------------------

    async def _cleared(self, alerts: Sequence[Waiting]) -> list[Waiting]:
        """Orders without an answer that have one by now. Raises Transient."""
        found = []
        for alert in alerts:
            if alert.kind == UNKNOWN and await self._answered(alert.subject):
                found.append(alert)
        return found

    async def _answered(self, order_id: str) -> bool:
        try:
            wanted = UUID(order_id)
        except ValueError:
            return False
        for engine in self.views.values():
            order = await views.find_order(engine, wanted)
            if order is not None:
                return order.status not in {OrderStatus.PENDING, OrderStatus.UNKNOWN}
        return False

    async def _failing(self, channel: str, why: str) -> None:
        await self.herald.raise_(
            "alert_channel_failing",
            channel,
            f"The alert channel {channel} does not take messages: {why}",
            "Mend its URL in ALERT_URLS, or its service; `alpha-panda alerts test` tries it. What waits is told then.",
        )

    # the process ---------------------------------------------------------------------------------------------------------

    async def _say_started(self, *readers: ConsumerRunner) -> None:
        for reader in readers:
            await reader.ready.wait()
        self.ctx.health.started()
        await self.ctx.stop.wait()

    async def _say_trouble(self) -> None:
        """A channel that fails is a note in health, not trouble: trading does not need it."""
        while not await pause(1.0, self.ctx.stop):
            self.ctx.health.note("; ".join(worker.trouble for worker in self.workers if worker.trouble))

    async def _heartbeat(self) -> None:
        """While every part is ready, once a minute: who watches the address hears when we fall silent."""
        url = self.ctx.settings.alert_heartbeat_url.get_secret_value()
        if not url:
            await self.ctx.stop.wait()
            return
        async with httpx.AsyncClient(timeout=HEARTBEAT_BOUND_S, follow_redirects=False) as client:
            while not self.ctx.stop.is_set():
                if self.watch.all_ready:
                    await ping(client, url)
                    await pause(HEARTBEAT_S, self.ctx.stop)
                else:
                    await pause(1.0, self.ctx.stop)


async def ping(client: httpx.AsyncClient, url: str) -> None:
    """One ping. Its failure is logged without the address, which is a secret, and tried again in a minute."""
    try:
        answer = await client.get(url)
        answer.raise_for_status()
    except httpx.HTTPStatusError as error:
        why = f"HTTP {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = type(error).__name__
    else:
        metrics.heartbeats.labels("ok").inc()
        return
    metrics.heartbeats.labels("failed").inc()
    log.warning("the heartbeat address did not take our ping", reason=why)
