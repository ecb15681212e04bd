"""The buffer between socket and log: order, what is dropped, and that nothing is dropped without a gap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.brokers.kite_wire import FULL
from core.errors import Transient
from core.events.envelope import Envelope, decode
from core.health import HealthReporter
from core.trading.ticks import Gap, Tick
from core.waiting import Waiting
from streams import feed_outbox
from streams.feed_outbox import Outbox
from streams.feed_texts import order_update

TOKEN = 408065
START = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


class FakeLog:
    """A producer whose log may be away, refuse, or accept and stay silent."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Envelope]] = []
        self.open: list[asyncio.Future[object]] = []
        self.away = False
        self.silent = False

    async def enqueue(
        self, topic: str, *, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]
    ) -> asyncio.Future[object]:
        if self.away:
            raise Transient("Kafka is away", part="kafka")
        self.rows.append((topic, decode(value)))
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self.silent:
            self.open.append(future)
        else:
            future.set_result(None)
        return future

    def of(self, kind: str) -> list[Envelope]:
        return [event for _, event in self.rows if event.type == kind]


def tick(number: int) -> tuple[int, bytes, datetime]:
    at = START + timedelta(seconds=number)
    return TOKEN, FULL.pack(TOKEN, 150_000 + number, *[0] * 13, int(at.timestamp()), *[0] * 30), at


@pytest.fixture
def health(tmp_path: Path) -> HealthReporter:
    health = HealthReporter("market-feed", tmp_path)
    health.started()
    return health


@contextlib.asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: object, what: str) -> None:
    assert callable(condition)
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.005)
    assert condition(), what


async def test_ticks_and_gaps_go_out_in_their_order(health: HealthReporter) -> None:
    log = FakeLog()
    outbox = Outbox(log, Waiting(health))  # type: ignore[arg-type]
    async with running(outbox):
        outbox.put_tick(*tick(1))
        outbox.put_gap(TOKEN, START, START + timedelta(seconds=2), "test")
        outbox.put_tick(*tick(2))
        await until(lambda: len(log.rows) == 3, "three events")
    assert [event.type.value for _, event in log.rows] == ["tick", "gap", "tick"]
    assert outbox.published == 2


async def test_a_full_buffer_drops_the_oldest_and_says_which_time_is_missing(health: HealthReporter) -> None:
    log = FakeLog()
    outbox = Outbox(log, Waiting(health), capacity=3)  # type: ignore[arg-type]
    for number in range(10):
        outbox.put_tick(*tick(number))
    async with running(outbox):
        await until(lambda: outbox.published == 3, "the kept ticks")
    assert outbox.dropped == 7
    first = log.rows[0][1].data
    assert isinstance(first, Gap)
    assert (first.since, first.until) == (tick(0)[2], tick(6)[2])
    kept = [event.data for event in log.of("tick")]
    assert [data.received_at for data in kept if isinstance(data, Tick)] == [tick(number)[2] for number in (7, 8, 9)]


async def test_a_dropped_gap_is_not_forgotten(health: HealthReporter) -> None:
    log = FakeLog()
    outbox = Outbox(log, Waiting(health), capacity=2)  # type: ignore[arg-type]
    outbox.put_gap(TOKEN, START - timedelta(minutes=1), START, "reconnected")
    for number in range(1, 4):
        outbox.put_tick(*tick(number))
    async with running(outbox):
        await until(lambda: outbox.published == 2, "the kept ticks")
    (gap,) = log.of("gap")
    assert isinstance(gap.data, Gap)
    assert (gap.data.since, gap.data.until) == (START - timedelta(minutes=1), tick(1)[2])


async def test_a_log_that_is_away_loses_nothing_that_fits(
    health: HealthReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_outbox, "RETRY_S", 0.01)
    log = FakeLog()
    log.away = True
    outbox = Outbox(log, Waiting(health))  # type: ignore[arg-type]
    async with running(outbox):
        for number in range(5):
            outbox.put_tick(*tick(number))
        await until(lambda: not health.ready, "health to say so")
        log.away = False
        await until(lambda: outbox.published == 5, "all ticks")
        assert health.ready
    assert not log.of("gap")


async def test_the_socket_never_waits_for_a_log_that_stays_silent(
    health: HealthReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_outbox, "MAX_OPEN", 2)
    monkeypatch.setattr(feed_outbox, "STALL_S", 0.1)
    log = FakeLog()
    log.silent = True
    outbox = Outbox(log, Waiting(health), capacity=5)  # type: ignore[arg-type]
    async with running(outbox):
        for number in range(100):
            outbox.put_tick(*tick(number))  # returns at once, or this test hangs
        await until(lambda: not health.ready, "health to say so")
        log.silent = False
        for future in log.open:
            future.set_result(None)
        await until(lambda: outbox.published + outbox.dropped == 100, "every tick sent or counted")
        assert health.ready
    assert log.of("gap")


async def test_a_tick_the_log_refuses_for_good_becomes_a_gap(health: HealthReporter) -> None:
    log = FakeLog()
    log.silent = True
    outbox = Outbox(log, Waiting(health))  # type: ignore[arg-type]
    async with running(outbox):
        outbox.put_tick(*tick(1))
        await until(lambda: log.open, "the send")
        log.silent = False
        log.open[0].set_exception(RuntimeError("refused"))
        await until(lambda: log.of("gap"), "the gap")
    assert outbox.dropped == 1


def order_frame(**changes: object) -> str:
    import json

    data = {
        "order_id": "2026112300001", "status": "COMPLETE", "tag": "TAG1", "checksum": "c0ffee",
        "order_timestamp": "2026-11-23 09:30:00",
    }  # fmt: skip
    return json.dumps({"type": "order", "data": data | changes})


def test_the_same_order_frame_is_the_same_event() -> None:
    first, again = order_update(order_frame(), START), order_update(order_frame(), START + timedelta(seconds=9))
    other = order_update(order_frame(status="UPDATE"), START)
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.id == again.id != other.id
    assert first.key == "2026112300001"
    assert "checksum" not in first.data.raw  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"type":"order","data":{}}',
        '{"type":"error","data":"bad"}',
        '{"type":"message","data":"hello"}',
    ],
)
def test_other_frames_are_only_logged(text: str) -> None:
    assert order_update(text, START) is None


async def test_hints_go_before_ticks(health: HealthReporter) -> None:
    log = FakeLog()
    outbox = Outbox(log, Waiting(health))  # type: ignore[arg-type]
    event = order_update(order_frame(), START)
    assert event is not None
    for number in range(3):
        outbox.put_tick(*tick(number))
    outbox.put_hint("updates", event)
    async with running(outbox):
        await until(lambda: len(log.rows) == 4, "all four")
    assert log.rows[0][0] == "updates"
