"""How much of what an exit would close the broker still holds, where the last round of reconciliation says it is less. Sends nothing.

Zerodha's square-off, or a person in Kite, may have closed some of it: an exit of all of it would open the opposite position. What the
broker's net leaves goes out now, for the risk of it is ours; the rest is a person's to settle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from activities.again import again
from core.brokers.port import Trader
from core.errors import BrokerError, Transient
from core.storage.db import transient
from core.storage.exits import WORKING
from core.storage.journal import ORDERS, SENDS, Journal
from core.storage.reconcile import load_standing
from core.trading.reconcile import LineKey
from core.trading.types import Exchange, Intent, Product, Side


@dataclass(frozen=True, slots=True)
class Cover:
    """What the broker's net of a line leaves to close, in units; never below zero. `line` and `net` are for people."""

    line: str
    net: int
    left: int

    def told(self) -> str:
        """Why an exit waits."""
        return (
            f"waits: the broker's net of {self.line} is {self.net:+d}, which leaves nothing to close on this side: somebody else closed "
            "what we hold. Settle it in Kite, or cancel this exit"
        )


@dataclass(frozen=True, slots=True)
class ExitCover:
    """Asked by the place activity of every exit; asks the broker only of lines that were found uncovered."""

    journal: Journal
    trader: Trader

    async def of(self, order: dict[str, Any]) -> Cover | None:
        """None where nothing bounds the exit. Raises the activity's "try again" where the broker cannot be read."""
        line = LineKey(Exchange(order["exchange"]), order["tradingsymbol"], Product(order["product"]))
        if str(line) not in (await load_standing(self.journal, order["account"])).uncovered.since:
            return None
        try:
            positions = await self.trader.positions()
        except (BrokerError, Transient) as error:
            raise again(
                type(error).__name__,
                f"the account cannot be read before an exit of what may be closed already: {error}",
            ) from error
        net = sum(row.quantity for row in positions if LineKey(row.exchange, row.tradingsymbol, row.product) == line)
        left = max(-net * Side(order["side"]).sign, 0) - await self._taken(order)
        return Cover(str(line), net, max(left, 0))

    async def _taken(self, order: dict[str, Any]) -> int:
        """Units of the line that other exits of ours, of whatever strategy, may still close."""
        same = [ORDERS.c[name] == order[name] for name in ("account", "exchange", "tradingsymbol", "product", "side")]
        query = (
            select(func.coalesce(func.sum(SENDS.c.quantity), 0))
            .join(ORDERS, SENDS.c.order_id == ORDERS.c.order_id)
            .where(
                *same,
                ORDERS.c.intent == Intent.EXIT.value,
                ORDERS.c.ended_at.is_(None),
                ORDERS.c.order_id != order["order_id"],
                SENDS.c.send_no == ORDERS.c.send_no,
                SENDS.c.state.in_(WORKING),
            )
        )
        async with transient("reading exits under way"), self.journal.engine.connect() as connection:
            return int(await connection.scalar(query) or 0)
