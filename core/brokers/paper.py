"""The paper broker: books orders into the tables of streams/paper_exchange, which matches them against live ticks.

Never fills anything itself and never touches the journal: this is the account at a make-believe broker, nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import asyncpg

from core.brokers import paper_rows as rows
from core.brokers import paper_statements as sql
from core.brokers.paper_database import PaperDatabase, is_away
from core.brokers.port import Book, BookRow, BrokerPosition, BrokerProfile, Funds, PlaceRequest, Trade
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import NotPlaced, OutcomeUnknown
from core.routing import account
from core.storage.statements import Statement
from core.trading.commands import MODIFICATIONS
from core.trading.types import Broker, OrderType, Validity

ANSWER_S = 7.0
"""Most we wait for the database to answer an order command, in seconds."""


def broker_order_id(tag: str) -> str:
    """The paper exchange's id of the order with this tag: derived, so that placing twice names one order."""
    return f"P{tag}"


UNLIMITED = BrokerProfile(
    per_second=None,
    per_second_reserved=0,
    per_minute=None,
    per_minute_reserved=0,
    per_day=None,
    per_day_reserved=0,
    modifications=MODIFICATIONS,
    reads_by_id=True,
    id_of_tag=broker_order_id,
    empty_book_proves=True,  # a table, read by one statement
)


class PaperTrader:
    """The port of the paper account. Safe under kill at any point: an order is one INSERT, unique by its tag."""

    broker = Broker.PAPER
    profile = UNLIMITED

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._account = account(settings, Broker.PAPER)
        self._database = PaperDatabase(settings, connections=8)

    async def start(self) -> None:
        """Raises Transient when the database is away."""
        await self._database.fetch("opening the paper account", sql.ORDERS, ids=[])

    async def close(self) -> None:
        await self._database.close()

    def waits_for(self) -> str | None:
        """Nothing: it needs no login."""
        return None

    async def account(self) -> str:
        return self._account

    async def place(self, request: PlaceRequest) -> str:
        """Book the order, once by its tag; returns the broker order id, also when it was booked before."""
        check(request)
        order_id = broker_order_id(request.tag)
        await self._command(f"placing {request.tag}", sql.PLACE, _values(request, order_id), request.deadline)
        return order_id

    async def modify(
        self,
        broker_order_id: str,
        *,
        quantity: int | None,
        price: Decimal | None,
        trigger_price: Decimal | None,
        order_type: OrderType | None,
        deadline: float,
    ) -> None:
        """Change what is still working. Fills made before stay; a quantity below what is filled is refused."""
        if all(value is None for value in (quantity, price, trigger_price, order_type)):
            raise NotPlaced(f"nothing to modify on {broker_order_id}", code="NOTHING_TO_MODIFY", retryable=False)
        if quantity is not None and quantity <= 0:
            raise NotPlaced(f"quantity {quantity} must be positive", code="QUANTITY", retryable=False)
        values = {
            "id": broker_order_id,
            "new_quantity": quantity,
            "new_price": price,
            "new_trigger_price": trigger_price,
            "new_order_type": None if order_type is None else order_type.value,
            "now": utc_now(),
        }
        row = await self._command(f"modifying {broker_order_id}", sql.MODIFY, values, deadline)
        _refuse_missed(row, broker_order_id, "modified")

    async def cancel(self, broker_order_id: str) -> None:
        """Ask for a cancel; the exchange does it after its latency, unless a fill is there first."""
        row = await self._command(f"cancelling {broker_order_id}", sql.CANCEL, {"id": broker_order_id}, None)
        _refuse_missed(row, broker_order_id, "cancelled")

    async def book(self) -> Book:
        requested_at = utc_now()
        day = trading_day(requested_at)
        found = await self._database.fetch("reading the book", sql.BOOK, day=day)
        return Book(self._account, day, requested_at, utc_now(), tuple(rows.book_row(row) for row in found))

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        """These orders' rows, of whatever day: the paper exchange forgets nothing at the day's roll."""
        if not broker_order_ids:
            return {}
        found = await self._database.fetch("reading orders", sql.ORDERS, ids=list(broker_order_ids))
        return {row["broker_order_id"]: rows.book_row(row) for row in found}

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        """These orders' trades in the order they happened, of whatever day."""
        if not broker_order_ids:
            return {}
        found: dict[str, list[Trade]] = {}
        for row in await self._database.fetch("reading trades", sql.TRADES, ids=list(broker_order_ids)):
            found.setdefault(row["broker_order_id"], []).append(rows.trade(row))
        return {key: tuple(trades) for key, trades in found.items()}

    async def positions(self) -> tuple[BrokerPosition, ...]:
        """Net position by instrument and product over all trades ever; closed ones are left out."""
        return rows.net_positions(await self._database.fetch("reading positions", sql.TRADES_OF_OPEN_POSITIONS))

    async def funds(self) -> Funds:
        """PAPER_CAPITAL less what open positions cost, in rupees. No leverage, no margin model."""
        used = sum((abs(row.quantity) * row.average_price for row in await self.positions()), Decimal(0))
        return Funds(available=self._settings.paper_capital - used, utilised=used)

    async def _command(self, what: str, statement: Statement, values: dict[str, Any], deadline: float | None) -> Any:
        """Run one statement that commits by itself, and say for certain whether it did where that is known."""
        until = time.monotonic() + ANSWER_S
        until = until if deadline is None else min(deadline, until)
        async with self._connection(what, until) as connection:
            if time.monotonic() >= until:
                raise NotPlaced(f"{what}: past its deadline, not sent", code="DEADLINE", retryable=True)
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0.001)):
                    return await connection.fetchrow(statement.text, *statement.arguments(values))
            except TimeoutError as error:
                raise OutcomeUnknown(f"{what}: the database did not answer in time") from error
            except Exception as error:
                raise classify_database(error, what) from error

    @asynccontextmanager
    async def _connection(self, what: str, until: float) -> AsyncIterator[Any]:
        """A connection that works; nothing has been sent while this fails."""
        using = self._database.connection()
        try:
            async with asyncio.timeout(max(until - time.monotonic(), 0.001)):
                connection = await using.__aenter__()
        except Exception as error:
            if is_away(error):
                message = f"{what}: PostgreSQL is away ({type(error).__name__}), nothing was sent"
                raise NotPlaced(message, code="DATABASE_AWAY", retryable=True) from error
            raise
        try:
            yield connection
        finally:
            await using.__aexit__(None, None, None)


