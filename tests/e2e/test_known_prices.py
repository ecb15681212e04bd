"""Ticks with known prices in, fills and PnL out, to the paisa, for both brokers, through the public commands."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from uuid import UUID

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata

from core.routing import order_workflow_id
from core.services import names, services
from core.temporal import connect
from core.trading.types import Broker
from docker.native.layout import Layout
from docker.native.stack import INFRA
from docker.native.supervisor import ours
from tests.e2e.test_commands import act, resting, until
from tests.e2e.trading import INFY, SPREAD, Market, charges, let_ticks_flow, referee, steered
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

FLAT, UP, DOWN = Decimal(1500), Decimal(1510), Decimal(1490)
QUANTITY = 10
BOUGHT, SOLD = UP + SPREAD, DOWN - SPREAD


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with System.running("e2e", [steered("steered", INFY, quantity=QUANTITY)]) as running:
        yield running


@pytest.fixture(scope="module")
def traded(system: System) -> System:
    """One round trip on each broker: bought at 1510.10, sold at 1489.90."""

    def filled(side: str) -> bool:
        found = {row["broker"] for row in system.orders() if row["side"] == side and row["state"] == "FILLED"}
        return found == set(Broker)

    def warm() -> bool:
        rows = system.api("/strategies")["strategies"]
        return {part["state"] for row in rows for part in row["instances"]} == {"running"}

    with Market(system, INFY, FLAT) as market:
        system.wait(warm, "the strategy to be warm on both brokers", 60, explain=lambda: system.api("/strategies"))
        market.price = UP
        system.wait(lambda: filled("BUY"), "a BUY filled on both brokers", 60, explain=system.orders)
        market.price = DOWN
        system.wait(lambda: filled("SELL"), "a SELL filled on both brokers", 60, explain=system.orders)
    return system


def held(system: System) -> list[dict]:  # type: ignore[type-arg]
    answer = system.json("positions")
    return answer["positions"] if isinstance(answer, dict) else answer


def paise(amount: object) -> Decimal:
    return Decimal(str(amount)).quantize(Decimal("0.01"))


@pytest.mark.parametrize("broker", list(Broker))
def test_each_order_filled_at_the_price_the_book_showed(traded: System, broker: Broker) -> None:
    rows = {row["side"]: row for row in traded.orders(broker)}
    assert {side: Decimal(str(row["average_price"])) for side, row in rows.items()} == {"BUY": BOUGHT, "SELL": SOLD}
    assert {row["filled_quantity"] for row in rows.values()} == {QUANTITY}


@pytest.mark.parametrize("broker", list(Broker))
def test_realised_pnl_and_charges_are_right_to_the_paisa(traded: System, broker: Broker) -> None:
    due = charges("BUY", QUANTITY, BOUGHT) + charges("SELL", QUANTITY, SOLD)
    gross = (SOLD - BOUGHT) * QUANTITY
    sell = next(row for row in traded.orders(broker) if row["side"] == "SELL")
    assert paise(sell["realized_pnl"]) == paise(gross)
    assert paise(sum(Decimal(str(row["charges"])) for row in traded.orders(broker))) == paise(due)

    def settled() -> dict | None:  # type: ignore[type-arg]
        rows = [row for row in held(traded) if row["broker"] == broker and row["instrument"] == INFY]
        return next((row for row in rows if row["quantity"] == 0 and paise(row["realized_pnl"]) == paise(gross)), None)

    position = traded.wait(settled, f"the portfolio to show {broker} flat", 20, lambda: held(traded))
    assert paise(position["charges"]) == paise(due)


def test_the_log_folded_from_the_beginning_is_the_live_portfolio(traded: System) -> None:
    assert traded.command("rebuild-portfolio").returncode == 0


@pytest.mark.parametrize("broker", list(Broker))
def test_the_referee_finds_one_order_a_send(traded: System, broker: Broker) -> None:
    assert referee(traded, broker) == {"orders": 2, "accepted": 2, "filled": 2}


@pytest.mark.parametrize("broker", list(Broker))
def test_an_order_tells_its_whole_story(traded: System, broker: Broker) -> None:
    row = next(row for row in traded.orders(broker) if row["side"] == "SELL")
    story = str(traded.json("order", row["order_id"]))
    for word in ("signal.raw", "signal.validated", "order.submitted", "order.ack", "order.filled", f"{broker}-order-"):
        assert word in story, f"{word} is missing in {story}"


@pytest.mark.parametrize("broker", list(Broker))
def test_temporal_ui_tells_it_to_someone_who_does_not_know_the_code(traded: System, broker: Broker) -> None:
    row = next(row for row in traded.orders(broker) if row["side"] == "SELL")

    async def read() -> tuple[str | None, str, dict[str, str]]:
        client = await connect(traded.settings)
        handle = client.get_workflow_handle(order_workflow_id(broker, UUID(row["order_id"])))
        described = await handle.describe()
        metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        searched = {pair.key.name: str(pair.value) for pair in described.typed_search_attributes}
        return await described.static_summary(), metadata.current_details, searched

    summary, details, searched = asyncio.run(read())
    assert summary == f"SELL {QUANTITY} INFY @ MARKET · steered"
    for words in ("FILLED", "Realised -₹202.00", "net", f"broker order `{searched['BrokerOrderId']}`", "SUBMITTED"):
        assert words in details, f"{words} is missing in {details}"
    told = {name: searched[name] for name in ("Broker", "StrategyId", "Symbol", "Side", "OrderStatus")}
    assert told == {
        "Broker": broker.value,
        "StrategyId": "steered",
        "Symbol": "INFY",
        "Side": "SELL",
        "OrderStatus": "FILLED",
    }


PATH = ("risk-manager", "order-gateway", *(f"broker-{broker}" for broker in Broker))
STEPS = {"signal accepted", "workflow started", "order step"}


def test_every_line_of_an_orders_path_names_it(traded: System) -> None:
    orders = {row["order_id"]: row["broker"] for row in traded.orders()}
    seen: dict[str, set[str]] = {order_id: set() for order_id in orders}
    for name in PATH:
        for line in (traded.home / "var" / "log" / f"{name}.log").read_text().splitlines():
            row = json.loads(line)
            if row["event"] in STEPS:
                assert row["broker"] == orders[row["order_id"]], line
                assert row["correlation_id"], line
                seen[row["order_id"]].add(row["event"])
    assert set(map(frozenset, seen.values())) == {frozenset(STEPS)}


def test_a_second_start_changes_nothing(traded: System) -> None:
    def pids() -> dict[str, int]:
        return {name: traded.pid(name) for name in (*INFRA, *names(services(traded.settings)))}

    ran = pids()
    assert "nothing changed" in traded.command("up").stdout
    assert pids() == ran


def test_a_stop_and_a_start_lose_nothing_and_open_orders_go_on(traded: System) -> None:
    def told() -> list[tuple[object, ...]]:
        rows = held(traded)
        return [(row["broker"], row["quantity"], paise(row["realized_pnl"]), paise(row["charges"])) for row in rows]

    with Market(traded, INFY, DOWN):
        let_ticks_flow(traded)
        opened = {broker: resting(traded, broker, "steered") for broker in Broker}

    def shown() -> bool:
        return {row["order_id"] for row in traded.orders() if row["state"] == "ACKED"} == set(opened.values())

    traded.wait(shown, "both to be shown as resting", 20, traded.orders)
    orders, positions = traded.orders(), told()
    traded.down()
    said = (traded.home / "var" / "log" / "supervisord.log").read_text()
    for name in names(services(traded.settings)):
        assert f"stopped: {name} (exit status 0)" in said
    assert not set(re.findall(r"killing '(\S+)'", said)) & set(names(services(traded.settings)))
    assert ours(Layout.of(traded.settings)) == []
    traded.up()
    assert traded.orders() == orders
    traded.wait(lambda: told() == positions, "the positions to be as they were", 30, told)
    for broker, order_id in opened.items():
        code, outcome = act(traded, "cancel", order_id, "--wait", "60")
        assert (code, outcome["outcome"]) == (0, "APPLIED"), outcome
        until(traded, broker, order_id, "CANCELLED")
