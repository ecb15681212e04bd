"""Redis: one way to connect, and the portfolio's read model with its keys and types. A cache: losing it loses nothing.

Keys carry the broker's prefix from core/routing.py. The portfolio service alone writes the read model; it never decides anything.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from core.config import Settings
from core.errors import Transient
from core.routing import redis_prefix
from core.trading.positions import PositionKey
from core.trading.types import Broker, Exchange, Product

TIMEOUT_S = 2.0

EVERYTHING = "*"
"""The field of the pnl hash that holds the broker's total."""


def client(settings: Settings) -> Redis:
    """A client that answers or fails within seconds; connects on first use. Close it with `aclose()`."""
    return Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        password=settings.redis_password.get_secret_value(),
        decode_responses=True,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
    )


async def connect(settings: Settings) -> Redis:
    """A client whose server has answered.

    Raises:
        Transient: Redis is away.
    """
    connection = client(settings)
    try:
        async with away("connecting"):
            await connection.ping()
    except Transient:
        await connection.aclose()
        raise
    return connection


@asynccontextmanager
async def away(what: str) -> AsyncIterator[None]:
    """Turn "Redis is away" into Transient naming `what` we were doing; let our own mistakes through."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        loading = isinstance(error, ResponseError) and str(error).startswith(("LOADING", "BUSY", "READONLY"))
        if isinstance(error, ResponseError) and not loading and not isinstance(error, RedisConnectionError):
            raise
        raise Transient(f"Redis is away while {what}: {type(error).__name__}") from error


class PositionView(BaseModel):
    """A position as people read it. Rupees, units, UTC; None = no price seen yet. `day_*` belong to `trading_day`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance: str
    strategy_id: str
    account: str
    instrument: str
    instrument_token: int
    exchange: Exchange
    tradingsymbol: str
    product: Product
    quantity: int
    average_price: Decimal
    last_price: Decimal | None
    marked_at: datetime | None
    realized_pnl: Decimal
    unrealized_pnl: Decimal | None
    gross_pnl: Decimal | None
    charges: Decimal
    net_pnl: Decimal | None
    trading_day: date
    day_realized_pnl: Decimal
    day_charges: Decimal
    day_net_pnl: Decimal | None
    fills: int
    updated_at: datetime
    simulated: bool

    @property
    def key(self) -> PositionKey:
        return (self.instance, self.instrument, self.product)


class PnlView(BaseModel):
    """PnL of an instance, or of the whole broker. `unmarked` open positions have no price and are missing from the sums."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    instance: str
    strategy_id: str | None
    realized_pnl: Decimal
    unrealized_pnl: Decimal
    gross_pnl: Decimal
    charges: Decimal
    net_pnl: Decimal
    trading_day: date
    day_realized_pnl: Decimal
    day_gross_pnl: Decimal
    day_charges: Decimal
    day_net_pnl: Decimal
    open_positions: int
    unmarked: int
    as_of: datetime
    simulated: bool


@dataclass(frozen=True, slots=True)
class ReadModel:
    """The whole read model of one broker as read at one moment. `offsets`: (topic, partition) → next offset."""

    marker: str
    positions: dict[PositionKey, PositionView]
    pnl: dict[str, PnlView]
    offsets: dict[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class _Keys:
    positions: str
    pnl: str
    offsets: str
    marker: str


def _keys(broker: Broker) -> _Keys:
    prefix = f"{redis_prefix(broker)}portfolio:"
    return _Keys(f"{prefix}positions", f"{prefix}pnl", f"{prefix}offsets", f"{prefix}marker")


class PortfolioStore:
    """One broker's portfolio read model. Every write is one MULTI: positions, PnL and offsets always belong together."""

    def __init__(self, connection: Redis, broker: Broker) -> None:
        self._redis = connection
        self._keys = _keys(broker)

    async def marker(self) -> str | None:
        """Who filled the model; None when it is empty or was emptied.

        Raises:
            Transient: Redis is away.
        """
        async with away("looking at the read model"):
            found = await self._redis.get(self._keys.marker)
        return None if found is None else str(found)

    async def replace(
        self,
        marker: str,
        positions: Iterable[PositionView],
        pnl: Iterable[PnlView],
        offsets: Mapping[tuple[str, int], int],
    ) -> None:
        """Throw away what is there and write the whole model under `marker`. Raises Transient."""
        await self._write(positions, pnl, offsets, marker=marker)

    async def update(
        self, positions: Iterable[PositionView], pnl: Iterable[PnlView], offsets: Mapping[tuple[str, int], int]
    ) -> None:
        """Write what changed. Never sets the marker: a model emptied in between stays recognisable. Raises Transient."""
        await self._write(positions, pnl, offsets, marker=None)

    async def _write(
        self,
        positions: Iterable[PositionView],
        pnl: Iterable[PnlView],
        offsets: Mapping[tuple[str, int], int],
        *,
        marker: str | None,
    ) -> None:
        keys = self._keys
        fields: dict[Any, Any] = {"|".join(view.key): view.model_dump_json() for view in positions}
        totals: dict[Any, Any] = {view.instance: view.model_dump_json() for view in pnl}
        at: dict[Any, Any] = {f"{topic}:{partition}": offset for (topic, partition), offset in offsets.items()}
        async with away("writing the read model"), self._redis.pipeline(transaction=True) as pipe:
            if marker is not None:
                pipe.delete(keys.positions, keys.pnl, keys.offsets, keys.marker)
                pipe.set(keys.marker, marker)
            for key, mapping in ((keys.positions, fields), (keys.pnl, totals), (keys.offsets, at)):
                if mapping:
                    pipe.hset(key, mapping=mapping)
            await pipe.execute()

    async def read(self) -> ReadModel | None:
        """The whole model as of one moment; None where there is none. Raises Transient."""
        keys = self._keys
        async with away("reading the read model"), self._redis.pipeline(transaction=True) as pipe:
            pipe.get(keys.marker)
            pipe.hgetall(keys.positions)
            pipe.hgetall(keys.pnl)
            pipe.hgetall(keys.offsets)
            marker, positions, pnl, offsets = await pipe.execute()
        if marker is None:
            return None
        views = [PositionView.model_validate_json(text) for text in positions.values()]
        return ReadModel(
            marker=marker,
            positions={view.key: view for view in views},
            pnl={name: PnlView.model_validate_json(text) for name, text in pnl.items()},
            offsets={_topic_partition(name): int(offset) for name, offset in offsets.items()},
        )


def _topic_partition(name: str) -> tuple[str, int]:
    topic, _, partition = name.rpartition(":")
    return topic, int(partition)


def strategies_key(broker: Broker) -> str:
    """The hash in which strategy-runner says what each of a broker's instances is doing: instance → JSON."""
    return f"{redis_prefix(broker)}strategies"


async def read_strategies(connection: Redis, broker: Broker) -> dict[str, dict[str, Any]]:
    """What strategy-runner last said of a broker's instances, by name; empty when it said nothing. Raises Transient."""
    async with away("reading strategies"):
        found = await connection.hgetall(strategies_key(broker))
    return {str(name): json.loads(text) for name, text in found.items()}
