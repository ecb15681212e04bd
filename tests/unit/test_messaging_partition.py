"""One partition's worker: what happens to a record, whatever its handler does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import TopicPartition

from core.errors import Poison, Transient
from core.health import HealthReporter
from core.messaging import partition
from core.messaging.dlq import DeadLetter
from core.messaging.partition import Duties, PartitionWorker
from core.messaging.records import Handler, Record
from core.waiting import Waiting

HERE = TopicPartition("market.ticks", 2)


def make_record(offset: int, key: bytes = b"key", value: bytes = b"value") -> Record:
    return Record(HERE.topic, HERE.partition, offset, key, value, {"id": b"%d" % offset}, 1_700_000_000_000)


class Bench:
    """A worker with a fake log around it."""

    def __init__(self, tmp_path: Path, handle: Handler, at_once: int = 1) -> None:
        """Records whose value is `exit` are urgent."""
        self.health = HealthReporter("test", tmp_path)
        self.health.started()
        self.waiting = Waiting(self.health)
        self.buried: list[DeadLetter] = []
        self.bury_fails_with: Exception | None = None
        self.paused: list[bool] = []
        self.worker = PartitionWorker(
            HERE,
            Duties(
                "test",
                handle,
                self._bury,
                self.waiting,
                lambda: None,
                lambda w: self.paused.append(w.wants_pause),
                at_once,
                lambda record: record.value == b"exit",
            ),
        )

    async def _bury(self, letter: DeadLetter) -> None:
        if self.bury_fails_with is not None:
            raise self.bury_fails_with
        self.buried.append(letter)

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not what():  # noqa: ASYNC110  a condition, with a bound
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.worker.close()
        await self.worker.closed_within(1)


async def test_records_are_handled_in_order_and_only_finished_ones_count(tmp_path: Path) -> None:
    seen: list[int] = []

    async def handle(record: Record) -> None:
        seen.append(record.offset)

    bench = Bench(tmp_path, handle)
    assert bench.worker.done is None
    bench.worker.put([make_record(n) for n in range(10, 20)])
    await bench.until(lambda: bench.worker.done == 20)
    assert seen == list(range(10, 20))
    await bench.end()


async def test_several_at_once_count_only_when_all_of_them_are_finished(tmp_path: Path) -> None:
    open_gate = asyncio.Event()
    finished: list[int] = []

    async def handle(record: Record) -> None:
        if record.offset == 1:
            raise Poison("not JSON", stage="decode")
        if record.offset == 0:
            await open_gate.wait()
        finished.append(record.offset)

    bench = Bench(tmp_path, handle, at_once=4)
    bench.worker.put([make_record(n) for n in range(6)])
    await bench.until(lambda: finished == [2, 3] and len(bench.buried) == 1)
    assert bench.worker.done is None, "the first is still in hand"
    open_gate.set()
    await bench.until(lambda: bench.worker.done == 6)
    assert finished == [2, 3, 0, 4, 5]
    await bench.end()


@pytest.mark.parametrize("at_once", [1, 3])
async def test_urgent_records_overtake_others_but_never_those_of_their_own_key(tmp_path: Path, at_once: int) -> None:
    gate, seen, done = asyncio.Event(), list[int](), list[int | None]()

    async def handle(record: Record) -> None:
        seen.append(record.offset)
        done.append(bench.worker.done)
        if record.offset == 0:
            await gate.wait()

    bench = Bench(tmp_path, handle, at_once)
    bench.worker.put([make_record(0)])
    await bench.until(lambda: seen == [0])
    keys = {4: b"a", 3: b"b", 5: b"b", 6: b"c"}
    exits = {4, 5, 6}
    bench.worker.put([make_record(n, keys.get(n, b"key"), b"exit" if n in exits else b"entry") for n in range(1, 8)])
    gate.set()
    await bench.until(lambda: bench.worker.done == 8)
    assert seen == [0, 4, 6, 1, 2, 3, 5, 7], "5 waits for 3, which is older and of its key"
    handled: set[int] = set()
    for offset, committed in zip(seen, done, strict=True):
        assert handled.issuperset(range(committed or 0)), "nothing unfinished lies before what is committed"
        handled.add(offset)
    await bench.end()


async def test_a_worker_closed_behind_an_urgent_record_commits_nothing_that_still_waits(tmp_path: Path) -> None:
    gate, seen = asyncio.Event(), list[int]()

    async def handle(record: Record) -> None:
        seen.append(record.offset)
        await gate.wait()

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(5), make_record(6, b"a", b"exit"), make_record(7)])
    await bench.until(lambda: seen == [6])
    bench.worker.close()
    gate.set()
    await bench.worker.closed_within(5)
    assert (seen, bench.worker.done) == ([6], 5)


async def test_poison_is_buried_at_once_and_the_partition_goes_on(tmp_path: Path) -> None:
    tries: list[int] = []

    async def handle(record: Record) -> None:
        tries.append(record.offset)
        if record.offset == 1:
            raise Poison("not JSON", stage="decode")

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(n) for n in range(3)])
    await bench.until(lambda: bench.worker.done == 3)
    assert tries == [0, 1, 2]
    (letter,) = bench.buried
    assert (letter.record.offset, letter.stage, letter.attempts) == (1, "decode", 1)
    await bench.end()


async def test_a_transient_fault_holds_the_same_record_until_it_works_and_health_says_why(tmp_path: Path) -> None:
    away = True
    seen: list[int] = []

    async def handle(record: Record) -> None:
        if away:
            raise Transient("PostgreSQL is away while deciding")
        seen.append(record.offset)

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(n) for n in range(3)])
    await bench.until(lambda: bench.worker.held)
    assert not bench.health.ready
    assert bench.health._parts["postgres"] == "PostgreSQL is away while deciding"
    assert bench.paused == [True]
    assert bench.worker.done is None
    away = False
    await bench.until(lambda: bench.worker.done == 3)
    assert seen == [0, 1, 2]
    assert bench.paused == [True, False]
    assert bench.health.ready
    assert bench.buried == []
    await bench.end()


async def test_an_unknown_error_is_tried_three_times_then_buried_as_handle(tmp_path: Path) -> None:
    tries: list[int] = []

    async def handle(record: Record) -> None:
        tries.append(record.offset)
        raise KeyError("quantity")

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(7)])
    await bench.until(lambda: bench.worker.done == 8)
    assert tries == [7, 7, 7]
    (letter,) = bench.buried
    assert (letter.stage, letter.attempts) == ("handle", 3)
    assert isinstance(letter.error, KeyError)
    await bench.end()


async def test_an_unknown_error_that_passes_is_not_buried(tmp_path: Path) -> None:
    tries = 0

    async def handle(record: Record) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise KeyError("quantity")

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(7)])
    await bench.until(lambda: bench.worker.done == 8)
    assert bench.buried == []
    await bench.end()


@pytest.mark.parametrize("fault", [Transient("Kafka is away", part="kafka"), RuntimeError("anything else")])
async def test_a_dead_letter_that_cannot_be_written_holds_the_partition(tmp_path: Path, fault: Exception) -> None:
    seen: list[int] = []

    async def handle(record: Record) -> None:
        seen.append(record.offset)
        if record.offset == 0:
            raise Poison("bad", stage="validate")

    bench = Bench(tmp_path, handle)
    bench.bury_fails_with = fault
    bench.worker.put([make_record(0), make_record(1)])
    await bench.until(lambda: bench.worker.held)
    assert bench.worker.done is None
    assert not bench.health.ready
    bench.bury_fails_with = None
    await bench.until(lambda: bench.worker.done == 2)
    assert seen == [0, 1], "the handler is not run again for a letter that only needs writing"
    assert len(bench.buried) == 1
    await bench.end()


async def test_a_closed_worker_finishes_the_record_in_hand_and_no_other(tmp_path: Path) -> None:
    go = asyncio.Event()
    seen: list[int] = []

    async def handle(record: Record) -> None:
        await go.wait()
        seen.append(record.offset)

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(n) for n in range(5)])
    await asyncio.sleep(0)
    bench.worker.close()
    go.set()
    await bench.worker.closed_within(1)
    bench.worker.put([make_record(5)])
    assert seen == [0]
    assert bench.worker.done == 1


async def test_closing_does_not_wait_for_a_part_that_is_away(tmp_path: Path) -> None:
    async def handle(record: Record) -> None:
        raise Transient("PostgreSQL is away")

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(0)])
    await bench.until(lambda: bench.worker.held)
    await bench.end()
    assert bench.worker.task.done()
    assert bench.worker.done is None
    assert bench.health.ready, "who left no longer waits"


async def test_a_handler_that_hangs_is_cancelled_when_its_partition_leaves(tmp_path: Path) -> None:
    cancelled = asyncio.Event()

    async def handle(record: Record) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(0)])
    await asyncio.sleep(0)
    bench.worker.close()
    await bench.worker.closed_within(0.05)
    assert cancelled.is_set()
    assert bench.worker.done is None


async def test_a_worker_that_is_behind_pauses_its_partition_and_resumes_it(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def handle(record: Record) -> None:
        await go.wait()

    bench = Bench(tmp_path, handle)
    bench.worker.put([make_record(n) for n in range(partition.FULL - 1)])
    assert bench.paused == []
    bench.worker.put([make_record(partition.FULL)])
    assert bench.paused == [True]
    go.set()
    await bench.until(lambda: bench.worker.done == partition.FULL + 1)
    assert bench.paused == [True, False]
    await bench.end()


async def test_a_begin_is_committed_only_while_nothing_arrived(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def handle(record: Record) -> None:
        await go.wait()

    bench = Bench(tmp_path, handle)
    bench.worker.begins(40)
    assert bench.worker.done == 40
    other = Bench(tmp_path, handle)
    other.worker.put([make_record(40)])
    other.worker.begins(41)
    assert other.worker.done is None, "41 would skip the record in hand"
    go.set()
    await bench.end()
    await other.end()
