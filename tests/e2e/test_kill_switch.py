"""The kill switch on real parts: orders and positions open at both brokers, processes killed at each step, and it ends flat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from core import ids
from core.brokers.port import BrokerPosition, PlaceRequest
from core.brokers.zerodha import ZerodhaTrader
from core.clock import utc_now
from core.events import topics
from core.events.envelope import EventType, make
from core.kill_work import KILL_WORKFLOW
from core.messaging.producer import EventProducer
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Exchange, Intent, OrderType, Product, Side, Validity
from tests.e2e.trading import (
    INFY,
    LEVELS,
    SBIN,
    Market,
    arm,
    let_ticks_flow,
    open_orders,
    referee,
    running_workflows,
    settle,
    steered,
)
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

TOKENS = {INFY: 408065, SBIN: 779521}
WHO = ("--yes", "--by", "tester", "--reason", "a test")


@pytest.fixture(autouse=True)
def released(system: System) -> Iterator[None]:
    """One test's flags are not the next one's trouble."""
    yield
    for words in ((), ("--strategy", "steered-one")):
        system.command("kill", "off", *WHO, "--force", *words)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    rows = [steered("steered-one", INFY), steered("steered-two", SBIN)]
    with System.running("kill-switch", rows, DURATION_FACTOR="20") as running:
        yield running


def positions(system: System, broker: Broker) -> dict[str, int]:
    rows = system.sql(f"SELECT instance, quantity FROM {broker}.positions WHERE quantity <> 0")
    return {row["instance"]: row["quantity"] for row in rows}


def hold(system: System, markets: list[Market]) -> None:
    """Until both brokers hold something, with no order open."""
    for _ in range(40):
        for market in markets:
            market.jump()
        try:
            system.wait(lambda: all(positions(system, broker) for broker in Broker), "positions", 8)
        except AssertionError:
            continue
        return
    raise AssertionError("no positions came")


def hold_still(system: System, markets: list[Market]) -> None:
    """Until both brokers hold something that no order under way may change: a kill switch then has exits to make."""

    def still() -> bool:
        moving = "SELECT count(*) AS n FROM {}.orders WHERE ended_at IS NULL AND order_type <> 'LIMIT'"
        return all(positions(system, b) and not system.sql(moving.format(b))[0]["n"] for b in Broker)

    for _ in range(20):
        hold(system, markets)
        for _ in range(3):  # what the last jump leads to, an exit perhaps, has begun by then
            let_ticks_flow(system)
        if still():
            return
    raise AssertionError("positions came and went")


def rest(system: System, strategy: str, instrument: str) -> None:
    """A limit far enough below the market to rest, asked for as a person's program would: a raw signal at each broker."""

    async def send() -> None:
        producer = EventProducer(system.settings, client_id="test")
        await producer.start()
        try:
            for broker in Broker:
                signal = _signal(broker, strategy, instrument)
                event = make(
                    EventType.SIGNAL_RAW, signal, id=signal.signal_id, key=f"{signal.instance}:{instrument}",
                    source="test", correlation_id=signal.signal_id, broker=broker,
                )  # fmt: skip
                await producer.send(topics.signals_raw(broker), event)
        finally:
            await producer.stop()

    let_ticks_flow(system)  # the last tick may be an earlier test's, and an entry on a stale price is denied
    asyncio.run(send())
    working = "SELECT count(*) AS n FROM {}.orders WHERE status = 'ACKED' AND order_type = 'LIMIT' AND ended_at IS NULL"
    for broker in Broker:
        system.wait(
            lambda broker=broker: system.sql(working.format(broker))[0]["n"],
            f"a resting order at {broker}",
            30,
            lambda: open_orders(system),
        )


def _signal(broker: Broker, strategy: str, instrument: str) -> Signal:
    exchange, _, symbol = instrument.partition(":")
    return Signal(
        signal_id=ids.new_id(), strategy_id=strategy, instance=instance_name(strategy, broker), strategy_version=1,
        instrument=instrument, instrument_token=TOKENS[instrument], exchange=Exchange(exchange), tradingsymbol=symbol,
        side=Side.BUY, intent=Intent.ENTRY, quantity=3, order_type=OrderType.LIMIT, product=Product.MIS,
        validity=Validity.DAY, price=LEVELS[instrument][0] - 2, slot=str(ids.new_id()), origin_at=utc_now(),
        age_limit_s=60.0, source="test",
    )  # fmt: skip


def kill_on(system: System, *words: str) -> str:
    done = system.command("kill", "on", *WHO, "--wait", "180", *words)
    assert "✓" in done.stdout
    return done.stdout


def assert_flat(system: System) -> None:
    assert not open_orders(system)
    for broker in Broker:
        assert sum(positions(system, broker).values()) == 0, positions(system, broker)
        rows = system.sql(f"SELECT finished_at FROM {broker}.kills WHERE released_at IS NULL")
        assert rows
        assert all(row["finished_at"] is not None for row in rows)


def release(system: System) -> None:
    system.command("kill", "off", *WHO)


