"""A journal and a broker that answers as each test says, for the tests of commands and late rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from temporalio.testing import ActivityEnvironment

from activities.command_calls import CommandCalls
from core import ids
from core.brokers.pacer import Pacer
from core.brokers.port import Book, BookRow, BrokerProfile, Trade
from core.brokers.reader import BookReader
from core.clock import trading_day, utc_now
from core.order_work import CommandCall, CommandResult, LateRowInput, LateRowView
from core.storage.claims import ClaimResult
from core.storage.command_journal import CommandJournal
from core.storage.commands import COMMANDS, CommandRecord, read_command, request_command
from core.storage.journal import SENDS
from core.trading.commands import MODIFICATIONS, CommandKind, CommandOutcome
from core.trading.durations import OrderDurations
from core.trading.types import Exchange, OrderStatus, OrderType, Product, Side
from tests.journal_world import ACCOUNT, JournalWorld

DURATIONS = OrderDurations()


def row(broker_order_id: str, status: str = "OPEN", **changes: Any) -> BookRow:
    """INFY, 10 to buy at 100, as the book lists it."""
    values: dict[str, Any] = {
        "broker_order_id": broker_order_id,
        "tags": (),
        "status": status,
        "status_message": None,
        "exchange": Exchange.NSE,
        "tradingsymbol": "INFY",
        "instrument_token": 408065,
        "side": Side.BUY,
        "product": Product.MIS,
        "order_type": OrderType.LIMIT,
        "quantity": 10,
        "filled_quantity": 0,
        "cancelled_quantity": 0,
        "average_price": None,
        "price": Decimal(100),
        "trigger_price": None,
        "order_at": None,
    }
    return BookRow(**(values | changes))


def listed(broker_order_id: str, quantity: int, price: str = "100", name: str = "T1") -> Trade:
    return Trade(
        name, broker_order_id, Exchange.NSE, "INFY", 408065, Side.BUY, Product.MIS, quantity, Decimal(price), utc_now()
    )


class ToldTrader:
    """A broker that answers what the test says; `asked` notes every command that reached it."""

    def __init__(self) -> None:
        self.profile = BrokerProfile(None, 0, None, 0, None, 0, MODIFICATIONS)
        self.rows: dict[str, BookRow] = {}
        self.filled: tuple[Trade, ...] = ()
        self.answer: Exception | None = None
        self.reading: Exception | None = None
        self.applies = True
        self.asked: list[str] = []
        self.send_by: list[float] = []

    async def account(self) -> str:
        return ACCOUNT

    async def cancel(self, broker_order_id: str) -> None:
        self.asked.append(f"cancel {broker_order_id}")
        if self.applies and broker_order_id in self.rows:
            self.rows[broker_order_id] = replace(self.rows[broker_order_id], status="CANCELLED")
        if self.answer is not None:
            raise self.answer

    async def modify(self, broker_order_id: str, *, deadline: float, **changes: Any) -> None:
        self.asked.append(f"modify {broker_order_id}")
        self.send_by.append(deadline)
        if self.applies:
            new = {name: value for name, value in changes.items() if value is not None}
            self.rows[broker_order_id] = replace(self.rows[broker_order_id], **new)
        if self.answer is not None:
            raise self.answer

    async def book(self) -> Book:
        if self.reading is not None:
            raise self.reading
        now = utc_now()
        return Book(ACCOUNT, trading_day(now), now, now, tuple(self.rows.values()))

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        return {one.broker_order_id: one for one in (await self.book()).rows if one.broker_order_id in broker_order_ids}

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        return {key: tuple(t for t in self.filled if t.broker_order_id == key) for key in broker_order_ids}


class CommandWorld(JournalWorld):
    """One journal and a told broker."""

    trader: ToldTrader

    @property
    def commands(self) -> CommandJournal:
        return CommandJournal(self.engine, self.journal.broker)

    async def ask(
        self, order_id: UUID, kind: CommandKind, request_id: UUID | None = None, **parameters: Any
    ) -> CommandRecord:
        return await request_command(
            self.engine,
            request_id=request_id or ids.new_id(),
            order_id=order_id,
            kind=kind,
            parameters=parameters,
            requested_by="asha",
            reason="test",
        )

    def calls(self) -> CommandCalls:
        told: Any = self.trader
        return CommandCalls(self.commands, told, BookReader(told), Pacer(self.trader.profile.commands), self.proof)

    async def carry_out(self, record: CommandRecord) -> CommandResult:
        call = CommandCall(request_id=record.request_id, order_id=record.order_id, durations=DURATIONS)
        found: CommandResult = await ActivityEnvironment().run(self.calls().carry_out, call)
        return found

    async def adopt(self, broker_order_id: str) -> LateRowView:
        found: LateRowView = await ActivityEnvironment().run(
            self.calls().adopt_late_row, LateRowInput(broker_order_id=broker_order_id)
        )
        return found

    async def read(self, record: CommandRecord) -> CommandRecord:
        found = await read_command(self.engine, record.request_id)
        assert found is not None
        return found

    async def outcome(self, record: CommandRecord) -> CommandOutcome | None:
        return (await self.read(record)).outcome

    async def working(self, **changes: Any) -> tuple[UUID, str]:
        """A LIMIT order, ACKED, in the book."""
        values = {"order_type": "LIMIT", "price": Decimal(100)} | changes
        order_id = await self.order(**values)
        broker_order_id = await self.sent(order_id)
        await self.fill(order_id, status="OPEN")
        self.trader.rows[broker_order_id] = row(broker_order_id)
        return order_id, broker_order_id

    async def doubtful(self, **changes: Any) -> UUID:
        """UNRESOLVED: sent, never answered, its day over."""
        order_id = await self.order(**changes)
        assert (await self.claim(order_id)).result is ClaimResult.CLAIMED
        await self.journal.unknown(order_id, 1, "read timeout")
        await self.journal.unresolved(order_id, 1, "the day is over")
        return order_id

    async def backdate(self, record: CommandRecord, **seconds: float) -> None:
        values = {name: utc_now() - timedelta(seconds=age) for name, age in seconds.items()}
        async with self.engine.begin() as connection:
            await connection.execute(
                update(COMMANDS).where(COMMANDS.c.request_id == record.request_id).values(**values)
            )

    async def sends(self, order_id: UUID) -> list[dict[str, Any]]:
        async with self.engine.connect() as connection:
            query = select(SENDS).where(SENDS.c.order_id == order_id).order_by(SENDS.c.send_no)
            return [dict(one) for one in (await connection.execute(query)).mappings()]

    async def status(self, order_id: UUID) -> OrderStatus:
        return (await self.journal.load(order_id)).status
