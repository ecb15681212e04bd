"""What the tests of reconciliation stand on: a broker that is told what to show, alerts that are heard, a journal to mend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.command_calls import CommandCalls
from activities.reconcile_book import ReconcileBook
from activities.reconcile_orders import ReconcileOrders
from core import ids
from core.brokers.pacer import Pacer
from core.brokers.port import Book, BookRow, BrokerPosition, BrokerProfile, Trade
from core.brokers.reader import BookReader
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import Transient
from core.events.envelope import decode
from core.events.payloads import Reconciliation
from core.messaging.producer import EventProducer
from core.reconcile_work import Compared, ReconcileDurations, RoundInput, RoundResult
from core.storage.command_journal import CommandJournal
from core.storage.db import broker_engine
from core.storage.outbox import Outbox
from core.temporal import connect
from core.trading.calendar import calendar_for
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Exchange, OrderStatus, OrderType, Product, Side
from tests.journal_world import JournalWorld, trade

AT_ONCE = ReconcileDurations(left_behind=0.0, young=0.0, confirm=0.0, blind=0.0)
BROKER = Broker.ZERODHA


@dataclass
class ToldTrader:
    """Shows the book, trades and positions it is told to. `cancelled` is what was asked to be cancelled."""

    owner: str
    rows: list[BookRow] = field(default_factory=list)
    listed: dict[str, list[Trade]] = field(default_factory=dict)
    net: dict[tuple[str, Product], int] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    between: Any = None
    profile: BrokerProfile = field(
        default_factory=lambda: BrokerProfile(None, 0, None, 0, None, 0, None, delivers=True)
    )
    broker: Broker = BROKER

    async def account(self) -> str:
        return self.owner

    async def book(self) -> Book:
        now = utc_now()
        return Book(self.owner, trading_day(now), now, now, tuple(self.rows))

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        return {row.broker_order_id: row for row in self.rows if row.broker_order_id in broker_order_ids}

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        return {key: tuple(found) for key, found in self.listed.items() if key in broker_order_ids}

    async def positions(self) -> tuple[BrokerPosition, ...]:
        if self.between is not None:
            between, self.between = self.between, None
            await between()
        return tuple(
            BrokerPosition(Exchange.NSE, symbol, 408065, product, quantity, Decimal(100))
            for (symbol, product), quantity in self.net.items()
            if quantity
        )

    async def cancel(self, broker_order_id: str) -> None:
        self.cancelled.append(broker_order_id)

    def order(
        self,
        broker_order_id: str,
        signed: int,
        *,
        filled: int | None = None,
        status: str = "COMPLETE",
        tags: Iterable[str] = (),
        lists: bool = True,
        net: bool = True,
        age_s: float = 60,
    ) -> None:
        """An order in the book, with its trade, and the position it made."""
        side, quantity = Side.BUY if signed > 0 else Side.SELL, abs(signed)
        filled = quantity if filled is None else filled
        self.rows = [row for row in self.rows if row.broker_order_id != broker_order_id]
        self.rows.append(
            BookRow(
                broker_order_id, tuple(tags), status, None, Exchange.NSE, "INFY", 408065, side, Product.MIS,
                OrderType.MARKET, quantity, filled, 0, None, None, None, utc_now(),
            )
        )  # fmt: skip
        if filled and lists:
            at = utc_now() - timedelta(seconds=age_s)
            self.listed[broker_order_id] = [
                Trade(f"T{broker_order_id}", broker_order_id, Exchange.NSE, "INFY", 408065, side, Product.MIS, filled,
                      Decimal(100), at)
            ]  # fmt: skip
        if net:
            key = ("INFY", Product.MIS)
            self.net[key] = self.net.get(key, 0) + filled * side.sign


@dataclass
class HeardAlerts:
    raised: list[tuple[str, str]] = field(default_factory=list)

    async def raise_(self, kind: str, subject: str, message: str, action: str, **details: str) -> None:
        self.raised.append((kind, message))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.raised]


@dataclass
class World:
    """An account of its own: its journal, its broker, and the two halves of a round."""

    account: str
    journal: JournalWorld
    trader: ToldTrader
    book: ReconcileBook
    orders: ReconcileOrders
    alerts: HeardAlerts
    client: Client
    sent: list[tuple[str, Reconciliation]]

    def at(self, **changes: Any) -> RoundInput:
        given: dict[str, Any] = {
            "round_id": ids.new_id(),
            "broker": BROKER,
            "account": self.account,
            "target": "test",
            "reasons": ("a test",),
            "durations": AT_ONCE,
        }
        return RoundInput(**given | changes)

    async def round(self, **changes: Any) -> Reconciliation:
        """One whole round; what it told the log."""
        at = self.at(**changes)
        mended = await ActivityEnvironment().run(self.orders.mend_orders, at)
        compared: Compared | None = None
        trouble: tuple[str, ...] = ()
        try:
            compared = await ActivityEnvironment().run(self.book.compare_with_broker, at)
        except Transient as error:
            trouble = (str(error),)
        result = RoundResult(round=at, mended=mended, compared=compared, trouble=trouble)
        await ActivityEnvironment().run(self.orders.report_round, result)
        return next(report for _, report in reversed(self.sent) if report.round_id == at.round_id)

    async def opened(self) -> None:
        """Two rounds that agree: what the day began with is known."""
        for _ in range(2):
            await self.round()

    async def order(self, side: Side = Side.BUY, quantity: int = 10, **changes: Any) -> UUID:
        return await self.journal.order(side, quantity, account=self.account, **changes)

    async def filled(self, quantity: int = 10, **changes: Any) -> tuple[UUID, str]:
        """Ours: sent, filled, booked, and in the book just so."""
        order_id = await self.order(quantity=quantity, **changes)
        broker_order_id = await self.journal.sent(order_id)
        self.trader.order(broker_order_id, quantity)
        one = self.trader.listed[broker_order_id][0]
        await self.journal.fill(order_id, trade(quantity, name=one.trade_id, at=one.filled_at))
        return order_id, broker_order_id

    async def status(self, order_id: UUID) -> OrderStatus:
        return (await self.journal.journal.load(order_id)).status


@asynccontextmanager
async def reconcile_world(stack: Settings) -> AsyncIterator[World]:
    engine = broker_engine(stack, BROKER)
    journal = await JournalWorld.make(engine, BROKER)
    account = f"R{ids.new_id().hex[-10:].upper()}"
    trader, alerts = ToldTrader(account), HeardAlerts()
    told: Any = trader
    heard: Any = alerts
    client = await connect(stack)
    producer = EventProducer(stack, client_id="test", broker=BROKER)
    await producer.start()
    sent: list[tuple[str, Reconciliation]] = []
    send = producer.send_raw

    async def send_raw(topic: str, *, key: bytes, value: bytes, headers: Any) -> None:
        await send(topic, key=key, value=value, headers=headers)
        data = decode(value).data
        if isinstance(data, Reconciliation):
            sent.append((topic, data))

    producer.send_raw = send_raw  # type: ignore[method-assign]
    outbox = Outbox(engine, producer)
    reader = BookReader(told)
    commands = CommandCalls(CommandJournal(engine, BROKER), told, reader, Pacer(trader.profile), journal.proof)
    durations = OrderDurations()
    publishing = asyncio.create_task(outbox.run())
    book = ReconcileBook(journal.journal, told, reader, client, commands)
    calendar = calendar_for(simulated=True)
    orders = ReconcileOrders(journal.journal, outbox, producer, heard, client, durations, calendar)
    try:
        yield World(account, journal, trader, book, orders, alerts, client, sent)
    finally:
        publishing.cancel()
        await producer.stop()
        await engine.dispose()


def figures(report: Reconciliation) -> dict[str, tuple[int, int, int, int | None]]:
    return {
        f"{line.tradingsymbol}:{line.product}": (line.broker, line.ours, line.foreign, line.drift)
        for line in report.lines
    }
