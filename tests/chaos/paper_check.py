"""Recomputes the paper exchange's fills from its orders and the recorded ticks alone. A script: `python -m tests.chaos.paper_check HOME`.

Shares no code with the matching it checks: each look's fills must be what the order's own limit takes from that tick's visible depth.
Prints a JSON list of what is wrong; never looks at the journal.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import asyncpg

from core.config import Settings
from core.events.topics import MARKET_TICKS
from core.messaging.reader import LogReader
from docker.prerequisites import ROOT

WAY = timedelta(milliseconds=20)
"""Modelled time from the broker to the exchange (docs: the paper exchange)."""

MOST_AT_ONCE = 6
"""Orders that took from one side of one tick: the order in which they came is one of the permutations of so many."""

Level = tuple[Decimal, int]
Took = tuple[Decimal, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """One recorded tick. Rupees, units, UTC."""

    token: int
    last: Decimal
    received_at: datetime
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


async def apart(home: Path) -> list[str]:
    """Run this script as a process of its own and return what it found."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.paper_check", str(home),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=os.environ | {"ALPHA_PANDA_HOME": str(home)},
    )  # fmt: skip
    told, _ = await process.communicate()
    if process.returncode not in (0, 1):
        return [f"the recomputation of the paper exchange itself failed (exit {process.returncode})"]
    found: list[str] = json.loads(told.decode().strip().splitlines()[-1])
    return found


async def check(settings: Settings) -> list[str]:
    """What is wrong, in words."""
    connection = await asyncpg.connect(
        host=settings.postgres_host, port=settings.postgres_port, user="postgres",
        password=settings.postgres_admin_password.get_secret_value(), database=settings.postgres_database,
    )  # fmt: skip
    try:
        orders = {row["broker_order_id"]: row for row in await connection.fetch("SELECT * FROM paper_exchange.orders")}
        trades = await connection.fetch("SELECT * FROM paper_exchange.trades ORDER BY filled_at, trade_id")
    finally:
        await connection.close()
    ticks, prices = await _ticks(settings, {str(row["tick_id"]) for row in trades}, orders.values())
    return [*_totals(orders, trades), *_looks(orders, trades, ticks), *_protection(orders, prices)]


async def _ticks(
    settings: Settings, wanted: set[str], orders: Any
) -> tuple[dict[str, list[Seen]], dict[int, list[Seen]]]:
    """The recorded ticks that filled something, by id; and every tick of instruments with protected orders, by token."""
    protected = {str(row["instrument_token"]).encode() for row in orders if row["market_protection"] is not None}
    by_id: dict[str, list[Seen]] = defaultdict(list)
    by_token: dict[int, list[Seen]] = defaultdict(list)
    reader = LogReader(settings, client_id="chaos-paper", topics=[MARKET_TICKS])
    await reader.start("earliest")
    try:
        ends = {at: end for at, end in (await reader.end_offsets()).items() if end}
        while ends:
            for record in await reader.read(1.0):
                name = (record.headers.get("id") or b"").decode()
                if record.headers.get("type") == b"tick" and (name in wanted or record.key in protected):
                    seen = _seen(json.loads(record.value or b"{}")["data"])
                    by_id[name].append(seen)
                    by_token[seen.token].append(seen)
                if record.offset + 1 >= ends.get((record.topic, record.partition), 0):
                    ends.pop((record.topic, record.partition), None)
    finally:
        await reader.stop()
    return by_id, by_token


def _seen(data: dict[str, Any]) -> Seen:
    def side(rows: list[dict[str, Any]]) -> tuple[Level, ...]:
        return tuple((Decimal(str(row["price"])), row["quantity"]) for row in rows if row["quantity"] > 0)

    return Seen(
        data["instrument_token"], Decimal(str(data["last_price"])), datetime.fromisoformat(data["received_at"]),
        side(data["bids"]), side(data["asks"]),
    )  # fmt: skip


def _totals(orders: dict[str, Any], trades: list[Any]) -> list[str]:
    """Filled quantity and average price of each order are its trades', and its status says so."""
    found = []
    of_order: dict[str, list[Any]] = defaultdict(list)
    for row in trades:
        of_order[row["broker_order_id"]].append(row)
    for order_id, order in orders.items():
        rows = of_order.pop(order_id, [])
        filled = sum(row["quantity"] for row in rows)
        value = sum((row["price"] * row["quantity"] for row in rows), Decimal(0))
        if filled != order["filled_quantity"] or filled > order["quantity"]:
            found.append(f"{order_id}: trades of {filled}, filled {order['filled_quantity']} of {order['quantity']}")
        if filled and abs(value / filled - order["average_price"]) > Decimal("0.000001"):
            found.append(f"{order_id}: average {order['average_price']}, its trades give {value / filled}")
        if (order["status"] == "COMPLETE") != (filled == order["quantity"]):
            found.append(f"{order_id}: {order['status']} with {filled} of {order['quantity']} filled")
    return found + [f"trades of an order that is not there: {order_id}" for order_id in of_order]


