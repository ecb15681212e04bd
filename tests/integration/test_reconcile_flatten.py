"""Rounds after `flatten --direct`: its exits are booked after our own fills, however late those come, and only what was ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import Settings
from core.flatten_file import FlattenFile, Outcome
from core.storage.flatten import not_ours
from core.trading.orders import SeenFill
from core.trading.types import Exchange, Product, Side
from tests.integration.reconcile_world import World, figures, reconcile_world
from tests.journal_world import trade

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[World]:
    async with reconcile_world(stack) as one:
        yield one


@pytest.fixture
def file(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlattenFile]:
    """The file of `flatten --direct` in a home of its own, which the rounds read."""
    monkeypatch.setattr("activities.reconcile_book.home", lambda: tmp_path)
    with FlattenFile(tmp_path / "var", world.account, "test") as opened:
        yield opened


def flattened(world: World, file: FlattenFile, broker_order_id: str, *parts: int) -> None:
    """Flatten sold `parts` of INFY by one order, which the book and the file show."""
    send = file.send(
        exchange=Exchange.NSE, tradingsymbol="INFY", instrument_token=408065, product=Product.MIS, side=Side.SELL,
        quantity=sum(parts), deadline_s=8,
    )  # fmt: skip
    world.trader.order(broker_order_id, -sum(parts), tags=[send.line.tag], age_s=0)
    whole = world.trader.listed[broker_order_id][0]
    listed = [replace(whole, trade_id=f"T{n}{broker_order_id}", quantity=part) for n, part in enumerate(parts)]
    world.trader.listed[broker_order_id] = listed
    fills = tuple(SeenFill(t.trade_id, t.quantity, t.price, t.filled_at) for t in listed)
    file.outcome(
        send.line.tag, Outcome.ENDED, broker_order_id=broker_order_id, status="COMPLETE", filled_quantity=sum(parts),
        trades=fills,
    )  # fmt: skip


async def test_flatten_is_booked_after_our_own_fills_though_they_come_late(world: World, file: FlattenFile) -> None:
    """The stack died between the fill of our entry and its booking; flatten sold what it had bought."""
    order_id = await world.order()
    broker_order_id = await world.journal.sent(order_id)
    world.trader.order(broker_order_id, 10, age_s=30)
    flattened(world, file, f"F{order_id.hex[-10:]}", 10)
    first = await world.round()
    assert figures(first)["INFY:MIS"][3] is None, "our fill is not booked: nothing is judged"
    assert await not_ours(world.journal.journal, [f"F{order_id.hex[-10:]}"]) == {}
    late = world.trader.listed[broker_order_id][0]
    await world.journal.fill(order_id, trade(10, name=late.trade_id, at=late.filled_at))
    for _ in range(2):
        report = await world.round()
    assert (await world.journal.position())["quantity"] == 0
    assert figures(report) == {}
    assert world.alerts.raised == []


async def test_a_late_fill_of_an_ended_order_counts_before_flatten_is_booked(world: World, file: FlattenFile) -> None:
    order_id = await world.order()
    broker_order_id = await world.journal.sent(order_id)
    await world.journal.fill(order_id, status="CANCELLED")
    world.trader.order(broker_order_id, 10, filled=4, status="CANCELLED", age_s=30)
    flattened(world, file, f"F{order_id.hex[-10:]}", 4)
    assert (await world.round()).late_fills == 1
    assert (await world.journal.position())["quantity"] == 0
    assert await not_ours(world.journal.journal, [f"F{order_id.hex[-10:]}"]) == {f"F{order_id.hex[-10:]}": 0}


async def test_what_flatten_closed_of_somebody_elses_is_not_booked_as_ours(world: World, file: FlattenFile) -> None:
    """One order sold 6 of ours and 4 of the trader's own, in two trades: the second one is not a late fill of ours."""
    await world.filled(6)
    world.trader.order("APP", 4, age_s=30)
    flattened(world, file, f"F{world.account}", 6, 4)
    for _ in range(3):
        report = await world.round()
        assert (await world.journal.position())["quantity"] == 0
    assert (figures(report), report.late_fills) == ({}, 0)
    assert world.alerts.raised == []
