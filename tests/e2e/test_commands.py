"""Cancel, modify and resolve as a person types them, on real parts of both brokers, with processes killed in the middle."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from core import ids
from core.clock import utc_now
from core.events import topics
from core.events.envelope import EventType, make
from core.messaging.producer import EventProducer
from core.storage.db import admin_url
from core.trading.signals import Signal, instance_name
from core.trading.types import Broker, Exchange, Intent, OrderType, Product, Side, Validity
from tests.e2e.trading import INFY, LEVELS, Market, arm, open_orders, referee, steered, unpublished
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

LOW = LEVELS[INFY][0]
REST = LOW - 10
BROKERS = list(Broker)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    """A strategy whose bars last an hour: it trades nothing by itself here."""
    calm = steered("by-hand", INFY)
    calm = replace(calm, parameters=calm.parameters | {"bar_s": 3600})
    with System.running("commands", [calm], DURATION_FACTOR="20") as running:
        yield running


@contextmanager
def low_market(system: System) -> Iterator[Market]:
    """The market at its low from the first moment on, whatever the test before left."""
    system.price(INFY, LOW)
    with Market(system, INFY) as market:
        yield market


def signalled(
    system: System,
    broker: Broker,
    *,
    price: Decimal = REST,
    intent: Intent = Intent.ENTRY,
    strategy: str = "by-hand",
) -> str:
    """The order of a raw signal that rests below the market (an exit: sells at the market); its id."""
    leave = intent is Intent.EXIT
    signal = Signal(
        signal_id=ids.new_id(), strategy_id=strategy, instance=instance_name(strategy, broker), strategy_version=1,
        instrument=INFY, instrument_token=408065, exchange=Exchange.NSE, tradingsymbol="INFY",
        side=Side.SELL if leave else Side.BUY, intent=intent, quantity=3,
        order_type=OrderType.MARKET if leave else OrderType.LIMIT, product=Product.MIS, validity=Validity.DAY,
        price=None if leave else price, slot=str(ids.new_id()), origin_at=utc_now(), age_limit_s=60.0, source="test",
    )  # fmt: skip
    event = make(
        EventType.SIGNAL_RAW, signal, id=signal.signal_id, key=f"{signal.instance}:{INFY}", source="test",
        correlation_id=signal.signal_id, broker=broker,
    )  # fmt: skip

    async def send() -> None:
        producer = EventProducer(system.settings, client_id="test")
        await producer.start()
        try:
            await producer.send(topics.signals_raw(broker), event)
        finally:
            await producer.stop()

    asyncio.run(send())
    query = f"SELECT order_id FROM {broker}.orders WHERE signal_id = :signal"
    found = system.wait(lambda: system.sql(query, signal=signal.signal_id), "the order", 30)
    return str(found[0]["order_id"])


def order(system: System, broker: Broker, order_id: str) -> dict[str, Any]:
    return system.sql(f"SELECT * FROM {broker}.orders WHERE order_id = :id", id=order_id)[0]


def until(system: System, broker: Broker, order_id: str, status: str) -> None:
    system.wait(
        lambda: order(system, broker, order_id)["status"] == status,
        f"{order_id} to be {status}",
        60,
        lambda: order(system, broker, order_id),
    )


def resting(system: System, broker: Broker, strategy: str = "by-hand") -> str:
    order_id = signalled(system, broker, strategy=strategy)
    until(system, broker, order_id, "ACKED")
    return order_id


def yesterday(system: System, broker: Broker, order_id: str) -> None:
    """Let the order's send be of the day before."""

    async def run() -> None:
        engine = create_async_engine(admin_url(system.settings))
        statement = f"UPDATE {broker}.sends SET trading_day = trading_day - 1 WHERE order_id = :id"
        async with engine.begin() as connection:
            await connection.execute(text(statement), {"id": order_id})
        await engine.dispose()

    asyncio.run(run())


