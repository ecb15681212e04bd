"""Why an exit must not go though the journal would let it: read at the broker right before the exit is claimed. Sends nothing.

The journal says what we hold; it does not know of what a person closed in the broker's app, nor of what `flatten --direct` did until that
is booked. An exit sent on it would open the opposite position.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from activities.again import again
from activities.kill_holdings import CLAIMED, holdings, in_scope, key_at_broker, key_of, left
from core import kill_work
from core.brokers.port import BookRow, Trader
from core.brokers.reader import BookReader
from core.config import home
from core.errors import BrokerError, Transient
from core.flatten_file import read_sends
from core.storage.flatten import to_be_booked
from core.storage.journal import Journal
from core.storage.kill import open_business, read_kill
from core.trading.kill import plan
from core.trading.types import Side


@dataclass(slots=True)
class ExitBounds:
    """Asked by the place activity of every exit."""

    journal: Journal
    trader: Trader
    reader: BookReader

    async def why_not(self, order: dict[str, Any]) -> str | None:
        """In words for a person; None where it may go. Raises the activity's "try again" where the broker cannot be read."""
        try:
            told = await self._flattened(order)
            if told is None and order["source"] == kill_work.SOURCE:
                told = await self._past_the_net(order)
        except (BrokerError, Transient) as error:
            raise again(type(error).__name__, f"the account cannot be read before an exit: {error}") from error
        return told

    async def _flattened(self, order: dict[str, Any]) -> str | None:
        """What flatten closed and reconciliation has not booked is not held any more, whatever the journal says."""
        mine = [send for send in read_sends(home()) if send.key == key_of(order) and (send.is_open or send.trades)]
        if not mine:
            return None
        rows = (await self.reader.book(not_before=time.monotonic())).rows if any(s.is_open for s in mine) else ()
        waiting = await to_be_booked(self.journal, mine, order["account"], order["target"], rows)
        if not waiting:
            return None
        return "waits: `flatten --direct` closed something of this position, which reconciliation has still to book"

    async def _past_the_net(self, order: dict[str, Any]) -> str | None:
        """A kill switch bounds its exits by the broker's net when it plans them; until they are sent that may have shrunk."""
        key = key_of(order)
        business = await open_business(self.journal.engine, order["account"])
        kill = await read_kill(self.journal.engine, order["correlation_id"])
        scope = None if kill is None else kill.strategy_id
        beside = [
            other
            for other in business.orders
            if other["order_id"] != order["order_id"]
            and key_of(other) == key
            and other["side"] == order["side"]
            and other["send_state"] in CLAIMED
            and in_scope(scope, other)
        ]
        # The book first: what fills between the reads makes the net smaller, and counts as still to be taken.
        rows = (await self.reader.book(not_before=time.monotonic())).rows if beside else ()
        net = sum(row.quantity for row in await self.trader.positions() if key_at_broker(row) == key)
        held = [row for row in holdings(self.journal.broker, scope, business) if row.key == key]
        found = next(iter(plan(held, {key: net})), None)
        if found is None or found.ours * Side(order["side"]).sign >= 0:
            return None  # nothing to close on that side: the claim says so
        taken = sum(_still_to_take(other, rows) for other in beside)
        wanted = order["quantity"] - order["filled_quantity"]
        if wanted <= found.closable - taken:
            return None
        return (
            f"waits: the broker's net is {net:+d} now, which leaves {max(found.closable - taken, 0)} to close for this exit of {wanted}; "
            "the kill switch plans it anew"
        )


def _still_to_take(order: dict[str, Any], rows: Sequence[BookRow]) -> int:
    """What a claimed exit may still take of the broker's net, by the book, which is ahead of the journal."""
    row = next((r for r in rows if r.broker_order_id == order["broker_order_id"] or order["tag"] in r.tags), None)
    if row is None:
        return left(order)
    return 0 if row.is_end else max(int(order["send_quantity"]) - row.filled_quantity, 0)
