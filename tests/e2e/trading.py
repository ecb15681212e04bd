"""What the end-to-end tests share: a strategy whose decisions we steer by price, a hand that keeps the prices ticking, a referee."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from types import TracebackType
from typing import Any

import httpx

from core.order_work import ORDER_WORKFLOW
from core.storage.strategies import StrategyConfig
from core.temporal import connect
from core.trading.types import Broker, KiteTarget
from tests.fixtures.system import System

INFY, SBIN = "NSE:INFY", "NSE:SBIN"
SPREAD = Decimal("0.10")
LEVELS = {INFY: (Decimal(1490), Decimal(1510)), SBIN: (Decimal(820), Decimal(840))}
"""Low and high price a market swings between, inside the sandbox's circuit limits of the instrument."""
PACE_S = 0.25


def steered(strategy_id: str, *instruments: str, quantity: int = 10, zerodha: bool = True) -> StrategyConfig:
    """Momentum on bars of one second: a jump up makes it buy, a jump down makes it leave. Opted in to the local target."""
    parameters = {"bar_s": 1, "fast": 2, "slow": 3, "quantity": quantity}
    opt_ins = {Broker.ZERODHA.value: KiteTarget.LOCAL.value} if zerodha else {}
    return StrategyConfig(strategy_id, "Momentum", parameters, instruments, True, opt_ins=opt_ins, age_limit_s=20)


class Market:
    """Ticks an instrument's price four times a second until told another price: `with Market(system, INFY, Decimal(1500)) as market`."""

    def __init__(self, system: System, instrument: str, price: Decimal | None = None) -> None:
        """Starts at the low of LEVELS unless told a price."""
        self._system, self._instrument = system, instrument
        self.price = LEVELS[instrument][0] if price is None else price
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"market {instrument}", daemon=True)
        self.error: Exception | None = None

    def jump(self) -> None:
        """From low to high, or back."""
        low, high = LEVELS[self._instrument]
        self.price = low if self.price == high else high

    def __enter__(self) -> Market:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(15)

    def _run(self) -> None:
        while not self._stop.wait(PACE_S):
            try:
                self._system.price(self._instrument, self.price, spread=SPREAD)
            except Exception as error:  # the sandbox may be down just now: kept for the test to look at
                self.error = error


def charges(side: str, quantity: int, price: Decimal) -> Decimal:
    """Intraday equity on NSE by hand, rates of 1 April 2026 (zerodha.com/charges), apart from the code under test."""
    turnover = quantity * price
    brokerage = min(turnover * Decimal("0.0003"), Decimal(20))
    exchange = turnover * Decimal("0.0000307")
    sebi = turnover * Decimal("0.000001")
    stt = turnover * Decimal("0.00025") if side == "SELL" else Decimal(0)
    stamp = turnover * Decimal("0.00003") if side == "BUY" else Decimal(0)
    return brokerage + exchange + sebi + stt + stamp + Decimal("0.18") * (brokerage + exchange + sebi)


def referee(system: System, broker: Broker) -> dict[str, int]:
    """Hold the journal against the broker's own ledger, order by order. Raises AssertionError at the first breach.

    At most one accepted order per send, none only where the journal says why; events gapless; fills and positions add up.
    """
    accepted = _accepted(system, broker)
    orders = system.sql(f"SELECT * FROM {broker}.orders")
    sends = system.sql(f"SELECT * FROM {broker}.sends")
    by_tag = {send["tag"]: send for send in sends}
    strangers = set(accepted) - set(by_tag)
    assert not strangers, f"the broker holds orders the journal never sent: {strangers}"
    of_order: dict[Any, list[str]] = defaultdict(list)
    for tag, broker_order_ids in accepted.items():
        assert len(broker_order_ids) == 1, f"one send, {len(broker_order_ids)} orders at the broker: {tag}"
        of_order[by_tag[tag]["order_id"]].append(tag)
    for order in orders:
        reached = of_order.get(order["order_id"], [])
        assert len(reached) <= 1, f"order {order['order_id']} reached the broker {len(reached)} times"
        if not reached:
            assert order["status"] in {"EXPIRED", "CANCELLED", "REJECTED"}, f"lost: {order}"
            assert order["reason"], f"no order at the broker and no reason why: {order}"
    _events_are_gapless(system, broker, orders)
    _fills_add_up(system, broker)
    return {"orders": len(orders), "accepted": len(accepted), "filled": sum(o["status"] == "FILLED" for o in orders)}


def _accepted(system: System, broker: Broker) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    if broker is Broker.ZERODHA:
        for row in system.admin("ledger"):
            found[row["tag"]].append(row["order_id"])
    else:
        for row in system.sql("SELECT tag, broker_order_id FROM paper_exchange.orders"):
            found[row["tag"]].append(row["broker_order_id"])
    return found


