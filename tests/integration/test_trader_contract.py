"""What every trader does alike: one suite, run against the paper exchange process and against the Kite sandbox."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from core.brokers.zerodha import ZerodhaTrader
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import NotPlaced, OutcomeUnknown
from core.ids import new_id, order_tag
from core.trading.types import Broker, OrderType, Side, Validity
from tests.integration.sandbox_support import SandboxProcess
from tests.integration.trader_worlds import (
    ExchangeProcess,
    World,
    ZerodhaWorld,
    limit,
    make_request,
    paper_exchange,
    paper_world,
    trades_of,
    wait_row,
    wait_status,
    zerodha_settings,
)


@pytest.fixture(scope="module")
async def exchange(stack: Settings) -> AsyncIterator[ExchangeProcess]:
    async with paper_exchange(stack) as running:
        yield running


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox"), "--still") as process:
        yield process


@pytest.fixture
async def paper(stack: Settings, exchange: ExchangeProcess) -> AsyncIterator[World]:
    async with paper_world(stack, exchange) as world:
        yield world


@pytest.fixture
async def zerodha(
    settings: Settings, sandbox: SandboxProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    env_file = settings.home / ".env"
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    own = zerodha_settings(env_file, sandbox.port)
    world = ZerodhaWorld(own, ZerodhaTrader(own), sandbox)
    await world.login()
    yield world
    await world.clean_up()
    await world.trader.close()


@pytest.fixture(params=[pytest.param("paper", marks=pytest.mark.stack), "zerodha"])
def world(request: pytest.FixtureRequest) -> World:
    """A quiet market at 1500 with depth on both sides."""
    found: World = request.getfixturevalue(request.param)
    return found


async def quiet(world: World) -> None:
    await world.market("1500", bids=[("1499.5", 500)], asks=[("1500.5", 500)])


async def test_a_market_order_fills_from_the_depth_level_by_level(world: World) -> None:
    await quiet(world)
    await world.market("1500", bids=[("1499.5", 500)], asks=[("1500.5", 4), ("1501", 100)])
    order_id = await world.trader.place(make_request(world))
    if world.trader.broker is Broker.PAPER:  # the paper exchange fills from a tick younger than the order
        await wait_row(world, order_id, lambda row: row.is_acked)
        await _market_after_acceptance(world, "1500", asks=[("1500.5", 4), ("1501", 100)])
    row = await wait_status(world, order_id, "COMPLETE")
    assert row.filled_quantity == 10
    assert row.average_price == Decimal("1500.8")
    trades = await trades_of(world, order_id)
    assert sorted((t.price, t.quantity) for t in trades) == [(Decimal("1500.5"), 4), (Decimal("1501"), 6)]
    assert len({t.trade_id for t in trades}) == 2
    assert all(t.side is Side.BUY and t.instrument_token == world.instrument_token for t in trades)
    assert all(abs((utc_now() - t.filled_at).total_seconds()) < 30 for t in trades)


async def test_a_limit_rests_until_the_market_reaches_it_and_never_fills_worse(world: World) -> None:
    await quiet(world)
    order_id = await world.trader.place(limit(world, "1495"))
    row = await wait_status(world, order_id, "OPEN")
    assert (row.filled_quantity, row.price) == (0, Decimal("1495"))
    await _market_after_acceptance(world, "1496", asks=[("1495.5", 100)])
    assert (await world.trader.orders([order_id]))[order_id].filled_quantity == 0
    await world.market("1494", bids=[("1493", 10)], asks=[("1494.5", 100)])
    await wait_status(world, order_id, "COMPLETE")
    assert [t.price for t in await trades_of(world, order_id)] == [Decimal("1494.5")]


async def test_a_cancel_ends_a_resting_order_once(world: World) -> None:
    await quiet(world)
    order_id = await world.trader.place(limit(world, "1495"))
    await wait_status(world, order_id, "OPEN")
    await world.trader.cancel(order_id)
    row = await wait_status(world, order_id, "CANCELLED")
    assert (row.filled_quantity, row.is_end) == (0, True)
    with pytest.raises((NotPlaced, OutcomeUnknown)):  # Kite says "being processed. Try later", which proves nothing
        await world.trader.cancel(order_id)
    assert (await wait_status(world, order_id, "CANCELLED")).filled_quantity == 0


async def test_a_partial_fill_stays_open_and_keeps_its_fills_when_cancelled(world: World) -> None:
    await quiet(world)
    order_id = await world.trader.place(limit(world, "1499.8"))
    await wait_status(world, order_id, "OPEN")
    await _market_after_acceptance(world, "1499.8", asks=[("1499.8", 4)])
    row = await wait_row(world, order_id, lambda one: one.filled_quantity == 4)
    assert row.status == "OPEN"
    await world.trader.cancel(order_id)
    row = await wait_status(world, order_id, "CANCELLED")
    assert row.filled_quantity == 4
    assert sum(t.quantity for t in await trades_of(world, order_id)) == 4


async def test_ioc_fills_what_is_there_and_cancels_the_rest(world: World) -> None:
    await world.market("1500", bids=[("1499.5", 500)], asks=[("1500.5", 3)])
    order_id = await world.trader.place(limit(world, "1500.5", validity=Validity.IOC))
    if world.trader.broker is Broker.PAPER:
        await _market_after_acceptance(world, "1500", asks=[("1500.5", 3)])
    row = await wait_status(world, order_id, "CANCELLED")
    assert row.filled_quantity == 3
    assert sum(t.quantity for t in await trades_of(world, order_id)) == 3


async def test_a_stop_loss_waits_for_its_trigger_then_sells_at_market(world: World) -> None:
    await quiet(world)
    stop = make_request(world, side=Side.SELL, order_type=OrderType.SL_M, trigger_price=Decimal("1490"))
    order_id = await world.trader.place(stop)
    row = await wait_status(world, order_id, "TRIGGER PENDING")
    assert row.trigger_price == Decimal("1490")
    await _market_after_acceptance(world, "1490.5", bids=[("1490.2", 100)])
    assert (await world.trader.orders([order_id]))[order_id].status == "TRIGGER PENDING"
    await world.market("1489.9", bids=[("1489.5", 100)], asks=[("1490.5", 100)])
    await wait_status(world, order_id, "COMPLETE")
    assert [t.price for t in await trades_of(world, order_id)] == [Decimal("1489.5")]


async def test_a_modified_limit_fills_at_its_new_price(world: World) -> None:
    await quiet(world)
    order_id = await world.trader.place(limit(world, "1495"))
    await wait_status(world, order_id, "OPEN")
    await change_price(world, order_id, "1499", time.monotonic() + 8)
    await wait_row(world, order_id, lambda row: row.price == Decimal("1499") and row.status == "OPEN")
    await _market_after_acceptance(world, "1498.5", asks=[("1498.8", 100)])
    await wait_status(world, order_id, "COMPLETE")


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": 0},
        {"order_type": OrderType.LIMIT, "price": Decimal("1500.03")},
        {"order_type": OrderType.LIMIT, "price": None},
        {"order_type": OrderType.SL_M, "trigger_price": None},
        {"tag": "far-too-long-a-tag-for-kite"},
    ],
    ids=["no quantity", "off the tick", "no price", "no trigger", "tag too long"],
)
async def test_an_order_that_makes_no_sense_is_refused_for_good(world: World, changes: dict[str, object]) -> None:
    await quiet(world)
    before = len((await world.trader.book()).rows)
    with pytest.raises(NotPlaced) as refusal:
        await world.trader.place(make_request(world, **changes))
    assert not refusal.value.retryable
    assert refusal.value.code
    assert len((await world.trader.book()).rows) == before


async def test_an_order_past_its_deadline_is_never_sent(world: World) -> None:
    tag = order_tag(new_id(), 1)
    with pytest.raises(NotPlaced) as refusal:
        await world.trader.place(make_request(world, tag=tag, deadline=time.monotonic() - 0.001))
    assert refusal.value.retryable
    assert tag not in {one for row in (await world.trader.book()).rows for one in row.tags}


async def change_price(world: World, order_id: str, price: str, deadline: float) -> None:
    await world.trader.modify(
        order_id, quantity=None, price=Decimal(price), trigger_price=None, order_type=None, deadline=deadline
    )


async def test_a_modify_past_its_deadline_is_never_sent(world: World) -> None:
    """A worker that was frozen meanwhile: its command was judged by the book, or given up, long ago."""
    await quiet(world)
    order_id = await world.trader.place(limit(world, "1495"))
    await wait_status(world, order_id, "OPEN")
    with pytest.raises(NotPlaced) as refusal:
        await change_price(world, order_id, "1496", time.monotonic() - 0.001)
    assert refusal.value.retryable
    assert (await world.trader.orders([order_id]))[order_id].price == Decimal("1495")


async def test_orders_the_broker_does_not_know_are_missing_and_cannot_be_cancelled(world: World) -> None:
    assert await world.trader.orders(["999999999999999"]) == {}
    assert await world.trader.trades(["999999999999999"]) == {}
    with pytest.raises(NotPlaced) as refusal:
        await world.trader.cancel("999999999999999")
    assert not refusal.value.retryable


async def test_the_book_lists_the_order_by_its_tag_with_account_and_day(world: World) -> None:
    await quiet(world)
    request = limit(world, "1495")
    began = utc_now()
    order_id = await world.trader.place(request)
    await wait_status(world, order_id, "OPEN")
    book = await world.trader.book()
    assert [row.broker_order_id for row in book.rows if request.tag in row.tags] == [order_id]
    assert book.account == await world.trader.account()
    assert book.trading_day == trading_day(began)
    assert began <= book.requested_at <= book.received_at


async def test_a_position_and_the_funds_follow_the_fill(world: World) -> None:
    await quiet(world)
    before = {p.instrument_token: p.quantity for p in await world.trader.positions()}
    free = (await world.trader.funds()).available
    order_id = await world.trader.place(limit(world, "1500.5", quantity=7))
    if world.trader.broker is Broker.PAPER:
        await _market_after_acceptance(world, "1500", asks=[("1500.5", 100)])
    await wait_status(world, order_id, "COMPLETE")
    after = {p.instrument_token: p.quantity for p in await world.trader.positions()}
    token = world.instrument_token
    assert after.get(token, 0) - before.get(token, 0) == 7
    assert (await world.trader.funds()).available != free


async def test_a_tag_sent_twice_is_one_order_on_paper_and_two_at_zerodha(world: World) -> None:
    """The difference is the broker's: Kite Connect has no idempotency, so the journal's claim is what prevents it."""
    await quiet(world)
    request = limit(world, "1495")
    first, second = await world.trader.place(request), await world.trader.place(request)
    rows = [row for row in (await world.trader.book()).rows if request.tag in row.tags]
    assert len(rows) == (1 if world.trader.broker is Broker.PAPER else 2)
    assert (first == second) is (world.trader.broker is Broker.PAPER)


async def _market_after_acceptance(
    world: World, last: str, *, bids: list[tuple[str, int]] | None = None, asks: list[tuple[str, int]] | None = None
) -> None:
    """The next look at the market, sure to be younger than any order placed so far."""
    settle = getattr(world, "settle", None)
    if settle is not None:
        await settle()
    bids = bids or [("1480", 500)]
    asks = asks or [("1520", 500)]
    await world.market(last, bids=bids, asks=asks)
