"""What the tests of the kill switch stand on: an account of its own in a real journal, and a broker that answers what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert, select
from temporalio.testing import ActivityEnvironment

from activities.kill_broker_calls import KillBrokerCalls
from activities.kill_calls import KillCalls
from core import ids
from core.brokers.pacer import Pacer
from core.brokers.port import Book, BookRow, BrokerPosition, BrokerProfile, PlaceRequest, Trade
from core.brokers.reader import BookReader
from core.clock import trading_day, utc_now
from core.config import Settings
from core.events.envelope import Envelope
from core.kill_work import AccountOrder, AccountPosition, AccountSeen, KillInput, KillView, SeenInput
from core.storage.commands import COMMANDS
from core.storage.db import broker_engine
from core.storage.risk import DECISIONS
from core.temporal import connect
from core.trading.calendar import calendar_for
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Exchange, Intent, OrderType, Product, Side
from tests.journal_world import TARGET, JournalWorld, trade

INFY_TOKEN = 408065


@dataclass
class Log:
    """What was published."""

    sent: list[tuple[str, Envelope]] = field(default_factory=list)

    async def send(self, topic: str, event: Envelope) -> None:
        self.sent.append((topic, event))


@dataclass
class KillWorld:
    """An account of its own, so that tests do not see each other."""

    journal: JournalWorld
    account: str
    log: Log
    calls: KillCalls

    def kill(self, **changes: Any) -> KillInput:
        values: dict[str, Any] = {
            "kill_id": ids.new_id(),
            "broker": Broker.ZERODHA,
            "account": self.account,
            "strategy_id": None,
            "requested_by": "tester",
            "reason": "a test",
            "include_foreign": False,
            "durations": OrderDurations(),
        }
        return KillInput(**(values | changes))

    async def engage(self, kill: KillInput) -> None:
        await ActivityEnvironment().run(self.calls.engage, kill)

    async def cancel(self, kill: KillInput) -> tuple[str, ...]:
        told: tuple[str, ...] = await ActivityEnvironment().run(self.calls.cancel_orders, kill)
        return told

    async def exits(
        self, kill: KillInput, *positions: tuple[str, int], working: Sequence[AccountOrder] = ()
    ) -> KillView:
        rows = tuple(
            AccountPosition(instrument=name, product="MIS", quantity=quantity, instrument_token=INFY_TOKEN)
            for name, quantity in positions
        )
        asked = SeenInput(kill=kill, seen=AccountSeen(positions=rows, working=tuple(working)))
        view: KillView = await ActivityEnvironment().run(self.calls.exit_positions, asked)
        return view

    async def order(self, side: Side = Side.BUY, quantity: int = 10, **changes: Any) -> UUID:
        return await self.journal.order(side, quantity, account=self.account, **changes)

    async def hold(self, side: Side, quantity: int) -> None:
        order_id = await self.order(side, quantity)
        await self.journal.sent(order_id)
        await self.journal.fill(order_id, trade(quantity))

    async def decided(self, event: Envelope, *, accepted: bool) -> UUID | None:
        """Risk decides on a published exit: a PENDING order, or a denial."""
        signal: Any = event.data
        row = {
            "signal_id": signal.signal_id, "decision_id": uuid4(), "instance": signal.instance, "side": signal.side.value,
            "instrument_token": signal.instrument_token, "slot": signal.slot, "accepted": accepted,
            "denials": [] if accepted else [{"code": "INSTRUMENT", "message": "not listed"}],
            "event_topic": "t", "event_key": "k", "event_value": b"", "event_headers": [], "decided_at": utc_now(),
        }  # fmt: skip
        async with self.journal.engine.begin() as connection:
            await connection.execute(insert(DECISIONS).values(**row))
        if not accepted:
            return None
        return await self.order(
            signal.side, signal.quantity, intent=Intent.EXIT, signal_id=signal.signal_id, source=signal.source
        )

    async def commands(self) -> list[dict[str, Any]]:
        async with self.journal.engine.connect() as connection:
            rows = await connection.execute(select(COMMANDS).where(COMMANDS.c.requested_by == "kill:tester"))
            return [dict(row) for row in rows.mappings()]


@asynccontextmanager
async def kill_world(stack: Settings) -> AsyncIterator[KillWorld]:
    engine = broker_engine(stack, Broker.ZERODHA)
    journal, log = await JournalWorld.make(engine, Broker.ZERODHA), Log()
    told: Any = log
    calls = KillCalls(engine, Broker.ZERODHA, await connect(stack), told, calendar_for(simulated=True), TARGET)
    yield KillWorld(journal, f"K{ids.new_id().hex[-10:]}", log, calls)
    await engine.dispose()


class Account:
    """A broker's account that answers what the test says."""

    broker = Broker.ZERODHA
    profile = BrokerProfile(None, 0, None, 0, None, 0, None)

    def __init__(self) -> None:
        self.rows: tuple[BookRow, ...] = ()
        self.held: tuple[BrokerPosition, ...] = ()
        self.placed: list[PlaceRequest] = []
        self.cancelled: list[str] = []
        self.refusal: Exception | None = None

    async def book(self) -> Book:
        now = utc_now()
        return Book("A", trading_day(now), now, now, self.rows)

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        return {row.broker_order_id: row for row in self.rows if row.broker_order_id in broker_order_ids}

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        return {}

    async def positions(self) -> tuple[BrokerPosition, ...]:
        return self.held

    async def place(self, request: PlaceRequest) -> str:
        self.placed.append(request)
        if self.refusal is not None:
            raise self.refusal
        return f"B{request.tag}"

    async def cancel(self, broker_order_id: str) -> None:
        self.cancelled.append(broker_order_id)


def position(quantity: int, symbol: str = "SBIN") -> BrokerPosition:
    return BrokerPosition(Exchange.NSE, symbol, 779521, Product.MIS, quantity, Decimal(800))


def book_row(broker_order_id: str, status: str = "OPEN", *tags: str, filled: int = 0) -> BookRow:
    return BookRow(
        broker_order_id, tags, status, None, Exchange.NSE, "SBIN", 779521, Side.SELL, Product.MIS, OrderType.LIMIT,
        5, filled, 0, None, None, None, utc_now(),
    )  # fmt: skip


async def close(world: KillWorld, account: Account, kill: KillInput) -> tuple[str, ...]:
    told: Any = account
    reader = BookReader(told)
    at = KillBrokerCalls(world.journal.journal, told, reader, Pacer(account.profile), world.journal.proof)
    found: tuple[str, ...] = await ActivityEnvironment().run(at.close_foreign, kill)
    return found
