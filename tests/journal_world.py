"""Builders for journal tests: an order as the risk manager would insert it, claims, fills."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from random import randrange
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids
from core.clock import utc_now
from core.storage.claims import Claim, ClaimResult, LeaseProof, claim_send
from core.storage.journal import ORDERS, SENDS, Journal, JournalOrder
from core.storage.leases import Lease
from core.storage.models import AccountRow, FillRow, LeaseRow, OutgoingEventRow, PositionRow, table_of
from core.trading.orders import SeenFill, SeenOrder, end_of
from core.trading.types import Broker, Intent, SendState, Side

ACCOUNT = "TEST01"
TARGET = "test"


@dataclass
class JournalWorld:
    """One journal, one held lease, and a strategy instance and an instrument of its own, so that tests do not see each other."""

    journal: Journal
    engine: AsyncEngine
    instance: str
    proof: LeaseProof
    token: int = field(default_factory=lambda: randrange(10**9, 10**15))
    """Of "its" INFY: while one of its orders is in doubt, the account takes no entry of it."""

    @classmethod
    async def make(cls, engine: AsyncEngine, broker: Broker) -> JournalWorld:
        name = f"test-{ids.new_id()}"
        lease = Lease(engine, LeaseRow, name, "me")
        epoch = await lease.acquire()
        assert epoch is not None
        proof = LeaseProof(name, "me", epoch, ACCOUNT, TARGET)
        return cls(Journal(engine, broker), engine, f"t{ids.new_id()}@{broker}", proof)

    async def order(
        self, side: Side = Side.BUY, quantity: int = 10, intent: Intent = Intent.ENTRY, **changes: Any
    ) -> UUID:
        """An order decided just now, its first send waiting to be claimed."""
        now = utc_now()
        order_id = ids.new_id()
        values: dict[str, Any] = {
            "order_id": order_id,
            "signal_id": ids.new_id(),
            "correlation_id": ids.new_id(),
            "strategy_id": self.instance.split("@")[0],
            "instance": self.instance,
            "source": "strategy",
            "requested_by": "strategy:test",
            "account": ACCOUNT,
            "target": TARGET,
            "instrument": "NSE:INFY",
            "instrument_token": self.token,
            "instrument_type": "EQ",
            "exchange": "NSE",
            "tradingsymbol": "INFY",
            "lot_size": 1,
            "tick_size": Decimal("0.05"),
            "side": side.value,
            "intent": intent.value,
            "order_type": "MARKET",
            "product": "MIS",
            "validity": "DAY",
            "quantity": quantity,
            "status": "PENDING",
            "send_no": 1,
            "order_seq": 0,
            "filled_quantity": 0,
            "cancel_requested": False,
            "origin_at": now,
            "age_limit_s": 5.0,
            "realized_pnl": Decimal(0),
            "charges": Decimal(0),
            "created_at": now,
            "updated_at": now,
        } | changes
        async with self.engine.begin() as connection:
            await connection.execute(insert(ORDERS).values(**values))
            await connection.execute(
                insert(SENDS).values(
                    order_id=order_id,
                    send_no=1,
                    tag=ids.order_tag(order_id, 1),
                    state=SendState.INTENT.value,
                    account=values["account"],
                    quantity=quantity,
                )
            )
        return order_id

    async def claim(self, order_id: UUID, send_no: int = 1, proof: LeaseProof | None = None) -> Claim:
        """As a worker logged in to the order's own account and target, unless under another `proof`."""
        if proof is None:
            order = (await self.journal.load(order_id)).order
            proof = self.logged_in(order["account"], order["target"])
        return await claim_send(self.journal, order_id, send_no, proof, 8.0)

    def logged_in(self, account: str, target: str = TARGET) -> LeaseProof:
        """Our lease, held by a process that is logged in to this account."""
        return replace(self.proof, account=account, target=target)

    async def sent(self, order_id: UUID) -> str:
        """Claimed, sent and accepted; returns the broker order id."""
        claim = await self.claim(order_id)
        assert claim.result is ClaimResult.CLAIMED, claim
        broker_order_id = f"B{str(order_id)[-12:]}"
        await self.journal.submitted(order_id, 1, broker_order_id, "accepted")
        return broker_order_id

    async def fill(
        self, order_id: UUID, *trades: SeenFill, status: str = "COMPLETE", quantity: int | None = None
    ) -> JournalOrder:
        """Fold a book that shows these trades."""
        found = await self.journal.load(order_id)
        total = sum(t.quantity for t in trades)
        seen = SeenOrder(True, end_of(status), quantity or found.order["quantity"], total, None)
        return await self.journal.fold(order_id, found.order["broker_order_id"], seen, trades)

    async def hold(self, side: Side, quantity: int, price: str = "100") -> None:
        """Make the instance hold a position, by an order that fills."""
        order_id = await self.order(side, quantity)
        await self.sent(order_id)
        await self.fill(order_id, trade(quantity, price))

    async def position(self) -> dict[str, Any]:
        table = table_of(PositionRow)
        async with self.engine.connect() as connection:
            rows = await connection.execute(select(table).where(table.c.instance == self.instance))
            return dict(rows.mappings().one())

    async def fills(self) -> list[dict[str, Any]]:
        table = table_of(FillRow)
        async with self.engine.connect() as connection:
            query = select(table).where(table.c.instance == self.instance).order_by(table.c.filled_at, table.c.trade_id)
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def events(self, order_id: UUID) -> list[dict[str, Any]]:
        table = table_of(OutgoingEventRow)
        async with self.engine.connect() as connection:
            query = select(table).where(table.c.order_id == order_id).order_by(table.c.order_seq)
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def kill_switch(self, on: bool, account: str) -> None:
        table = table_of(AccountRow)
        async with self.engine.begin() as connection:
            if (await connection.execute(select(table).where(table.c.account == account))).first() is None:
                await connection.execute(insert(table).values(account=account, kill=on))
            else:
                await connection.execute(update(table).where(table.c.account == account).values(kill=on))


def trade(quantity: int, price: str = "100", *, at: datetime | None = None, name: str | None = None) -> SeenFill:
    return SeenFill(name or str(ids.new_id()), quantity, Decimal(price), at or utc_now())


def before(seconds: float) -> datetime:
    return utc_now() - timedelta(seconds=seconds)