def check(request: PlaceRequest) -> None:
    """What the broker's front desk refuses before anything is booked.

    Raises:
        NotPlaced: final, with a code and the reason in words.
    """
    problem = _problem(request)
    if problem is not None:
        code, words = problem
        raise NotPlaced(f"{request.exchange}:{request.tradingsymbol}: {words}", code=code, retryable=False)


def _problem(request: PlaceRequest) -> tuple[str, str] | None:
    tick = request.tick_size
    if not request.tag or not request.tag.isalnum() or len(request.tag) > 20:
        return "TAG", f"tag {request.tag!r} must be 1 to 20 letters and digits"
    if request.quantity <= 0:
        return "QUANTITY", f"quantity {request.quantity} must be positive"
    if tick <= 0:
        return "TICK_SIZE", f"tick size {tick} must be positive"
    if request.validity is Validity.TTL:
        return "VALIDITY", "the paper exchange takes DAY and IOC orders"
    needs_price = request.order_type in {OrderType.LIMIT, OrderType.SL}
    needs_trigger = request.order_type in {OrderType.SL, OrderType.SL_M}
    prices = (("price", request.price, needs_price), ("trigger price", request.trigger_price, needs_trigger))
    for name, value in ((name, value) for name, value, needed in prices if needed):
        if value is None or value <= 0:
            return name.replace(" ", "_").upper(), f"a {request.order_type} order needs a positive {name}"
        if value % tick:
            return "TICK_SIZE", f"{name} {value} is not a multiple of the tick size {tick}"
    return None


def classify_database(error: Exception, what: str) -> NotPlaced | OutcomeUnknown:
    """What a failed statement says about its commit: a database that answered with an error refused it for certain.

    A lost connection, or one the server ended, may have lost the answer of a commit that did happen.
    """
    ended = asyncpg.AdminShutdownError | asyncpg.CrashShutdownError | asyncpg.PostgresConnectionError
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, ended):
        short = asyncpg.InsufficientResourcesError | asyncpg.QueryCanceledError
        passing = is_away(error) or isinstance(error, short)
        return NotPlaced(f"{what}: PostgreSQL refused it: {error}", code="DATABASE_REFUSED", retryable=passing)
    lost = type(error).__name__
    return OutcomeUnknown(f"{what}: the connection to PostgreSQL was lost after it was sent ({lost})")


def _values(request: PlaceRequest, order_id: str) -> dict[str, Any]:
    now = utc_now()
    stop = request.order_type in {OrderType.SL, OrderType.SL_M}
    return {
        "broker_order_id": order_id,
        "tag": request.tag,
        "trading_day": trading_day(now),
        "exchange": request.exchange.value,
        "tradingsymbol": request.tradingsymbol,
        "instrument_token": request.instrument_token,
        "instrument_type": request.instrument_type,
        "tick_size": request.tick_size,
        "side": request.side.value,
        "order_type": request.order_type.value,
        "product": request.product.value,
        "validity": request.validity.value,
        "quantity": request.quantity,
        "price": request.price if request.order_type in {OrderType.LIMIT, OrderType.SL} else None,
        "trigger_price": request.trigger_price if stop else None,
        "market_protection": rows.protection(request.order_type),
        "status": rows.TRIGGER_PENDING if stop else rows.OPEN,
        "accepted_at": now,
    }


def _refuse_missed(row: Any, order_id: str, done: str) -> None:
    if row["hit"]:
        return
    if not row["there"]:
        raise NotPlaced(f"no order {order_id} at the paper exchange", code="ORDER_NOT_FOUND", retryable=False)
    words = f"order {order_id} cannot be {done}: it is not working any more, or has filled more"
    raise NotPlaced(words, code="ORDER_NOT_OPEN", retryable=False)