def test_it_ends_flat_keeps_entries_out_and_lets_them_in_again(system: System) -> None:
    with Market(system, INFY) as one, Market(system, SBIN) as two:
        hold(system, [one, two])
        rest(system, "steered-one", INFY)
        kill_on(system)
        assert_flat(system)
        sums = {broker: system.sql(f"SELECT count(*) AS n FROM {broker}.orders")[0]["n"] for broker in Broker}
        denied = {broker: _denied(system, broker) for broker in Broker}
        for _ in range(40):
            one.jump()
            two.jump()
            try:
                system.wait(lambda: all(_denied(system, b) > denied[b] for b in Broker), "denied entries", 8)
                break
            except AssertionError:
                continue
        assert all(_denied(system, broker) > denied[broker] for broker in Broker)
        for broker in Broker:
            assert system.sql(f"SELECT count(*) AS n FROM {broker}.orders")[0]["n"] == sums[broker]
        shown = system.command("kill", "status").stdout
        assert "entries of everything are stopped" in shown
        release(system)
        hold(system, [one, two])
    for broker in Broker:
        assert system.sql(f"SELECT count(*) AS n FROM {broker}.orders WHERE source = 'kill'")[0]["n"] >= 1


def _denied(system: System, broker: Broker) -> int:
    query = f"SELECT count(*) AS n FROM {broker}.risk_decisions WHERE denials::text LIKE '%KILL%'"
    count: int = system.sql(query)[0]["n"]
    return count


@pytest.mark.parametrize(
    ("service", "paper", "zerodha"),
    [
        ("orders", "kill.after_engage", "kill.before_cancel"),
        ("orders", "kill.after_cancel", "kill.before_exit"),
        ("orders", "kill.after_exit", "kill.before_finish"),
        ("broker", "place.after_send", "place.after_claim"),
    ],
)
def test_it_survives_kill_9_at_each_step(system: System, service: str, paper: str, zerodha: str) -> None:
    """Each broker has a switch of its own, in one and the same code: they die at two steps in one round."""
    points = {f"{service}-{Broker.PAPER}": paper, f"{service}-{Broker.ZERODHA}": zerodha}
    with Market(system, INFY) as one, Market(system, SBIN) as two:
        hold(system, [one, two])
        settle(system, [one, two])
        rest(system, "steered-two", SBIN)
        hold_still(system, [one, two])
        for name, point in points.items():
            arm(system, name, f"{point}=kill:1")
        armed = {name: system.pid(name) for name in points}
        kill_on(system)
        if (
            service == "orders"
        ):  # a broker's worker may have met its point with a strategy's own order, before the switch
            for name in points:
                assert system.pid(name) != armed[name], f"{name}: the failpoint was never reached"
        system.wait_ready()
        assert_flat(system)
    for broker in Broker:
        system.wait(lambda: _published(system), "every event to be out", 60)
        referee(system, broker)
    release(system)


def _published(system: System) -> bool:
    return not any(
        system.sql(f"SELECT 1 FROM {broker}.outgoing_events WHERE published_at IS NULL LIMIT 1") for broker in Broker
    )


def test_one_strategys_switch_leaves_the_other_alone(system: System) -> None:
    with Market(system, INFY) as one, Market(system, SBIN) as two:
        for _ in range(10):
            hold(system, [one, two])
            held = positions(system, Broker.PAPER)
            if {"steered-one@paper", "steered-two@paper"} <= set(held):
                break
        kill_on(system, "--strategy", "steered-one")
        for broker in Broker:
            assert f"steered-one@{broker}" not in positions(system, broker)
        flagged = system.sql("SELECT kill, kill_strategies FROM paper.accounts")[0]
        assert (flagged["kill"], list(flagged["kill_strategies"])) == (False, ["steered-one"])
        system.command("kill", "off", *WHO, "--strategy", "steered-one")
    assert not running_workflows(system, KILL_WORKFLOW)


def test_what_is_not_ours_is_listed_and_untouched_until_a_person_types_so(system: System) -> None:
    with Market(system, INFY) as one, Market(system, SBIN) as two:
        hold(system, [one, two])
        _foreign(system)
        kill_on(system)
        assert_flat(system)
        assert _at_broker(system) == {"SBIN": 7}
        assert [row["tradingsymbol"] for row in _working(system)] == ["SBIN"]
        shown = system.command("kill", "status").stdout
        assert "position +7 NSE:SBIN MIS" in shown
        assert "order BUY" in shown
        kill_on(system, "--include-foreign")
        assert _at_broker(system) == {}
        assert _working(system) == []
        assert_flat(system)


def _foreign(system: System) -> None:
    """As a person does in Kite: a position, and an order that rests. Neither carries a tag of the journal."""

    async def place() -> None:
        trader = ZerodhaTrader(system.settings)
        common: dict[str, Any] = {
            "exchange": Exchange.NSE, "tradingsymbol": "SBIN", "instrument_token": TOKENS[SBIN],
            "instrument_type": "EQ", "tick_size": Decimal("0.05"), "side": Side.BUY, "quantity": 7,
            "product": Product.MIS, "validity": Validity.DAY, "trigger_price": None, "deadline": time.monotonic() + 10,
        }  # fmt: skip
        await trader.place(PlaceRequest(tag="BYHAND1", order_type=OrderType.MARKET, price=None, **common))
        await trader.place(PlaceRequest(tag="BYHAND2", order_type=OrderType.LIMIT, price=Decimal(815), **common))
        await trader.close()

    asyncio.run(place())
    system.wait(lambda: len(_working(system)) >= 1, "the order made by hand to rest", 20)


def _at_broker(system: System) -> dict[str, int]:
    async def read() -> tuple[BrokerPosition, ...]:
        trader = ZerodhaTrader(system.settings)
        try:
            return await trader.positions()
        finally:
            await trader.close()

    return {row.tradingsymbol: row.quantity for row in asyncio.run(read())}


def _working(system: System) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        trader = ZerodhaTrader(system.settings)
        try:
            return [{"tradingsymbol": row.tradingsymbol} for row in (await trader.book()).rows if not row.is_end]
        finally:
            await trader.close()

    return asyncio.run(read())
