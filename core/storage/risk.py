"""Risk's part of one broker's journal: one transaction under the account's lock reads the facts and writes the decision.

A decision is the first and only one on its signal: whoever asks again gets the stored bytes. Never talks to the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Date, DateTime, Select, Text, and_, bindparam, func, insert, or_, select, true
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql import Subquery

from core.clock import DAY_ROLL_HOUR, IST
from core.storage.db import transient
from core.storage.models import AccountRow, FillRow, OrderRow, PositionRow, RiskDecisionRow, SendRow, table_of
from core.trading.signals import Signal
from core.trading.types import Intent, OrderStatus

ACCOUNTS = table_of(AccountRow)
DECISIONS = table_of(RiskDecisionRow)
ORDERS = table_of(OrderRow)
SENDS = table_of(SendRow)
FILLS = table_of(FillRow)
POSITIONS = table_of(PositionRow)

_NOBODY_KNOWS = (OrderStatus.UNKNOWN.value, OrderStatus.UNRESOLVED.value)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it was decided: topic, key, value and headers, to be published as they are, however often."""

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class HeldPosition:
    """An open position of the account. Rupees and units."""

    instance: str
    instrument: str
    instrument_token: int
    product: str
    quantity: int
    average_price: Decimal


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """What one snapshot of the journal says about an account and, in it, one signal's instance. Rupees and units.

    `working` is what working orders of the signal's instance, instrument, product and side may still fill.
    `last_entry_at` is when the latest accepted entry like the signal began, within the look-back asked for.
    """

    open_orders: int
    account_open_orders: int
    unknown_orders: int
    working: int
    trades_today: int
    account_trades_today: int
    realized: Decimal
    charges: Decimal
    account_realized: Decimal
    account_charges: Decimal
    last_entry_at: datetime | None
    positions: tuple[HeldPosition, ...]


class AccountTurn:
    """The account's lock in hand: nobody else decides until the transaction ends. `kill` is the engaged flag's reason."""

    def __init__(
        self, connection: AsyncConnection, account: str, kill: str | None, strategies: Mapping[str, str] | None = None
    ) -> None:
        self._connection = connection
        self._account = account
        self._strategies = strategies or {}
        self.kill = kill

    def killed(self, strategy_id: str) -> str | None:
        """Why entries of this strategy are stopped: the account's flag, or its own."""
        return self.kill or self._strategies.get(strategy_id)

    async def stored(self, signal_id: UUID) -> StoredEvent | None:
        """The event of the decision already taken on this signal."""
        row = (await self._connection.execute(_STORED, {"signal": signal_id})).one_or_none()
        if row is None:
            return None
        return StoredEvent(
            row.event_topic, row.event_key, row.event_value, tuple((name, value) for name, value in row.event_headers)
        )

    async def facts(self, signal: Signal, day: date, cooldown_s: float) -> JournalFacts:
        """One statement, hence one snapshot: a fill booked meanwhile is either in the position or in the working orders.

        `day` is the trading day whose trades, realised PnL and charges count.
        """
        asked = {
            "account": self._account,
            "instance": signal.instance,
            "token": signal.instrument_token,
            "product": signal.product.value,
            "side": signal.side.value,
            "slot": signal.slot,
            "day": day,
            "day_start": datetime.combine(day, time(DAY_ROLL_HOUR), IST),
            "since": signal.origin_at - timedelta(seconds=cooldown_s),
        }
        rows = (await self._connection.execute(_FACTS, asked)).mappings().all()
        first = rows[0]
        return JournalFacts(
            **{name: first[name] for name in JournalFacts.__dataclass_fields__ if name != "positions"},
            positions=tuple(
                HeldPosition(**{name: row[name] for name in HeldPosition.__dataclass_fields__})
                for row in rows
                if row["instance"] is not None
            ),
        )

    async def write(
        self, decision: dict[str, Any], order: dict[str, Any] | None = None, send: dict[str, Any] | None = None
    ) -> None:
        """The decision with its event's bytes and, when accepted, the PENDING order (the reservation) with its first send."""
        await self._connection.execute(insert(DECISIONS), decision)
        if order is not None and send is not None:
            await self._connection.execute(insert(ORDERS), order)
            await self._connection.execute(insert(SENDS), send)


class RiskJournal:
    """One broker's journal as risk uses it, on an engine of that broker's role."""

    def __init__(self, engine: AsyncEngine, account: str) -> None:
        self.engine = engine
        self.account = account

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[AccountTurn]:
        """The account's row locked until the block ends; the transaction commits there, or rolls back on an error.

        Raises:
            Transient: the database is away, or the lock is held for longer than a statement may take.
        """
        async with transient("deciding on a signal"), self.engine.begin() as connection:
            row = await self._lock(connection)
            if row is None:
                await connection.execute(upsert(ACCOUNTS).values(account=self.account).on_conflict_do_nothing())
                row = await self._lock(connection)
            if row is None:
                raise RuntimeError(f"the journal lost account {self.account} while it was being locked")
            kill = (row.kill_reason or "no reason given") if row.kill else None
            yield AccountTurn(connection, self.account, kill, row.kill_strategies)

    async def _lock(self, connection: AsyncConnection) -> Any:
        return (await connection.execute(_LOCK, {"account": self.account})).one_or_none()


