"""Tells one channel what waits for it: at its own pace, tried again until it is taken, never holding up another channel.

A message is sent again only when nobody wrote down that it was taken: at least once, and twice at most around a crash.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from core import logging, metrics
from core.alerting import policy
from core.alerting.channels import Channel, ChannelFailed
from core.alerting.policy import Bundle, QuietHours, Waiting
from core.clock import utc_now
from core.errors import Transient
from core.storage import alerts as storage
from core.storage.alerts import Outcome
from core.waiting import Waiting as Parts
from core.waiting import pause, pauses

LOOK_S = 2.0
"""How often a channel looks for what waits, besides when it is woken."""

TRIES = 3
FIRST_BACKOFF_S = 5.0
LONGEST_BACKOFF_S = 300.0
TELL_AFTER = 3
"""Rounds of TRIES a channel fails before the other channels tell of it."""

POSTGRES = "postgres"

log = logging.get(__name__)

Cleared = Callable[[Sequence[Waiting]], Awaitable[list[Waiting]]]
"""Those of the alerts that are no longer true."""

Failing = Callable[[str, str], Awaitable[None]]


class Delivery:
    """One channel's worker. `trouble` says why the channel fails, empty when it does not."""

    def __init__(
        self,
        engine: AsyncEngine,
        channel: Channel,
        *,
        quiet: QuietHours | None,
        where: str,
        parts: Parts,
        cleared: Cleared,
        failing: Failing,
    ) -> None:
        self.name = channel.name
        self.trouble = ""
        self.wake = asyncio.Event()
        self._engine = engine
        self._channel = channel
        self._quiet = quiet
        self._where = where
        self._parts = parts
        self._cleared = cleared
        self._failing = failing
        self._failures = 0
        self._not_before = float("-inf")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a message under way is finished first."""
        while not stop.is_set():
            self.wake.clear()
            try:
                with self._parts.mended(POSTGRES, self.name):
                    await self.step(stop)
            except Transient as error:
                log.debug("alerts wait for the database", channel=self.name, reason=str(error))
            await pause(LOOK_S, stop, self.wake)
        self._parts.over(POSTGRES, self.name)

    async def step(self, stop: asyncio.Event) -> None:
        """Tell what is due now. Raises Transient while the database is away."""
        if time.monotonic() < self._not_before:
            return
        rows = await storage.waiting(self._engine, self.name)
        over = await self._cleared(rows)
        if over:
            await storage.settle(self._engine, self.name, [each.alert_id for each in over], Outcome.CLEARED)
            metrics.alert_deliveries.labels(self.name, Outcome.CLEARED.value).inc(len(over))
        now = utc_now()
        told = await storage.last_told(self._engine, self.name, now - policy.EVERY)
        for bundle in policy.due([row for row in rows if row not in over], told, self._quiet, now):
            if stop.is_set() or not await self._tell(bundle, stop):
                return

    async def _tell(self, bundle: Bundle, stop: asyncio.Event) -> bool:
        alerts = [each.alert_id for each in bundle.alerts]
        await storage.attempt(self._engine, self.name, alerts)
        try:
            await self._send(bundle, stop)
        except ChannelFailed as error:
            await self._failed(bundle, str(error))
            return False
        if self.trouble:
            log.info("the channel takes messages again", channel=self.name)
        self.trouble, self._failures = "", 0
        metrics.alert_channel_failing.labels(self.name).set(0)
        metrics.alert_deliveries.labels(self.name, Outcome.SENT.value).inc(len(alerts))
        for seconds in pauses():  # taken: only writing that down keeps it from being sent again
            try:
                await storage.settle(self._engine, self.name, alerts, Outcome.SENT)
                return True
            except Transient as error:
                self._parts.on(POSTGRES, str(error), self.name)
                if await pause(seconds, stop):
                    raise
        raise AssertionError("pauses end never")

    async def _send(self, bundle: Bundle, stop: asyncio.Event) -> None:
        """Raises ChannelFailed: not taken in TRIES."""
        title, body = policy.title(bundle, self._where), policy.body(bundle)
        many_tries = stop_after_attempt(TRIES)

        async def rest(seconds: float) -> None:
            await pause(seconds, stop)

        async for attempt in AsyncRetrying(
            stop=lambda state: stop.is_set() or many_tries(state),
            wait=wait_exponential_jitter(initial=1, max=8),
            retry=retry_if_exception_type(ChannelFailed),
            sleep=rest,
            reraise=True,
        ):
            with attempt:
                await self._channel.send(title, body, bundle.severity)

    async def _failed(self, bundle: Bundle, why: str) -> None:
        self._failures += 1
        backoff = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (self._failures - 1))
        self._not_before = time.monotonic() + backoff
        self.trouble = why
        log.warning("alerts not taken", channel=self.name, alerts=len(bundle.alerts), reason=why, again_in_s=backoff)
        metrics.alert_channel_failing.labels(self.name).set(1)
        metrics.alert_deliveries.labels(self.name, "NOT_TAKEN").inc(len(bundle.alerts))
        alerts = [each.alert_id for each in bundle.alerts]
        await storage.settle(self._engine, self.name, alerts, Outcome.WAITING, why)
        if self._failures == TELL_AFTER:
            await self._failing(self.name, why)
