"""When the reconcile workflow runs a round, and that nothing that is away ends it; its histories are replayed against the code."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from core import reconcile_work as work
from core.reconcile_work import (
    Compared,
    Mended,
    ReconcileAsk,
    ReconcileDurations,
    ReconcileInput,
    RoundInput,
    RoundResult,
)
from core.routing import orders_queue, reconcile_workflow_id, urgent_queue
from core.trading.types import Broker
from tests.workflows.test_order_workflow import scrubbed
from workflows.reconcile import ReconcileWorkflow

HISTORIES = Path(__file__).parent.parent / "data" / "reconcile-histories"
SAVED = {path.stem: path.read_text() for path in sorted(HISTORIES.glob("*.json"))}


@dataclass
class FakeRounds:
    """What the activities are told; an error in `away` is what that activity answers with."""

    results: list[RoundResult] = field(default_factory=list)
    compared_on: list[str] = field(default_factory=list)
    away: dict[str, Exception] = field(default_factory=dict)
    during: Callable[[], Any] | None = None
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    def _maybe(self, name: str) -> None:
        if name in self.away:
            raise self.away[name]

    @activity.defn(name=work.MEND_ORDERS)
    async def mend(self, at: RoundInput) -> Mended:
        self._maybe("mend")
        return Mended(published=1)

    @activity.defn(name=work.COMPARE_WITH_BROKER)
    async def compare(self, at: RoundInput) -> Compared:
        self.compared_on.append(activity.info().task_queue)
        self._maybe("compare")
        if self.during is not None:
            during, self.during = self.during, None
            await during()
        return Compared(judged=True)

    @activity.defn(name=work.REPORT_ROUND)
    async def report(self, result: RoundResult) -> str:
        self.results.append(result)
        self.reported.set()
        self._maybe("report")
        return "no drift"


Handle = WorkflowHandle[Any, Any]


@asynccontextmanager
async def reconciling(temporal: WorkflowEnvironment, world: FakeRounds, **changes: Any) -> AsyncIterator[Handle]:
    """The workflow of one run, with fakes around it; ended at the end."""
    start = ReconcileInput(
        broker=Broker.PAPER, account="PAPER", target="paper", durations=ReconcileDurations(), **changes
    )
    async with (
        Worker(
            temporal.client,
            task_queue=orders_queue(Broker.PAPER),
            workflows=[ReconcileWorkflow],
            activities=[world.mend, world.report],
        ),
        Worker(temporal.client, task_queue=urgent_queue(Broker.PAPER), activities=[world.compare]),
    ):
        handle = await temporal.client.start_workflow(
            work.RECONCILE_WORKFLOW,
            start,
            id=f"{reconcile_workflow_id(Broker.PAPER)}-{uuid.uuid4()}",
            task_queue=orders_queue(Broker.PAPER),
        )
        try:
            yield handle
        finally:
            await handle.terminate()


async def rounds(temporal: WorkflowEnvironment, world: FakeRounds, wanted: int) -> None:
    """Skip minutes until so many rounds were told."""
    for _ in range(wanted * 6):
        if len(world.results) >= wanted:
            return
        await temporal.sleep(20)
    raise AssertionError(f"{len(world.results)} rounds, wanted {wanted}")


async def replay(handle: Handle, save: str | None = None) -> None:
    history = await handle.fetch_history()
    await replayer().replay_workflow(history)
    if save and os.environ.get("SAVE_HISTORIES") == "1":
        HISTORIES.mkdir(parents=True, exist_ok=True)
        (HISTORIES / f"{save}.json").write_text(scrubbed(history.to_json()))


def replayer() -> Replayer:
    return Replayer(workflows=[ReconcileWorkflow], data_converter=pydantic_data_converter)


@pytest.mark.parametrize("name", SAVED)
async def test_saved_histories_still_replay(name: str) -> None:
    """It runs for ever in somebody's Temporal: a mismatch needs `workflow.patched`, never a new file."""
    await replayer().replay_workflow(WorkflowHistory.from_json("paper-reconcile", SAVED[name]))


def test_there_are_saved_histories() -> None:
    assert SAVED.keys() >= {"asked", "everything_away"}


async def test_a_round_at_the_start_every_minute_and_when_asked(temporal: WorkflowEnvironment) -> None:
    world, request = FakeRounds(), uuid.uuid4()
    async with reconciling(temporal, world) as handle:
        await rounds(temporal, world, 3)
        began = len(world.results)
        world.reported.clear()
        with temporal.auto_time_skipping_disabled():
            await handle.signal(work.NOW, ReconcileAsk(reason="asked by a person", request_id=request))
            async with asyncio.timeout(20):
                await world.reported.wait()
        await replay(handle, "asked")
    asked = world.results[began].round
    assert world.results[0].round.reasons == (work.EVERY_MINUTE,)
    assert (asked.reasons, asked.requests) == (("asked by a person",), (request,))
    assert len({result.round.round_id for result in world.results}) == len(world.results)
    assert set(world.compared_on) == {urgent_queue(Broker.PAPER)}, "the leased process reads the broker"
    assert world.results[0].mended == Mended(published=1)


async def test_what_is_asked_during_a_round_leads_to_one_more(temporal: WorkflowEnvironment) -> None:
    world = FakeRounds()
    async with reconciling(temporal, world) as handle:

        async def ask_thrice() -> None:
            for _ in range(3):
                await handle.signal(work.NOW, ReconcileAsk(reason="the broker's updates were interrupted"))

        world.during = ask_thrice
        await rounds(temporal, world, 2)
    assert [result.round.reasons for result in world.results[:2]] == [
        (work.EVERY_MINUTE,),
        ("the broker's updates were interrupted",),
    ]


async def test_parts_that_are_away_cost_their_step_and_nothing_else(temporal: WorkflowEnvironment) -> None:
    world = FakeRounds()
    world.away = {name: ApplicationError(f"{name} is away") for name in ("mend", "compare", "report")}
    async with reconciling(temporal, world) as handle:
        await rounds(temporal, world, 2)
        first = world.results[0]
        assert (first.mended, first.compared) == (None, None)
        assert "compare is away" in " ".join(first.trouble)
        world.away.clear()
        told = len(world.results)
        await rounds(temporal, world, told + 2)
        assert (world.results[-1].compared, world.results[-1].trouble) == (Compared(judged=True), ())
        await replay(handle, "everything_away")


async def test_it_goes_on_in_a_new_run_with_what_was_asked(
    temporal: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "ROUNDS_A_RUN", 2)
    world, request = FakeRounds(), uuid.uuid4()
    faster = ReconcileDurations(every=30)
    async with reconciling(temporal, world) as handle:
        first = (await handle.describe()).run_id
        await rounds(temporal, world, 1)

        async def ask() -> None:
            await handle.signal(work.NOW, ReconcileAsk(reason="late", request_id=request, durations=faster))

        world.during = ask
        await rounds(temporal, world, 3)
        now = await handle.describe()
        assert now.run_id != first
        assert now.status is WorkflowExecutionStatus.RUNNING
    assert world.results[2].round.requests == (request,)
    assert world.results[2].round.durations == faster
