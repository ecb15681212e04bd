"""Waiting for the log's client library is bounded, whatever it does with a cancel: a lost lease waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, ClassVar, cast

import pytest
from aiokafka.errors import KafkaError

from core.errors import Transient
from core.messaging import bounded, producer, security
from core.messaging.bounded import closed, within
from core.messaging.producer import EventProducer

GIVE_UP_S = 20.0
"""When a test that hangs is given up."""


class Stubborn:
    """Ends by no cancel until it is let go, as a fetcher does that swallowed it."""

    made: ClassVar[list[Stubborn]] = []

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.ended = asyncio.Event()
        self.made.append(self)

    async def stop(self) -> None:
        await asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()
        self.ended.set()

    start = close = stop


class Deaf(Stubborn):
    """Swallows so many cancels and ends by the next."""

    def __init__(self, swallows: int) -> None:
        super().__init__()
        self.swallows = swallows

    async def stop(self) -> None:
        try:
            while not self.let_go.is_set():
                try:
                    await self.let_go.wait()
                except asyncio.CancelledError:
                    self.swallows -= 1
                    if self.swallows < 0:
                        raise
        finally:
            self.ended.set()


class Accumulator:
    def __init__(self) -> None:
        self.failed = False

    def fail_all(self, error: Exception) -> None:
        self.failed = True


class Sender:
    sender_task = None


class Client(Stubborn):
    """A producer of which nothing ends: as aiokafka's AIOKafkaProducer looks to us."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.client = self
        self._message_accumulator = Accumulator()
        self._sender = Sender()
        self._closed = False


async def finished(waiting: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> asyncio.Task[Any]:
    """The task, done; fails when it is not after GIVE_UP_S."""
    task = waiting if isinstance(waiting, asyncio.Task) else asyncio.create_task(waiting)
    done, _ = await asyncio.wait({task}, timeout=GIVE_UP_S)
    assert done, "it waits for ever"
    return task


async def test_a_close_that_ignores_its_cancel_is_left_behind() -> None:
    stubborn = Stubborn()
    (await finished(closed(stubborn.stop(), "reader-close", 0.05))).result()
    assert not stubborn.ended.is_set()


async def test_who_is_cancelled_waits_no_longer() -> None:
    stubborn = Stubborn()
    waiting = asyncio.create_task(within(60, stubborn.stop(), "close"))
    await asyncio.sleep(0)
    waiting.cancel()
    assert (await finished(waiting)).cancelled()


async def test_what_is_left_behind_is_cancelled_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "AGAIN_S", 0.01)
    deaf = Deaf(swallows=2)
    task = await finished(within(0.05, deaf.stop(), "close"))
    assert isinstance(task.exception(), TimeoutError)
    await asyncio.wait_for(deaf.ended.wait(), GIVE_UP_S)
    assert deaf.swallows == -1


async def test_what_it_returns_or_raises_is_handed_on() -> None:
    async def seven() -> int:
        return 7

    async def fail() -> None:
        raise KafkaError("refused")

    assert await within(5, seven(), "seven") == 7
    with pytest.raises(KafkaError, match="refused"):
        await within(5, fail(), "fail")
    await closed(fail(), "fail")  # told in the log


async def test_a_producer_that_does_not_stop_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "STOP_S", 0.1)
    client = Client()
    (await finished(producer._close(cast(Any, client)))).result()
    assert client._message_accumulator.failed, "whoever waits for an acknowledgement is told"


async def test_a_producer_that_does_not_start_is_a_log_that_is_away(
    monkeypatch: pytest.MonkeyPatch, no_settings: Any
) -> None:
    async def away(*_: Any) -> None:
        raise Transient("nothing answers", part="kafka")

    for name, value in (("START_S", 0.05), ("STOP_S", 0.1), ("AIOKafkaProducer", Client)):
        monkeypatch.setattr(producer, name, value)
    monkeypatch.setattr(security, "client_options", lambda *_: {})
    monkeypatch.setattr(security, "probe", away)
    task = await finished(EventProducer(no_settings, client_id="test").start())
    assert isinstance(task.exception(), Transient)


@pytest.fixture(autouse=True)
async def let_all_go() -> AsyncIterator[None]:
    """Also after a failure: the loop could not end."""
    yield
    while Stubborn.made:
        Stubborn.made.pop().let_go.set()


@pytest.fixture
def no_settings() -> Any:
    """The producer reads none here."""
    return None
