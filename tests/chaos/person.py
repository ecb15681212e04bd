"""The person at the desk: cancels an exit that waits because the broker's net leaves it nothing to close, as the docs tell a trader to.

The stranger's orders of the plan (from the app, from the risk desk) net against ours in the same account; what they closed is not ours to
exit any more. Cancels by the public command, and nothing else.
"""

from __future__ import annotations

import asyncio
import json

from core.trading.types import Side
from tests.chaos.world import World

LOOK_S = 2.0
REASON = "chaos: the broker's net leaves this exit nothing to close"

_LAST_ROUND = """SELECT value FROM zerodha.reconciliations WHERE judged AND finished_at IS NOT NULL
    ORDER BY finished_at DESC LIMIT 1"""
_WAITING = """SELECT o.order_id::text, o.side, o.exchange || ':' || o.tradingsymbol || ':' || o.product AS line
    FROM zerodha.orders o JOIN zerodha.sends s USING (order_id, send_no)
    WHERE o.ended_at IS NULL AND o.intent = 'EXIT' AND o.status = 'PENDING' AND s.state = 'INTENT'
      AND NOT o.cancel_requested AND o.created_at < now() - interval '2 seconds'"""


class Person:
    """`settled` are the orders it cancelled."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.settled: set[str] = set()

    async def run(self) -> None:
        """Until cancelled. Looks again and again, whatever is away."""
        while True:
            bare = await self._bare()
            self._world.bare.update(bare)
            for order_id in bare:
                await self._cancel(order_id)
            await asyncio.sleep(LOOK_S)

    async def _bare(self) -> list[str]:
        """Exits not sent yet, of lines whose net at the broker leaves them nothing, by the last round of reconciliation."""
        rounds = await self._world.try_sql(_LAST_ROUND)
        waiting = await self._world.try_sql(_WAITING)
        if not rounds or not waiting:
            return []
        lines = json.loads(bytes(rounds[0]["value"]))["data"]["lines"]
        nets = {
            f"{line['exchange']}:{line['tradingsymbol']}:{line['product']}": line["broker"]
            for line in lines
            if line["uncovered"]
        }
        return [
            row["order_id"]
            for row in waiting
            if row["order_id"] not in self.settled
            and row["line"] in nets
            and -nets[row["line"]] * Side(row["side"]).sign <= 0
        ]

    async def _cancel(self, order_id: str) -> None:
        done = await asyncio.to_thread(
            self._world.system.command, "cancel", order_id, "--reason", REASON, "--wait", "20", check=False
        )
        if done.returncode in {0, 1}:  # it ended, this way or another
            self.settled.add(order_id)
        self._world.log.write(
            "a person cancels a waiting exit",
            order_id=order_id,
            code=done.returncode,
            said=(done.stdout + done.stderr)[-300:],
        )