def _looks(orders: dict[str, Any], trades: list[Any], ticks: dict[str, list[Seen]]) -> list[str]:
    """Each (tick, side): what was taken is what the limits take from that tick's depth, one order after another."""
    found: list[str] = []
    took: dict[tuple[str, str], dict[str, list[Took]]] = defaultdict(lambda: defaultdict(list))
    before: dict[str, int] = defaultdict(int)
    start: dict[tuple[str, str], int] = {}
    for row in trades:
        order, tick_id = orders[row["broker_order_id"]], str(row["tick_id"])
        start.setdefault((tick_id, row["broker_order_id"]), before[row["broker_order_id"]])
        before[row["broker_order_id"]] += row["quantity"]
        took[tick_id, order["side"]][row["broker_order_id"]].append((row["price"], row["quantity"]))
        seen = ticks.get(tick_id)
        if not seen:
            found.append(f"{row['broker_order_id']}: filled from tick {tick_id}, which was never recorded")
        elif all(one.received_at != row["filled_at"] for one in seen):
            found.append(f"{row['broker_order_id']}: filled at another time than its tick came")
        elif row["filled_at"] < order["accepted_at"] + WAY:
            found.append(f"{row['broker_order_id']}: filled by a tick older than the order")
    for (tick_id, side), by_order in took.items():
        seen = ticks.get(tick_id)
        if seen and not any(_explained(one, side, by_order, orders, start, tick_id) for one in seen):
            found.append(f"tick {tick_id}: {dict(by_order)} is not what {side} orders take from its depth")
    return found


def _explained(
    seen: Seen, side: str, by_order: dict[str, list[Took]], orders: dict[str, Any], start: dict[tuple[str, str], int],
    tick_id: str,
) -> bool:  # fmt: skip
    """Whether some order of arrival gives exactly these executions."""
    if len(by_order) > MOST_AT_ONCE:
        return False
    for arrival in itertools.permutations(by_order):
        depth = [list(level) for level in (seen.asks if side == "BUY" else seen.bids)]
        for order_id in arrival:
            order = orders[order_id]
            left = order["quantity"] - start[tick_id, order_id]
            if sorted(_take(depth, side, order["price"], left)) != sorted(by_order[order_id]):
                break
        else:
            return True
    return False


def _take(depth: list[list[Any]], side: str, limit: Decimal, left: int) -> list[Took]:
    """Take from the depth, best price first, while the limit allows; the depth is left with the rest."""
    found: list[Took] = []
    for level in depth:
        price, there = level
        if left <= 0 or (price > limit if side == "BUY" else price < limit):
            break
        quantity = min(left, there)
        if quantity:
            level[1] -= quantity
            left -= quantity
            found.append((price, quantity))
    return found


def _protection(orders: dict[str, Any], prices: dict[int, list[Seen]]) -> list[str]:
    """A market order's limit is the protection price of some tick that came after it."""
    found = []
    for order_id, order in orders.items():
        if order["market_protection"] is None or order["price"] is None:
            continue
        later = [one for one in prices[order["instrument_token"]] if one.received_at >= order["accepted_at"] + WAY]
        if all(_protected(one.last, order["side"], order["tick_size"]) != order["price"] for one in later):
            found.append(f"{order_id}: limit {order['price']} is no tick's protection price")
    return found


def _protected(last: Decimal, side: str, tick: Decimal) -> Decimal:
    """Zerodha's automatic bands for shares: 2 % below 100 rupees, 1 % up to 500, else 0.5 %, rounded into the band."""
    percent = Decimal(2) if last < 100 else Decimal(1) if last <= 500 else Decimal("0.5")
    if side == "BUY":
        return (last * (1 + percent / 100) / tick).to_integral_value(ROUND_FLOOR) * tick
    return (last * (1 - percent / 100) / tick).to_integral_value(ROUND_CEILING) * tick


if __name__ == "__main__":
    from tests.chaos.home import settings_of

    problems = asyncio.run(check(settings_of(Path(sys.argv[1]))))
    sys.stdout.write(json.dumps(problems) + "\n")
    sys.exit(1 if problems else 0)
