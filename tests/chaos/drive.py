"""Publishes the planned intents at a steady rate and watches the journal for what became of them.

An exit goes out once its entry has ended, as a strategy's would. Never publishes an intent that is not on the list.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from uuid import UUID

from core.clock import utc_now
from core.errors import Transient
from core.events import topics
from core.events.envelope import EventType, make
from core.messaging.producer import EventProducer
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Exchange, Intent, Product
from tests.chaos.plan import Plan, Planned
from tests.chaos.world import World

WATCH_S = 0.5
OVERLAP = timedelta(seconds=30)
"""A row shows only when its transaction commits: each look goes this far back."""

EXIT_PATIENCE_S = 300.0
"""An exit whose entry does not end goes out after so long all the same."""

AT_ONCE = 100
RETRY_S = 0.5


class Watch:
    """What the journal shows of the run so far, read twice a second while the database answers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.claimed = dict.fromkeys(Broker, 0)
        self.open = dict.fromkeys(Broker, 0)
        self.unknown = dict.fromkeys(Broker, 0)
        self.over: dict[Broker, set[UUID]] = {broker: set() for broker in Broker}
        """Signals whose order has ended or that were denied."""
        self._since = {broker: utc_now() - OVERLAP for broker in Broker}

    async def run(self) -> None:
        while True:
            for broker in Broker:
                await self.look(broker)
            await asyncio.sleep(WATCH_S)

    async def look(self, broker: Broker) -> bool:
        """Read once. False while the database is away."""
        began = utc_now()
        counts = await self._world.try_sql(
            f"""SELECT (SELECT count(*) FROM {broker}.sends WHERE claimed_at IS NOT NULL) AS claimed,
                       count(*) AS open, count(*) FILTER (WHERE status IN ('UNKNOWN', 'UNRESOLVED')) AS unknown
                FROM {broker}.orders WHERE ended_at IS NULL"""
        )
        over = await self._world.try_sql(
            f"""SELECT signal_id FROM {broker}.orders WHERE ended_at >= $1
                UNION SELECT signal_id FROM {broker}.risk_decisions WHERE NOT accepted AND decided_at >= $1""",
            self._since[broker],
        )
        if counts is None or over is None:
            return False
        self._since[broker] = began - OVERLAP
        self.claimed[broker], self.open[broker] = counts[0]["claimed"], counts[0]["open"]
        self.unknown[broker] = counts[0]["unknown"]
        self.over[broker] |= {row["signal_id"] for row in over}
        return True


class Driver:
    """Publishes until each broker has its share of claimed sends, or its list is used up."""

    def __init__(self, world: World, plan: Plan, watch: Watch) -> None:
        self._world, self._plan, self._watch = world, plan, watch
        self._producer = EventProducer(world.settings, client_id="chaos")
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.published: dict[UUID, datetime] = {}
        """When each signal was handed to the log; the log acknowledged it before the run ended."""

    async def run(self) -> None:
        """Returns when everything that was begun is acknowledged."""
        await self._producer.start()
        try:
            async with asyncio.TaskGroup() as sends, asyncio.TaskGroup() as brokers:
                for broker in Broker:
                    brokers.create_task(self._broker(broker, sends))
        finally:
            await self._producer.stop()

    async def _broker(self, broker: Broker, sends: asyncio.TaskGroup) -> None:
        began = time.monotonic()
        wanted = self._plan.orders // len(Broker)
        entries = {one.number: one.signal_id for one in self._plan.of(broker)}
        ahead, held = self._plan.of(broker), list[Planned]()
        ahead.reverse()
        while (ahead or held) and self._watch.claimed[broker] < wanted:
            now = time.monotonic() - began
            while ahead and ahead[-1].due_s <= now:
                held.append(ahead.pop())
            go = [one for one in held if self._may_go(one, entries, now)]
            held = [one for one in held if one not in go]
            for one in go:
                await self._slots.acquire()
                self.published[one.signal_id] = utc_now()
                sends.create_task(self._publish(one, self.published[one.signal_id]))
            await asyncio.sleep(0.02)
        self._world.log.write("published", broker=broker, claimed=self._watch.claimed[broker], wanted=wanted)

    def _may_go(self, one: Planned, entries: dict[int, UUID], now: float) -> bool:
        if one.intent is Intent.ENTRY or one.follows is None:
            return True
        return entries[one.follows] in self._watch.over[one.broker] or now > one.due_s + EXIT_PATIENCE_S

    async def _publish(self, one: Planned, origin: datetime) -> None:
        """Until the log has it; some twice, as after a crash of whoever published."""
        try:
            for _ in range(1 + one.twice):
                await self._send(signal_of(one, origin))
        finally:
            self._slots.release()

    async def _send(self, signal: Signal) -> None:
        broker = Broker(signal.instance.rsplit("@", 1)[1])
        event = make(
            EventType.SIGNAL_RAW,
            signal,
            id=signal.signal_id,
            key=f"{signal.instance}:{signal.instrument}",
            source="chaos",
            correlation_id=signal.signal_id,
            broker=broker,
        )
        while True:
            try:
                return await self._producer.send(topics.signals_raw(broker), event)
            except Transient as error:
                self._world.log.write("publish again", signal_id=signal.signal_id, reason=str(error))
                await asyncio.sleep(RETRY_S)


def signal_of(one: Planned, origin: datetime) -> Signal:
    """The signal of an intent that begins at `origin`."""
    exchange, symbol = one.instrument.split(":")
    return Signal(
        signal_id=one.signal_id,
        strategy_id=one.strategy_id,
        instance=instance_name(one.strategy_id, one.broker),
        strategy_version=1,
        instrument=one.instrument,
        instrument_token=one.instrument_token,
        exchange=Exchange(exchange),
        tradingsymbol=symbol,
        side=one.side,
        intent=one.intent,
        quantity=one.quantity,
        order_type=one.order_type,
        product=Product.MIS,
        validity=one.validity,
        price=one.price,
        slot=f"chaos-{one.number}",
        origin_at=origin,
        age_limit_s=one.age_limit_s,
        reason="chaos",
    )
