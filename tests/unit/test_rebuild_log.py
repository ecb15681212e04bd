"""`rebuild-log` leaves no offset that skips a record, whatever part of the log was lost and wherever it is broken off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cli import rebuild_log
from core.config import Settings
from core.messaging import lag, rebuild
from core.messaging.lag import GroupLag
from core.messaging.rebuild import GroupReset, Rebuilt, resets
from core.storage import log_copy

FILLED, RAW = "paper.orders.filled", "paper.signals.raw"
SETTINGS = Settings.model_construct()


def row(topic: str, committed: int, end: int, group: str = "alpha-panda.portfolio") -> GroupLag:
    return GroupLag(group, topic, 0, committed, end, max(0, end - committed))


@pytest.mark.parametrize(
    ("topic", "committed", "end", "lost", "new_log", "to"),
    [
        pytest.param(FILLED, 7, 9, (), False, None, id="nothing was lost"),
        pytest.param(FILLED, 12, 9, (), False, 3, id="past the end"),
        pytest.param(
            FILLED, 7, 9, (FILLED,), False, 3, id="within a topic that lost events: other records are there now"
        ),
        pytest.param(RAW, 7, 9, (FILLED,), False, None, id="another topic lost events"),
        pytest.param(RAW, 7, 9, (), True, 3, id="another log"),
        pytest.param(FILLED, 3, 9, (FILLED,), True, None, id="at the beginning already"),
    ],
)
def test_which_offsets_go_back_to_the_first_record(
    topic: str, committed: int, end: int, lost: tuple[str, ...], new_log: bool, to: int | None
) -> None:
    found = resets([row(topic, committed, end)], {(FILLED, 0): 3, (RAW, 0): 3}, lost, new_log=new_log)
    assert [one.to for one in found] == ([] if to is None else [to])


class Crash(BaseException):
    """The process dies here."""


class Log:
    """A log and a database in memory. One event of FILLED was lost and is to be filled up."""

    def __init__(self, known: str, lacking: int = 1) -> None:
        self.marked, self.lacking = known, lacking
        self.ends = {FILLED: 9, RAW: 9}
        self.groups = [
            row(FILLED, 9, 9),
            row(RAW, 9, 9),
            row("paper.signals.validated", 4, 4, "alpha-panda.order-gateway"),
        ]
        self.checkpoints = {"runner": {FILLED: {"0": 9}}, "feed": {RAW: {"0": 9}}}
        self.crash = False
        self.steps: list[str] = []

    async def fill(self, settings: Settings, stores: Any, yes: bool) -> Rebuilt:
        done = Rebuilt()
        done.lacking[FILLED] = self.lacking
        if yes:
            self.steps.append("fill")
            if self.crash:
                raise Crash
            self.ends[FILLED] += self.lacking
            self.lacking = 0
        return done

    async def lag(self, settings: Settings) -> list[GroupLag]:
        return self.groups

    async def bounds(self, settings: Settings, wanted: Any) -> Any:
        from aiokafka import TopicPartition

        return {TopicPartition(name, 0): 0 for name in wanted}, {}

    async def end_offsets(self, settings: Settings, names: list[str]) -> dict[str, dict[int, int]]:
        return {name: {0: self.ends.get(name, 4)} for name in names}

    def commit(self, settings: Settings, rows: Iterable[GroupReset]) -> None:
        self.steps += [f"{one.group.rpartition('.')[2]} {one.topic} to {one.to}" for one in rows]

    async def forget(self, engine: Any, names: list[str]) -> None:
        self.steps += [f"forget {name}" for name in names]
        self.checkpoints = {name: row for name, row in self.checkpoints.items() if name not in names}

    async def mark(self, engine: Any, name: str) -> None:
        self.marked = name
        self.steps.append(f"mark {name}")

    def work(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        @asynccontextmanager
        async def opened(settings: Settings) -> AsyncIterator[Any]:
            nothing: Any = None
            yield rebuild_log._Stores(nothing, {})

        async def nobody(stores: Any) -> list[str]:
            return []

        async def marked(engine: Any) -> str:
            return self.marked

        async def checkpoints(engine: Any) -> Any:
            return self.checkpoints

        async def gateway(settings: Settings, stores: Any) -> list[GroupReset]:
            return [GroupReset("alpha-panda.order-gateway", "paper.signals.validated", 0, None, 4)]

        for where, name, what in (
            (rebuild_log, "_opened", opened), (rebuild_log, "_leases", nobody), (rebuild_log, "_fill", self.fill),
            (rebuild_log, "_past_what_was_started", gateway), (rebuild, "log_id", lambda settings: "THIS"),
            (rebuild, "commit", self.commit), (lag, "lag_by_group", self.lag), (lag, "bounds", self.bounds),
            (lag, "end_offsets", self.end_offsets), (log_copy, "marked_log", marked), (log_copy, "mark_log", self.mark),
            (log_copy, "checkpoints", checkpoints), (log_copy, "forget_checkpoints", self.forget),
        ):  # fmt: skip
            monkeypatch.setattr(where, name, what)
        return asyncio.run(rebuild_log._work(SETTINGS, True))


def test_what_reads_a_topic_that_lost_events_begins_anew_before_it_is_filled_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same log, a part of it gone: the offsets of its readers lie within what is there, and would skip what is filled up."""
    log = Log("THIS")
    log.work(monkeypatch)
    assert log.steps == [
        "forget runner", "mark THIS, half rebuilt", f"portfolio {FILLED} to 0", "fill",
        "order-gateway paper.signals.validated to 4", "mark THIS",
    ]  # fmt: skip


def test_broken_off_while_it_fills_up_no_service_starts_and_the_next_time_does_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log("THIS")
    log.crash = True
    with pytest.raises(Crash):
        log.work(monkeypatch)
    assert log.marked != "THIS", "make up refuses on a log that the database does not know"
    assert f"portfolio {FILLED} to 0" in log.steps
    log.crash, log.lacking, log.steps = False, 0, []
    log.work(monkeypatch)
    assert log.steps[-2:] == ["order-gateway paper.signals.validated to 4", "mark THIS"]
    assert log.marked == "THIS"


def test_a_whole_log_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log("THIS", lacking=0)
    assert log.work(monkeypatch).nothing
    assert log.steps == ["fill", "mark THIS"]
