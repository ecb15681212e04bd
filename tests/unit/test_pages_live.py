"""One reader for all who look: read once for everybody, again upon an event, not at all while nobody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from api.hub import Event, EventHub, Listener
from api.pages.live import Live, Seen, Source
from core.errors import Transient


class Hub:
    """The hub's listening alone."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        listener = Listener(())
        self.listeners.append(listener)
        yield listener
        self.listeners.remove(listener)

    def tell(self, kind: str) -> None:
        for listener in self.listeners:
            listener.offer(Event("1", kind, datetime.now(UTC), "{}"))


class Fact:
    def __init__(self) -> None:
        self.value = 0
        self.reads = 0
        self.away = ""

    async def load(self) -> int:
        self.reads += 1
        if self.away:
            raise Transient(self.away)
        return self.value


class World:
    def __init__(self) -> None:
        self.hub, self.fact, self.rests = Hub(), Fact(), 0
        self.live = Live(cast(EventHub, self.hub), {"pnl": Source(self.fact.load, ("pnl.",), 60.0)}, self.rest)

    async def rest(self) -> None:
        self.rests += 1

    async def page(self, key: object) -> list[Seen]:
        shown: list[Seen] = []
        await self.live.watch("pnl", (key, "figure"), shown.append)
        return shown


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.live.close()


async def test_a_page_is_shown_the_fact_at_once(world: World) -> None:
    world.fact.value = 7
    assert await world.page("a") == [Seen(7)]


async def test_many_pages_cost_one_reading_a_change(world: World) -> None:
    pages = [await world.page(number) for number in range(20)]
    assert world.fact.reads == 1
    await until(lambda: world.hub.listeners)
    world.fact.value = 8
    world.hub.tell("pnl.snapshot")
    await until(lambda: all(page[-1] == Seen(8) for page in pages))
    assert world.fact.reads == 2


async def test_an_event_of_another_kind_reads_nothing(world: World) -> None:
    await world.page("a")
    await until(lambda: world.hub.listeners)
    world.hub.tell("order.filled")
    world.hub.tell("pnl.snapshot")
    await until(lambda: world.fact.reads == 2)


async def test_what_did_not_change_is_not_shown_again(world: World) -> None:
    page = await world.page("a")
    await until(lambda: world.hub.listeners)
    world.hub.tell("pnl.snapshot")
    await until(lambda: world.fact.reads >= 2)
    assert page == [Seen(0)]


async def test_a_part_that_is_away_keeps_the_last_figure_and_says_so(world: World) -> None:
    world.fact.value = 9
    page = await world.page("a")
    await until(lambda: world.hub.listeners)
    world.fact.away = "Redis is away"
    world.hub.tell("pnl.snapshot")
    await until(lambda: page[-1] == Seen(9, "Redis is away"))


async def test_nothing_is_read_or_followed_once_the_last_page_is_gone(world: World) -> None:
    await world.page("a")
    await until(lambda: world.hub.listeners)
    world.live.leave("a")
    world.hub.tell("pnl.snapshot")
    await until(lambda: not world.hub.listeners and world.rests == 1)
    assert world.fact.reads == 1


async def test_a_page_that_fails_keeps_nothing_from_the_others(world: World) -> None:
    def broken(_: Seen) -> None:
        if world.fact.value:
            raise ValueError("a mistake of that page")

    await world.live.watch("pnl", ("broken", "figure"), broken)
    page = await world.page("a")
    await until(lambda: world.hub.listeners)
    world.fact.value = 3
    world.hub.tell("pnl.snapshot")
    await until(lambda: page[-1] == Seen(3))
