"""What a trading day began with is believed when two rounds agree, and no round that was frozen keeps what it saw before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.testing import ActivityEnvironment

from core.clock import trading_day, utc_now
from core.config import Settings
from core.storage.reconcile import load_day
from core.trading.types import Product
from tests.integration.reconcile_world import World, figures, reconcile_world

pytestmark = pytest.mark.stack


@pytest.fixture
async def world(stack: Settings) -> AsyncIterator[World]:
    async with reconcile_world(stack) as one:
        yield one


@pytest.mark.parametrize("times", [1, 2])
async def test_positions_that_come_empty_at_first_sight_do_not_spoil_the_day(world: World, times: int) -> None:
    world.trader.net[("TCS", Product.NRML)] = 5
    await world.filled(10)
    full, world.trader.net = world.trader.net, {}
    for _ in range(times):
        await world.round()
    world.trader.net = full
    for _ in range(3):
        report = await world.round()
    assert figures(report) == {"INFY:MIS": (10, 10, 0, 0), "TCS:NRML": (5, 0, 5, 0)}
    assert world.alerts.raised == []


async def test_a_round_that_was_frozen_does_not_keep_its_day_over_a_later_ones(world: World) -> None:
    world.trader.net[("TCS", Product.NRML)] = 5
    frozen, thaw = asyncio.Event(), asyncio.Event()

    async def freeze() -> None:
        frozen.set()
        await thaw.wait()

    world.trader.between = freeze
    slow = asyncio.create_task(ActivityEnvironment().run(world.book.compare_with_broker, world.at()))
    await asyncio.wait_for(frozen.wait(), 10)
    await world.opened()
    seen = await load_day(world.journal.journal, world.account, trading_day(utc_now()))
    world.trader.net = {}  # what the frozen one gets: an answer of another moment
    thaw.set()
    compared = await asyncio.wait_for(slow, 20)
    assert (compared.judged, compared.why_not) == (False, "another round was kept while this one was under way")
    assert await load_day(world.journal.journal, world.account, trading_day(utc_now())) == seen
    world.trader.net[("TCS", Product.NRML)] = 5
    assert figures(await world.round()) == {"TCS:NRML": (5, 0, 5, 0)}