# Statements, built once: what differs from signal to signal is bound to them --------------------------------------------

_account, _instance, _side, _slot = (bindparam(name, type_=Text) for name in ("account", "instance", "side", "slot"))
_product = bindparam("product", type_=Text)
_token = bindparam("token", type_=BigInteger)
_day = bindparam("day", type_=Date)
_day_start, _since = (bindparam(name, type_=DateTime(timezone=True)) for name in ("day_start", "since"))

_LOCK = (
    select(ACCOUNTS.c.kill, ACCOUNTS.c.kill_reason, ACCOUNTS.c.kill_strategies)
    .where(ACCOUNTS.c.account == _account)
    .with_for_update()
)

_STORED = select(
    DECISIONS.c.event_topic, DECISIONS.c.event_key, DECISIONS.c.event_value, DECISIONS.c.event_headers
).where(DECISIONS.c.signal_id == bindparam("signal", type_=DECISIONS.c.signal_id.type))


def _working() -> Subquery:
    """Working orders: an UNKNOWN or UNRESOLVED one has not ended, so it is among them."""
    mine = ORDERS.c.instance == _instance
    here = ORDERS.c.instrument_token == _token
    same = and_(mine, here, ORDERS.c.product == _product, ORDERS.c.side == _side)
    unfilled = ORDERS.c.quantity - ORDERS.c.filled_quantity
    return (
        select(
            func.count().filter(mine).label("open_orders"),
            func.count().label("account_open_orders"),
            func.count().filter(and_(here, ORDERS.c.status.in_(_NOBODY_KNOWS))).label("unknown_orders"),
            func.coalesce(func.sum(unfilled).filter(same), 0).label("working"),
        )
        .where(ORDERS.c.account == _account, ORDERS.c.ended_at.is_(None))
        .subquery("working_orders")
    )


def _trades() -> Subquery:
    """Entry orders of the trading day that are working or have a fill."""
    return (
        select(
            func.count().filter(ORDERS.c.instance == _instance).label("trades_today"),
            func.count().label("account_trades_today"),
        )
        .where(
            ORDERS.c.created_at >= _day_start,
            ORDERS.c.account == _account,
            ORDERS.c.intent == Intent.ENTRY.value,
            or_(ORDERS.c.ended_at.is_(None), ORDERS.c.filled_quantity > 0),
        )
        .subquery("trades_of_day")
    )


def _booked() -> Subquery:
    """Realised PnL and charges of the trading day's fills."""
    mine = FILLS.c.instance == _instance
    return (
        select(
            func.coalesce(func.sum(FILLS.c.realized_pnl).filter(mine), 0).label("realized"),
            func.coalesce(func.sum(FILLS.c.charges).filter(mine), 0).label("charges"),
            func.coalesce(func.sum(FILLS.c.realized_pnl), 0).label("account_realized"),
            func.coalesce(func.sum(FILLS.c.charges), 0).label("account_charges"),
        )
        .where(FILLS.c.account == _account, FILLS.c.trading_day == _day)
        .subquery("booked_of_day")
    )


def _last_entry() -> Subquery:
    """When the latest accepted entry of the same instance, instrument and side began; other legs of the slot not counted.

    A decision is never older than what its signal began with, so decisions before the look-back cannot matter.
    """
    return (
        select(func.max(ORDERS.c.origin_at).label("last_entry_at"))
        .select_from(DECISIONS.join(ORDERS, ORDERS.c.signal_id == DECISIONS.c.signal_id))
        .where(
            DECISIONS.c.instance == _instance,
            DECISIONS.c.decided_at >= _since,
            DECISIONS.c.instrument_token == _token,
            DECISIONS.c.side == _side,
            DECISIONS.c.accepted,
            DECISIONS.c.slot != _slot,
            ORDERS.c.intent == Intent.ENTRY.value,
        )
        .subquery("last_entry")
    )


def _facts_statement() -> Select[Any]:
    """One row of totals, repeated beside each open position of the account (once, without one, when there is none)."""
    orders, trades, booked, like = _working(), _trades(), _booked(), _last_entry()
    held = and_(POSITIONS.c.account == _account, POSITIONS.c.quantity != 0)
    together = orders.join(trades, true()).join(booked, true()).join(like, true()).join(POSITIONS, held, isouter=True)
    positions = (POSITIONS.c[name] for name in HeldPosition.__dataclass_fields__)
    return select(orders, trades, booked, like, *positions).select_from(together)


_FACTS = _facts_statement()


def headers_of(rows: Sequence[tuple[str, bytes]]) -> list[list[str]]:
    """Headers as the journal's JSON column holds them."""
    return [[name, value.decode()] for name, value in rows]