def act(system: System, *words: str) -> tuple[int, dict[str, Any]]:
    """A command with a reason; its exit code and what it says as JSON."""
    done = system.command(*words, "--reason", "a test", "--by", "asha", "--json", check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def said(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    return system.command(*words, "--reason", "a test", check=False)


def modifications(system: System, broker: Broker, broker_order_id: str) -> int:
    """How often the broker itself was asked to modify."""
    if broker is Broker.PAPER:
        rows = system.sql(
            "SELECT modifications FROM paper_exchange.orders WHERE broker_order_id = :id", id=broker_order_id
        )
        return int(rows[0]["modifications"])
    (row,) = [one for one in system.admin("ledger") if one["order_id"] == broker_order_id]
    return int(row["modifications"]) if "modifications" in row else -1


@pytest.mark.parametrize("broker", BROKERS)
def test_a_person_modifies_and_cancels_a_resting_order(system: System, broker: Broker) -> None:
    with low_market(system):
        order_id = resting(system, broker)
        code, told = act(system, "modify", order_id, "--price", str(REST - 1))
        assert (code, told["outcome"]) == (0, "APPLIED"), told
        assert order(system, broker, order_id)["price"] == REST - 1
        topic = f"{broker}.orders.modified"
        query = f"SELECT topic, published_at FROM {broker}.outgoing_events WHERE order_id = :id ORDER BY order_seq"
        assert [row["topic"] for row in system.sql(query, id=order_id)][-1] == topic
        wrong = said(system, "modify", order_id, "--price", "1480.03")
        assert wrong.returncode == 1
        assert "multiple of the tick size" in wrong.stderr
        request = str(ids.new_id())
        first = act(system, "cancel", order_id[-12:], "--request-id", request)
        assert (first[0], first[1]["outcome"]) == (0, "APPLIED"), first
        assert order(system, broker, order_id)["status"] == "CANCELLED"
        assert act(system, "cancel", order_id, "--request-id", request)[1] == first[1], "the same command"
        late = act(system, "cancel", order_id)
        assert (late[0], late[1]["outcome"]) == (1, "ORDER_ENDED")
        system.wait(lambda: not unpublished(system), "every event to be published", 30, lambda: unpublished(system))


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize(
    ("place", "outcome"), [("modify.before_send", "NOT_APPLIED"), ("modify.after_send", "APPLIED")]
)
def test_a_modify_is_never_sent_twice_whoever_dies(system: System, broker: Broker, place: str, outcome: str) -> None:
    with low_market(system):
        order_id = resting(system, broker)
        arm(system, f"broker-{broker}", f"{place}=kill")
        _, told = act(system, "modify", order_id, "--price", str(REST - 2), "--wait", "90")
        assert told["outcome"] == outcome, told
        row = order(system, broker, order_id)
        assert row["price"] == (REST - 2 if outcome == "APPLIED" else REST)
        counted = modifications(system, broker, row["broker_order_id"])
        assert counted in {-1, 1 if outcome == "APPLIED" else 0}
        act(system, "cancel", order_id, "--wait", "60")
        until(system, broker, order_id, "CANCELLED")
        system.wait_ready(f"broker-{broker}")


@pytest.mark.parametrize("broker", BROKERS)
def test_a_cancel_of_an_order_that_fills_now_tells_what_was_first(system: System, broker: Broker) -> None:
    with low_market(system) as market:
        order_id = resting(system, broker)
        market.price = REST - 5
        _, told = act(system, "cancel", order_id, "--wait", "60")
        system.wait(lambda: order(system, broker, order_id)["ended_at"], "the end", 60)
        row = order(system, broker, order_id)
        assert (told["outcome"], row["status"]) in {("APPLIED", "CANCELLED"), ("ORDER_ENDED", "FILLED")}
        assert row["filled_quantity"] == (3 if row["status"] == "FILLED" else row["filled_quantity"])
    flatten(system, broker)


def flatten(system: System, broker: Broker) -> None:
    """Sell what is held, so that tests leave nothing behind."""
    held = f"SELECT quantity FROM {broker}.positions WHERE instance = 'by-hand@{broker}' AND quantity <> 0"
    with low_market(system):
        for _ in range(3):
            if not system.sql(held):
                return
            leave = signalled(system, broker, intent=Intent.EXIT)
            system.wait(lambda leave=leave: order(system, broker, leave)["ended_at"], "the exit", 60)
    assert not system.sql(held)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_person_resolves_a_send_that_nobody_can_prove(system: System, broker: Broker) -> None:
    """Claimed, the process dead before a byte left, and the day over: the entry expires and its instrument trades again."""
    with low_market(system):
        arm(system, f"broker-{broker}", "place.after_claim=kill")
        order_id = signalled(system, broker)
        until(system, broker, order_id, "UNKNOWN")
        yesterday(system, broker, order_id)
        until(system, broker, order_id, "UNRESOLVED")
        shown = said(system, "resolve", order_id, "never-placed")
        assert shown.returncode == 1, "nobody typed the order's id"
        assert "no answer" in shown.stdout or "did not report" in shown.stdout
        assert "book of" in shown.stdout
        code, told = act(system, "resolve", order_id, "never-placed", "--yes")
        assert (code, told["outcome"]) == (0, "APPLIED"), told
        until(system, broker, order_id, "EXPIRED")
        again = resting(system, broker)
        act(system, "cancel", again, "--wait", "60")
        until(system, broker, again, "CANCELLED")


def test_in_the_end_every_order_is_as_its_broker_says(system: System) -> None:
    system.wait(lambda: not open_orders(system), "every order to end", 60, lambda: open_orders(system))
    system.wait(lambda: not unpublished(system), "every event to be published", 60)
    for broker in Broker:
        referee(system, broker)
