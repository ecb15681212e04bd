"""Whether the broker still holds what an exit would close, where the last round of reconciliation says it does not. Sends nothing.

Zerodha's square-off, or a person in Kite, may have closed it: an exit of ours would then open the opposite position.
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
class ExitCover:
    """Asked by the place activity of every exit; asks the broker only of lines that were found uncovered."""

    journal: Journal
    trader: Trader

    async def why_not(self, order: dict[str, Any]) -> str | None:
        """In words for a person; None where it may go. Raises the activity's "try again" where the broker cannot be read."""
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
        wanted = order["quantity"] - order["filled_quantity"]
        if wanted <= left:
            return None
        return (
            f"waits: the broker's net of {line} is {net:+d}, which leaves {max(left, 0)} to close for this exit of {wanted}: "
            "somebody else closed what we hold. Settle it in Kite, or cancel this exit"
        )

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
