"""The service market-feed: one leased process that turns Kite's ticker into `market.ticks`, and stores the day's instruments.

Never publishes a tick without an exchange timestamp, never the same tick under two ids, and never waits for the log on the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Collection
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids, metrics
from core.alerts import Alerts
from core.brokers.kite_login import ensure_local_session, require_session
from core.brokers.kite_wire import GarbledFrame, packets
from core.brokers.zerodha_session import Session, SessionWatcher
from core.clock import utc_now
from core.errors import BrokerError, SessionExpired, StopTheStart, Transient
from core.events.topics import CONFIG_CHANGES, orders_updates
from core.messaging.producer import EventProducer
from core.messaging.reader import LogReader
from core.routing import FEED_LEASE
from core.service import ServiceContext
from core.storage.db import config_engine, view_engine
from core.storage.leases import Lease
from core.storage.models import SharedLeaseRow
from core.trading.types import Broker
from core.waiting import until_well
from streams.feed_codec import is_full
from streams.feed_day import DayBook
from streams.feed_needs import Wanted, check_start, read_needs, resolve
from streams.feed_outbox import Outbox
from streams.feed_resume import last_published
from streams.feed_socket import KiteSocket, SocketEvents
from streams.feed_texts import order_update, reconnected

REVIEW_S = 15.0
"""How often the needs are read again when nothing announced a change."""

GARBLED_LOG_S = 60.0
KITE, SESSION, POSTGRES, KAFKA = "kite", "session", "postgres", "kafka"
_WHO = ("socket", "outbox", "review", "config", "login", "lease")


async def main(ctx: ServiceContext) -> None:
    """Prepare everything, stand by for the lease, feed while it is ours."""
    feed = Feed(ctx)
    try:
        if not await feed.prepare():
            return
        lease = Lease(feed.config, SharedLeaseRow, FEED_LEASE, _holder())
        ctx.health.started()
        await lease.hold(ctx.stop, feed.work, standby=feed.standby)
    finally:
        await feed.close()


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{ids.new_id()}"


class Feed:
    """What one process holds. `work` runs while the lease is ours and can run again after it was lost."""

    def __init__(self, ctx: ServiceContext) -> None:
        self.ctx = ctx
        self.config: AsyncEngine = config_engine(ctx.settings)
        self.journals = {broker: view_engine(ctx.settings, broker) for broker in ctx.settings.active_brokers}
        self.producer = EventProducer(ctx.settings, client_id=ctx.name)
        self.alerts = Alerts(self.producer, ctx.name)
        self.watcher = SessionWatcher(ctx.settings)
        self.day = DayBook(ctx.settings, self.config)
        self.wanted: Wanted | None = None
        self._last_packet: dict[int, bytes] = {}
        self._complained: frozenset[str] = frozenset()
        self._local_session: Session | None = None
        self._refused_token: str | None = None
        self._garbled_at = float("-inf")
        self._standing_by = False

    # Before the lease ----------------------------------------------------------------------------------------------

    async def prepare(self) -> bool:
        """Log, session, instruments, needs. False: asked to stop while waiting for a part.

        Raises:
            SessionMissing: no session, and the target needs a person to log in.
            StopTheStart: a strategy names an instrument the dump does not have, or too many are needed.
        """
        stop, waiting = self.ctx.stop, self.ctx.waiting
        return (
            await until_well(waiting, KAFKA, self.producer.start, stop)
            and await until_well(waiting, KITE, self._first_session, stop)
            and await until_well(waiting, KITE, self._first_book, stop)
            and await until_well(waiting, POSTGRES, self._first_needs, stop)
        )

    async def _first_session(self) -> None:
        if self.ctx.settings.simulated:
            self._local_session = await ensure_local_session(self.ctx.settings)
        else:
            require_session(self.ctx.settings)

    async def _first_book(self) -> None:
        session = require_session(self.ctx.settings)
        try:
            if not await self.day.take_stored(session, utc_now()):
                await self.day.take(session, utc_now())
        except SessionExpired as error:
            if not self.ctx.settings.simulated:
                raise StopTheStart(f"Zerodha refuses the stored session: {error}") from error
            await self._first_session()
            raise Transient(str(error), part=KITE) from error

    async def _first_needs(self) -> None:
        self.wanted = resolve(await read_needs(self.config, self.journals), self.day.book)
        check_start(self.wanted)
        await self._complain(self.wanted)

    def standby(self, reason: str) -> None:
        """Called each second while the lease is not ours. A standby is healthy: it is there to wait."""
        if not reason.startswith("standby"):
            self.ctx.waiting.on(POSTGRES, reason, "lease")
            return
        self.ctx.waiting.over(POSTGRES, "lease")
        self.ctx.health.note(reason)
        if not self._standing_by:
            self._standing_by = True
            self.ctx.log.info("standing by", reason=reason)

    # While the lease is ours ----------------------------------------------------------------------------------------

    async def work(self, epoch: int) -> None:
        """Feed until asked to stop or cancelled (lease lost)."""
        self._standing_by = False
        self.ctx.waiting.over(POSTGRES, "lease")
        self.ctx.health.note("")
        self.ctx.health.waiting(KITE, "connecting to the ticker")
        self._last_packet.clear()
        outbox = Outbox(self.producer, self.ctx.waiting)
        client = KiteSocket(self.ctx.settings, self._events(outbox))
        await self._begin(client)
        jobs = [
            asyncio.create_task(job, name=name)
            for name, job in (
                ("feed-socket", client.run()),
                ("feed-outbox", outbox.run()),
                ("feed-review", self._review(client)),
                ("feed-stop", self._stopped()),
            )
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            metrics.feed_connected.set(0)
            for who in _WHO:
                self.ctx.waiting.gone(who)
            self.ctx.health.well(KITE)
            if self.ctx.stop.is_set():
                await outbox.flush()
        self.ctx.log.info("feed stopped", published=outbox.published, dropped=outbox.dropped, epoch=epoch)

    async def _stopped(self) -> None:
        await self.ctx.stop.wait()

    async def _begin(self, client: KiteSocket) -> None:
        """Today's tokens, and what this process's start has missed: since the last tick on the log."""
        if self.day.stale(utc_now()):
            if not await until_well(self.ctx.waiting, KITE, self._first_book, self.ctx.stop, "review"):
                return
            await self._review_once(client)
        if self.wanted is not None:
            client.want(self.wanted.tokens)
        try:
            since = await last_published(self.ctx.settings)
        except Transient as error:
            self.ctx.log.warning("the last published tick is not known; no gap is announced", reason=str(error))
            return
        if since is not None:
            client.missing_since(since, "market-feed was not running")

    def _events(self, outbox: Outbox) -> SocketEvents:
        def frame(data: bytes, received_at: datetime) -> None:
            self._frame(outbox, data, received_at)

        def text(data: str, received_at: datetime) -> None:
            event = order_update(data, received_at)
            if event is not None and Broker.ZERODHA in self.ctx.settings.active_brokers:
                outbox.put_hint(orders_updates(Broker.ZERODHA), event)

        def gap(tokens: Collection[int], since: datetime, until: datetime, reason: str) -> None:
            self.ctx.log.warning(
                "gap announced",
                instruments=len(tokens),
                since=since.isoformat(),
                seconds=round((until - since).total_seconds(), 3),
                reason=reason,
            )
            for token in tokens:
                outbox.put_gap(token, since, until, reason)
            if Broker.ZERODHA in self.ctx.settings.active_brokers:  # its order updates came over the same socket
                outbox.put_hint(orders_updates(Broker.ZERODHA), reconnected(since, until, reason))

        return SocketEvents(frame=frame, text=text, gap=gap, up=self._up, session=self._session, refused=self._refused)

    def _frame(self, outbox: Outbox, data: bytes, received_at: datetime) -> None:
        try:
            for packet in packets(data):
                if not is_full(packet):
                    continue  # ltp and quote carry no exchange time: never published
                token = int.from_bytes(packet[:4], "big")
                if self._last_packet.get(token) != packet:
                    self._last_packet[token] = packet
                    outbox.put_tick(token, packet, received_at)
        except GarbledFrame as error:
            now = asyncio.get_running_loop().time()
            if now - self._garbled_at >= GARBLED_LOG_S:
                self._garbled_at = now
                self.ctx.log.error("garbled frame", error=str(error), start=data[:32].hex())

    def _up(self, up: bool) -> None:
        metrics.feed_connected.set(1 if up else 0)
        if up:
            self.ctx.health.well(KITE)
            self.ctx.waiting.over(KITE, "socket")
        elif not self.ctx.stop.is_set():
            self.ctx.waiting.on(KITE, "the market data connection is down", "socket")

    # Sessions -------------------------------------------------------------------------------------------------------

    async def _session(self) -> Session | None:
        """The session to connect with; on local a dead one is replaced (unless told otherwise), elsewhere a person is waited for."""
        if self.ctx.settings.logs_in_itself:
            await until_well(self.ctx.waiting, KITE, self._first_session, self.ctx.stop, "login")
            return None if self.ctx.stop.is_set() else self._local_session
        if self.watcher.session is None:
            self.ctx.waiting.on(SESSION, "no valid Zerodha session: run `alpha-panda login`", "login")
        session = await self.watcher.wait_valid(self.ctx.stop)
        self.ctx.waiting.over(SESSION, "login")
        return session

    async def _refused(self, session: Session) -> None:
        """The socket was answered 403. One alert a dead session, however often it is tried."""
        self.watcher.refused(session)
        if self._refused_token == session.access_token:
            return
        self._refused_token = session.access_token
        if self.ctx.settings.logs_in_itself:
            self.ctx.log.warning("the sandbox ended our session: logging in again")
            return
        await self.alerts.raise_(
            "session_dead",
            session.user_id,
            "Zerodha refuses our session: no ticks arrive and no order can be placed.",
            "Run `alpha-panda login`.",
        )

    # Needs and the day ------------------------------------------------------------------------------------------------

    async def _review(self, client: KiteSocket) -> None:
        """Follow what is needed: every REVIEW_S, and at once when `config.changes` says so."""
        changed = asyncio.Event()
        listener = asyncio.create_task(self._listen(changed), name="feed-config")
        try:
            while True:
                await self._review_once(client)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), REVIEW_S)
                changed.clear()
                if listener.done():
                    listener.result()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _review_once(self, client: KiteSocket) -> None:
        try:
            session = self.watcher.session
            if session is not None and self.day.due(session, utc_now()):
                await self.day.take(session, utc_now())
            self.wanted = resolve(await read_needs(self.config, self.journals), self.day.book)
        except SessionExpired as error:
            self.ctx.log.warning("instruments not refreshed", reason=str(error))
            return
        except BrokerError as error:
            await self.alerts.raise_(
                "instruments", "dump", f"The instrument dump is refused: {error}", "Check the Kite app's subscription."
            )
            return
        except Transient as error:
            self.ctx.waiting.on(error.part or POSTGRES, str(error), "review")
            return
        self.ctx.waiting.gone("review")
        client.want(self.wanted.tokens)
        await self._complain(self.wanted)

    async def _listen(self, changed: asyncio.Event) -> None:
        reader = LogReader(
            self.ctx.settings, client_id=f"{self.ctx.name}-config", topics=[CONFIG_CHANGES], patient=True
        )

        async def start() -> None:
            try:
                await reader.start("latest")
            except StopTheStart as error:  # the log went away since our start: wait for it
                raise Transient(str(error), part=KAFKA) from error

        try:
            if not await until_well(self.ctx.waiting, KAFKA, start, self.ctx.stop, "config"):
                return
            changed.set()  # what changed before we listened is in the rows: look at them once more
            while True:
                try:
                    if await reader.read(5.0):
                        changed.set()
                except Transient as error:
                    self.ctx.log.warning("config.changes not read; needs are still reviewed", reason=str(error))
                    await asyncio.sleep(1)
        finally:
            await reader.stop()

    async def _complain(self, wanted: Wanted) -> None:
        """One alert for each thing that is needed and not to be had, when it appears."""
        now = {f"{need.instrument} ({need.who}) is not in today's dump": need for need in wanted.missing} | {
            f"{need.instrument} ({need.who}) does not fit on the connection": need for need in wanted.over
        }
        for text, need in now.items():
            if text not in self._complained:
                await self.alerts.raise_(
                    "instrument_without_ticks",
                    need.instrument,
                    f"No ticks: {text}.",
                    "Mend or stop the strategy; a position in it is marked at its last price.",
                )
        self._complained = frozenset(now)

    async def close(self) -> None:
        await self.alerts.drain()
        await self.producer.stop()
        for engine in (self.config, *self.journals.values()):
            await engine.dispose()
