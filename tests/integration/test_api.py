"""The API as it runs: real stores behind it, httpx in front."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from api.server import main
from core import ids
from core.clock import trading_day, utc_now
from core.config import Settings
from core.people.roles import Role, Scope
from core.routing import redis_prefix
from core.storage import redis, views
from core.storage.db import config_engine, view_engine
from core.storage.redis import PortfolioStore
from core.storage.strategies import StrategyConfig, save_strategy
from core.trading.signals import Signal
from core.trading.types import Broker, OrderStatus, Product
from streams.portfolio_fold import PortfolioFold
from streams.portfolio_views import Mark, Moment, pnl_views, position_view
from tests.fixtures.people import make_key
from tests.integration.portfolio_support import eventually, running
from tests.order_events import (
    FakeJournal,
    at,
    make_order_event,
    make_order_state,
    make_raw_event,
    make_signal,
    make_validated_event,
    order_id_of,
)

pytestmark = [pytest.mark.stack]
PAPER, ZERODHA = Broker.PAPER, Broker.ZERODHA


@pytest.fixture
def strategy() -> str:
    return f"t{uuid4().hex[:10]}"


@pytest.fixture(scope="module")
async def api(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    folder: Path = tmp_path_factory.mktemp("api")
    base = f"http://{settings.api_host}:{settings.api_port}"
    headers = {"Authorization": f"Bearer {await make_key(settings, Role.VIEWER, [Scope.READ])}"}
    async with (
        running("api", main, settings, folder),
        httpx.AsyncClient(base_url=base, timeout=15, headers=headers) as client,
    ):
        yield client


async def store_life(settings: Settings, strategy: str, broker: Broker = PAPER) -> Signal:
    """Signal, decision, submitted, filled: as order-views would have stored them."""
    signal = make_signal(broker, strategy_id=strategy, name=strategy)
    engine = view_engine(settings, broker)
    try:
        for event in (
            make_raw_event(broker, signal),
            make_validated_event(broker, signal),
            make_order_event(broker, make_order_state(signal, updated_at=at(1)), 1),
            FakeJournal(broker).fill(strategy_id=strategy, name=strategy, at_s=3),
        ):
            await views.store(engine, event)
    finally:
        await engine.dispose()
    return signal


def assert_problem(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert words in body["detail"]


async def test_it_is_alive_and_documents_itself(api: httpx.AsyncClient) -> None:
    assert (await api.get("/health/live")).json() == {"status": "alive"}
    paths = (await api.get("/openapi.json")).json()["paths"]
    assert {path for path in paths if not path.startswith("/api/v1/")} == {"/health/live", "/health/ready", "/metrics"}


async def test_ready_names_each_part_with_its_reason(api: httpx.AsyncClient) -> None:
    answer = await api.get("/health/ready")
    parts = {part["name"]: part for part in answer.json()["parts"]}
    for server in ("kafka", "postgres", "redis", "temporal"):
        assert parts[server] == {"name": server, "kind": "server", "ready": True, "reason": "", "note": ""}
    assert answer.status_code == 503
    assert parts["risk-manager"]["reason"] == "not running: no health file"


async def test_an_order_shows_its_whole_timeline(api: httpx.AsyncClient, settings: Settings, strategy: str) -> None:
    signal = await store_life(settings, strategy)
    body = (await api.get(f"/api/v1/orders/{order_id_of(signal)}")).json()
    assert (body["order"]["state"], body["order"]["broker"], body["order"]["filled_quantity"]) == (
        "FILLED",
        "paper",
        10,
    )
    assert [event["type"] for event in body["events"]] == [
        "signal.raw",
        "signal.validated",
        "order.submitted",
        "order.filled",
    ]
    assert body["events"][-1]["text"].startswith("filled 10 @ 100.00, 10 of 10; realised 0.00, charges 1.00")
    assert body["decision"]["accepted"] is True
    assert body["signal"]["reason"] == "test"
    assert [fill["trade_id"] for fill in body["fills"]] == ["T00001"]
    assert body["workflow_id"] == f"paper-order-{order_id_of(signal)}"
    assert body["temporal_url"].endswith(f"/namespaces/alpha-panda/workflows/{body['workflow_id']}")


async def test_orders_are_filtered_and_paged_over_both_brokers(
    api: httpx.AsyncClient, settings: Settings, strategy: str
) -> None:
    for broker in (PAPER, ZERODHA):
        engine = view_engine(settings, broker)
        for n in range(3):
            signal = make_signal(broker, strategy_id=strategy, name=f"{strategy}{n}")
            status = OrderStatus.REJECTED if n == 0 else OrderStatus.ACKED
            state = make_order_state(signal, status, created_at=at(2 * n + (broker is ZERODHA)))
            await views.store(engine, make_order_event(broker, state, 1))
        await engine.dispose()
    seen: list[tuple[str, str]] = []
    query: dict[str, str | int] = {"strategy": strategy, "limit": 2}
    while True:
        page = (await api.get("/api/v1/orders", params=query)).json()
        seen += [(row["created_at"], row["broker"]) for row in page["orders"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    moments = [at(n).isoformat().replace("+00:00", "Z") for n in (5, 4, 3, 2, 1, 0)]
    assert seen == list(zip(moments, ["zerodha", "paper"] * 3, strict=True))
    rejected = await api.get("/api/v1/orders", params={"strategy": strategy, "status": "REJECTED", "broker": "zerodha"})
    assert [row["broker"] for row in rejected.json()["orders"]] == ["zerodha"]
    since = await api.get("/api/v1/orders", params={"strategy": strategy, "since": at(4).isoformat()})
    assert len(since.json()["orders"]) == 2


async def test_what_is_asked_wrongly_is_a_problem_that_says_what_to_do(api: httpx.AsyncClient) -> None:
    assert_problem(await api.get(f"/api/v1/orders/{ids.new_id()}"), 404, "No broker's log knows")
    assert_problem(await api.get("/api/v1/orders/nonsense"), 422, "order_id")
    assert_problem(await api.get("/api/v1/orders", params={"broker": "icici"}), 422, "broker")
    assert_problem(await api.get("/api/v1/orders", params={"cursor": "zzz"}), 422, "begin again without one")
    assert_problem(await api.get("/api/v1/orders", params={"since": "2026-10-07T09:15:00"}), 422, "zone")
    assert_problem(await api.get("/nothing"), 404, "Not Found")
    assert_problem(await api.put("/api/v1/orders"), 405, "Method Not Allowed")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:28000", "localhost.evil.example", ""])
async def test_a_foreign_host_header_is_refused(api: httpx.AsyncClient, host: str) -> None:
    assert_problem(await api.get("/api/v1/orders", headers={"Host": host}), 400, "not one of ours")
    assert (await api.get("/health/live", headers={"Host": "localhost:1"})).status_code == 200


async def test_positions_and_pnl_come_from_the_read_model(
    api: httpx.AsyncClient, settings: Settings, strategy: str
) -> None:
    connection = await redis.connect(settings)
    try:
        for broker in (PAPER, ZERODHA):
            fold = PortfolioFold()
            fold.apply(FakeJournal(broker).fill(strategy_id=strategy, name=strategy, price=Decimal("100.05")))
            (position,) = fold.positions.values()
            mark, moment = Mark(Decimal("101.05"), at(60)), Moment(trading_day(at(0)), utc_now(), simulated=True)
            totals = pnl_views([(position, mark)], moment)
            await PortfolioStore(connection, broker).replace(
                "test", [position_view(position, mark, moment)], totals, {}
            )
        body = (await api.get("/api/v1/positions", params={"broker": "paper", "open": True})).json()
        (row,) = body["positions"]
        assert (row["instance"], row["quantity"], row["product"]) == (f"{strategy}@paper", 10, Product.MIS)
        assert (Decimal(row["unrealized_pnl"]), Decimal(row["net_pnl"])) == (Decimal(10), Decimal(9))
        report = (await api.get("/api/v1/pnl")).json()
        assert report["simulated"] is True
        assert [row["broker"] for row in report["brokers"]] == ["paper", "zerodha"]
        total = report["brokers"][1]["total"]
        assert [Decimal(total[name]) for name in ("gross_pnl", "charges", "day_net_pnl")] == [10, 1, 9]

        await connection.delete(f"{redis_prefix(ZERODHA)}portfolio:marker")
        assert_problem(await api.get("/api/v1/positions"), 503, "has not filled the read model of zerodha")
        assert (await api.get("/api/v1/positions", params={"broker": "paper"})).status_code == 200
    finally:
        await connection.aclose()


async def test_strategies_say_which_instances_trade_and_why_not(
    api: httpx.AsyncClient, settings: Settings, strategy: str
) -> None:
    engine = config_engine(settings)
    for name, opt_ins in ((f"{strategy}a", {"zerodha": "local"}), (f"{strategy}b", {"zerodha": "production"})):
        row = StrategyConfig(name, "Momentum", {"fast": 5}, ("NSE:INFY",), active=True, opt_ins=opt_ins)
        await save_strategy(engine, row)
    await engine.dispose()
    rows = {row["strategy_id"]: row for row in (await api.get("/api/v1/strategies")).json()["strategies"]}
    good, other = rows[f"{strategy}a"]["instances"], rows[f"{strategy}b"]["instances"]
    assert [(row["broker"], row["active"], row["target"]) for row in good] == [
        ("paper", True, "paper"),
        ("zerodha", True, "local"),
    ]
    assert [row["active"] for row in other] == [True, False]
    assert other[1]["reason"] == "opted in for target production, and this deployment trades on local"


async def test_metrics_tell_lag_dead_letters_and_order_states(
    api: httpx.AsyncClient, settings: Settings, strategy: str
) -> None:
    await store_life(settings, strategy)

    async def page() -> str:
        answer = await api.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.text

    text = await eventually(page, lambda text: 'alpha_panda_orders_by_status{broker="paper",status="FILLED"}' in text)
    assert 'alpha_panda_dlq_depth{topic="paper.orders.filled.dlq"}' in text