def _events_are_gapless(system: System, broker: Broker, orders: list[dict[str, Any]]) -> None:
    events: dict[Any, list[int]] = defaultdict(list)
    for row in system.sql(f"SELECT order_id, order_seq, published_at FROM {broker}.outgoing_events ORDER BY order_seq"):
        assert row["published_at"] is not None, f"an event of {row['order_id']} was never published"
        events[row["order_id"]].append(row["order_seq"])
    for order in orders:
        assert events[order["order_id"]] == list(range(1, order["order_seq"] + 1))


def _fills_add_up(system: System, broker: Broker) -> None:
    for row in system.sql(
        f"""SELECT o.order_id, o.filled_quantity, coalesce(sum(f.quantity), 0) AS booked
            FROM {broker}.orders o LEFT JOIN {broker}.fills f USING (order_id) GROUP BY 1, 2"""
    ):
        assert row["filled_quantity"] == row["booked"], f"fills of {row['order_id']} do not add up"
    for row in system.sql(
        f"""SELECT p.instance, p.quantity, p.charges,
                   (SELECT coalesce(sum(CASE side WHEN 'BUY' THEN quantity ELSE -quantity END), 0)
                    FROM {broker}.fills f WHERE (f.instance, f.instrument_token, f.product)
                         = (p.instance, p.instrument_token, p.product)) AS folded,
                   (SELECT coalesce(sum(charges), 0) FROM {broker}.fills f
                    WHERE (f.instance, f.instrument_token, f.product) = (p.instance, p.instrument_token, p.product)) AS charged
            FROM {broker}.positions p"""
    ):
        assert row["quantity"] == row["folded"], f"position of {row['instance']} is not the sum of its fills"
        assert row["charges"] == row["charged"]


def swing(system: System, markets: Sequence[Market], wanted: int, brokers: Sequence[Broker] = tuple(Broker)) -> None:
    """Jump the prices up and down until each of these brokers has `wanted` more orders than now."""

    def count() -> dict[Broker, int]:
        return {broker: system.sql(f"SELECT count(*) AS n FROM {broker}.orders")[0]["n"] for broker in brokers}

    goal = {broker: number + wanted for broker, number in count().items()}
    for _ in range(120):
        seen = count()
        if all(seen[broker] >= goal[broker] for broker in goal):
            return
        for market in markets:
            market.jump()
        let_ticks_flow(system)
    raise AssertionError(f"no orders came: {count()}, wanted {goal}")


def settle(system: System, markets: Sequence[Market]) -> None:
    """Keep the market ticking until every order has ended. One that rests away from the price fills at the other level."""
    for _ in range(20):
        try:
            system.wait(lambda: not open_orders(system), "every order to end", 12)
            return
        except AssertionError:
            for market in markets:
                market.jump()
    raise AssertionError(f"orders that do not end: {open_orders(system)}")


def let_ticks_flow(system: System) -> None:
    """Let a jump become bars: until the sandbox has sent some more ticks."""
    before = _ticks_sent(system)
    system.wait(lambda: _ticks_sent(system) >= before + 16, "ticks to flow", 30)


def _ticks_sent(system: System) -> int:
    try:
        return int(system.admin("status")["ticks_sent"])
    except httpx.HTTPError:  # it is being killed or starting just now; `wait` bounds how long that may take
        return -1


def open_orders(system: System) -> list[dict[str, object]]:
    """Orders that have not ended, with their send's state."""
    return [
        row
        for broker in Broker
        for row in system.sql(
            f"SELECT o.order_id, o.status, o.reason, s.state, s.answer FROM {broker}.orders o "
            f"JOIN {broker}.sends s USING (order_id, send_no) WHERE o.ended_at IS NULL"
        )
    ]


def unpublished(system: System) -> list[dict[str, object]]:
    return [
        row
        for broker in Broker
        for row in system.sql(f"SELECT order_id FROM {broker}.outgoing_events WHERE published_at IS NULL")
    ]


def running_workflows(system: System, kind: str = ORDER_WORKFLOW) -> list[str]:
    """Ids of one kind, by default of orders: the reconciliation of each broker runs for ever."""

    async def list_them() -> list[str]:
        client = await connect(system.settings)
        return [
            row.id async for row in client.list_workflows(f"WorkflowType = '{kind}' AND ExecutionStatus = 'Running'")
        ]

    return asyncio.run(list_them())


def arm(system: System, service: str, failpoints: str) -> None:
    """Make the next start of one process carry a failpoint, and only that start."""
    env = system.home / ".env"
    plain = env.read_text()
    env.write_text(f"{plain}FAILPOINTS={failpoints}\n")
    try:
        system.wait_ready(service, old_pids={service: system.kill(service)})
    finally:
        env.write_text(plain)
