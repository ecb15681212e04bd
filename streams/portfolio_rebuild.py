"""Folds a broker's log from the beginning, up to where the live portfolio stands, and compares. Writes nothing anywhere."""

from __future__ import annotations

import time
from dataclasses import dataclass

from core import logging
from core.config import Settings
from core.errors import Poison, Transient
from core.events import topics
from core.events.envelope import decode
from core.messaging.reader import LogReader
from core.storage import redis
from core.storage.redis import PortfolioStore, ReadModel
from core.trading.positions import PositionState
from core.trading.types import Broker
from streams.portfolio_fold import Difference, PortfolioFold, differences

READ_S = 0.5
STALL_S = 30.0
"""A log that yields nothing for this long before the wanted offsets is away."""

log = logging.get(__name__)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The outcome for one broker. `live` is False where there is no live read model to compare with."""

    broker: Broker
    live: bool
    positions: int
    fills: int
    differences: list[Difference]


async def rebuild(settings: Settings, broker: Broker) -> Rebuilt:
    """Fold up to the live model's own offsets and compare quantity, average price, realised PnL and charges.

    Raises:
        Transient: Redis or the log is away.
        StopTheStart: the log has no such topic.
    """
    model = await _live(settings, broker)
    if model is None:
        return Rebuilt(broker, live=False, positions=0, fills=0, differences=[])
    fold = await fold_until(settings, broker, model.offsets)
    live = {
        key: PositionState(view.quantity, view.average_price, view.realized_pnl, view.charges)
        for key, view in model.positions.items()
    }
    fills = sum(len(position.steps) for position in fold.positions.values())
    return Rebuilt(broker, True, len(fold.positions), fills, differences(live, fold.states()))


async def _live(settings: Settings, broker: Broker) -> ReadModel | None:
    connection = redis.client(settings)
    try:
        return await PortfolioStore(connection, broker).read()
    finally:
        await connection.aclose()


async def fold_until(settings: Settings, broker: Broker, offsets: dict[tuple[str, int], int]) -> PortfolioFold:
    """The fold of every fill below these offsets; partitions not named are not read.

    Raises:
        Transient: the log is away, or ends before the offsets.
    """
    fold = PortfolioFold()
    topic = topics.orders_event(broker, "filled")
    reader = LogReader(settings, client_id=f"rebuild-{broker}", topics=[topic])
    await reader.start("earliest")
    heard = time.monotonic()
    try:
        while any(fold.offsets.get(name, 0) < end for name, end in offsets.items()):
            records = await reader.read(READ_S)
            if records:
                heard = time.monotonic()
            elif time.monotonic() - heard > STALL_S:
                raise Transient(f"Kafka gave nothing of {topic} for {STALL_S:.0f} s before the live offsets {offsets}")
            for record in records:
                if record.offset >= offsets.get((record.topic, record.partition), 0):
                    continue
                try:
                    fold.apply(decode(record.value))
                except Poison as error:
                    log.warning("not a fill: skipped", topic=topic, offset=record.offset, error=str(error))
                fold.advance(record.topic, record.partition, record.offset)
    finally:
        await reader.stop()
    return fold
