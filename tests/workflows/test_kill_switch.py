"""What the kill switch's workflow decides, with fake activities; each history is replayed against the code at the end."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from core import kill_work as work
from core.kill_work import (
    AccountPosition,
    AccountSeen,
    FinishInput,
    KillInput,
    KillNet,
    KillOrder,
    KillView,
    SeenInput,
)
from core.order_work import RAISE_ALERT, AlertInput
from core.routing import kill_workflow_id, orders_queue, urgent_queue
from core.trading.durations import OrderDurations
from core.trading.types import Broker
from tests.workflows.test_order_workflow import scrubbed
from workflows.kill_switch import KillSwitchWorkflow

HISTORIES = Path(__file__).parent.parent / "data" / "kill-histories"
SAVED = {path.stem: path.read_text() for path in sorted(HISTORIES.glob("*.json"))}

ORDER = KillOrder(order_id=uuid.UUID(int=7), what="BUY 10 INFY of momentum@paper (0/10 filled)", status="ACKED")
OPEN = KillNet(instrument="NSE:INFY", product="MIS", ours=10, at_broker=10)
FLAT = KillView()
SEEN = AccountSeen(
    positions=(AccountPosition(instrument="NSE:INFY", product="MIS", quantity=10, instrument_token=408065),)
)


def make_kill(**changes: Any) -> KillInput:
    values: dict[str, Any] = {
        "kill_id": uuid.uuid4(),
        "broker": Broker.PAPER,
        "account": "PAPER",
        "strategy_id": None,
        "requested_by": "tester",
        "reason": "a test",
        "include_foreign": False,
        "durations": OrderDurations(),
    }
    return KillInput(**(values | changes))


@dataclass
class FakeAccount:
    """Views are shown in turn, the last one stays. Every call is noted with its queue."""

    views: list[KillView]
    engage_fails: int = 0
    see_fails: int = 0
    foreign_told: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    calls: list[tuple[str, Any]] = field(default_factory=list)
    queues: dict[str, str] = field(default_factory=dict)
    planned: asyncio.Event = field(default_factory=asyncio.Event)
    """Exits were asked for."""

    def _note(self, name: str, argument: Any) -> None:
        self.calls.append((name, argument))
        self.queues[name] = activity.info().task_queue

    @activity.defn(name=work.ENGAGE)
    async def engage(self, kill: KillInput) -> None:
        self._note("engage", kill)
        if self.engage_fails:
            self.engage_fails -= 1
            raise RuntimeError("PostgreSQL is away")

    @activity.defn(name=work.CANCEL_ORDERS)
    async def cancel(self, kill: KillInput) -> tuple[str, ...]:
        self._note("cancel", kill)
        return ()

    @activity.defn(name=work.SEE_ACCOUNT)
    async def see(self, kill: KillInput) -> AccountSeen:
        self._note("see", kill)
        if self.see_fails:
            self.see_fails -= 1
            raise ApplicationError("no valid session", type="SESSION_EXPIRED")
        return SEEN

    @activity.defn(name=work.EXIT_POSITIONS)
    async def exits(self, asked: SeenInput) -> KillView:
        self._note("exit", asked)
        self.planned.set()
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]

    @activity.defn(name=work.CLOSE_FOREIGN)
    async def foreign(self, kill: KillInput) -> tuple[str, ...]:
        self._note("foreign", kill)
        return self.foreign_told.pop(0) if len(self.foreign_told) > 1 else self.foreign_told[0]

    @activity.defn(name=work.FINISH)
    async def finish(self, finished: FinishInput) -> None:
        self._note("finish", finished)

    @activity.defn(name=RAISE_ALERT)
    async def alert(self, alert: AlertInput) -> None:
        self._note(f"alert {alert.kind}", alert)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def said(self, name: str) -> Any:
        return [argument for called, argument in self.calls if called == name]


@asynccontextmanager
async def running(
    temporal: WorkflowEnvironment, account: FakeAccount, kill: KillInput
) -> AsyncIterator[WorkflowHandle[Any, KillView]]:
    ours = [account.engage, account.cancel, account.exits, account.finish, account.alert]
    theirs = [account.see, account.foreign]
    async with (
        Worker(temporal.client, task_queue=orders_queue(Broker.PAPER), workflows=[KillSwitchWorkflow], activities=ours),
        Worker(temporal.client, task_queue=urgent_queue(Broker.PAPER), activities=theirs),
    ):
        yield await temporal.client.start_workflow(
            work.KILL_WORKFLOW,
            kill,
            id=kill_workflow_id(kill.broker, kill.kill_id),
            task_queue=orders_queue(kill.broker),
            result_type=KillView,
        )


async def ending(
    temporal: WorkflowEnvironment, account: FakeAccount, kill: KillInput | None = None, *, save: str | None = None
) -> KillView:
    async with running(temporal, account, kill or make_kill()) as handle:
        result = await handle.result()
        history = await handle.fetch_history()
        await replayer().replay_workflow(history)
        if save and os.environ.get("SAVE_HISTORIES") == "1":
            HISTORIES.mkdir(parents=True, exist_ok=True)
            (HISTORIES / f"{save}.json").write_text(scrubbed(history.to_json()))
        return result


def replayer() -> Replayer:
    return Replayer(workflows=[KillSwitchWorkflow], data_converter=pydantic_data_converter)


@pytest.mark.parametrize("name", SAVED)
async def test_saved_histories_still_replay(name: str) -> None:
    """A switch engaged under older code goes on under this one. A mismatch needs `workflow.patched`, never a new file."""
    await replayer().replay_workflow(WorkflowHistory.from_json("paper-kill-saved", SAVED[name]))


def test_every_ending_has_a_saved_history() -> None:
    assert SAVED.keys() >= {"flat_at_once", "closed", "released", "foreign", "stuck", "cut", "exit_unseen"}


async def test_with_nothing_open_it_sets_the_flag_looks_once_and_reports(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount([FLAT])
    assert (await ending(temporal, account, save="flat_at_once")).is_flat
    assert account.names() == ["engage", "cancel", "see", "exit", "finish", "alert kill_finished"]
    assert account.queues["see"] == urgent_queue(Broker.PAPER)
    assert account.queues["exit"] == orders_queue(Broker.PAPER)


async def test_it_ends_whatever_its_durations_are_divided_by(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount([FLAT])
    await ending(temporal, account, make_kill(durations=OrderDurations().scaled(20)))
    assert account.names()[-1] == "alert kill_finished"


async def test_it_cancels_closes_and_looks_until_nothing_is_left(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount(
        [
            KillView(working=(ORDER,), nets=(OPEN,), waits=("waits for the end of BUY 10 INFY",)),
            KillView(nets=(OPEN,), exits=1),
            KillView(working=(ORDER.model_copy(update={"ours_to_wait_for": True}),), nets=(OPEN,)),
            KillView(foreign=("position +5 NSE:SBIN MIS",)),
        ]
    )
    result = await ending(temporal, account, save="closed")
    assert result.is_flat
    assert result.exits == 1
    assert account.names().count("exit") == 4
    report = account.said("finish")[0]
    assert report.view.foreign == ("position +5 NSE:SBIN MIS",)
    assert any("1 exits asked" in line for line in report.story)
    assert "foreign" not in account.names()
    assert "left alone: position +5 NSE:SBIN" in account.said("alert kill_finished")[0].message


async def test_the_exits_are_planned_by_what_the_broker_showed_just_before(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount([FLAT])
    await ending(temporal, account)
    assert account.said("exit")[0].seen == SEEN


async def test_parts_that_are_away_are_waited_for(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount([FLAT], engage_fails=3, see_fails=4)
    assert (await ending(temporal, account)).is_flat
    assert (account.names().count("engage"), account.names().count("see")) == (4, 5)
    assert account.names().count("cancel") == 1


async def test_an_unresolved_order_is_never_forgotten_and_alerted_once(temporal: WorkflowEnvironment) -> None:
    doubt = KillView(
        working=(ORDER.model_copy(update={"status": "UNRESOLVED"}),),
        nets=(OPEN,),
        stuck=("BUY 10 INFY is UNRESOLVED",),
    )
    account = FakeAccount([doubt] * 8 + [FLAT])
    assert (await ending(temporal, account, save="stuck")).is_flat
    assert account.names().count("alert kill_stuck") == 1
    assert account.names().count("exit") == 9


async def test_a_trouble_that_passes_by_itself_calls_nobody(temporal: WorkflowEnvironment) -> None:
    short = KillView(nets=(OPEN,), stuck=("the broker's net is 10 short",))
    account = FakeAccount([short, short, FLAT])
    await ending(temporal, account)
    assert "alert kill_stuck" not in account.names()


async def test_an_exit_cut_because_somebody_else_sells_is_told_at_once_and_once(temporal: WorkflowEnvironment) -> None:
    cut = KillView(working=(ORDER,), nets=(OPEN,), alerts=("NSE:INFY MIS: the broker's net is +4 now",))
    account = FakeAccount([cut, cut, FLAT])
    assert (await ending(temporal, account, save="cut")).is_flat
    assert [alert.message for alert in account.said("alert kill_cut")] == ["NSE:INFY MIS: the broker's net is +4 now"]


async def test_an_exit_whose_end_nobody_will_see_is_told_once_also_when_it_is_the_last(
    temporal: WorkflowEnvironment,
) -> None:
    over = ("exit SELL 5 NSE:SBIN MIS (tag T1, DAY_OVER): its day ended before a book showed its end",)
    account = FakeAccount([KillView(nets=(OPEN,), over=over), KillView(over=over)])
    assert (await ending(temporal, account, save="exit_unseen")).is_flat
    assert [alert.message for alert in account.said("alert kill_exit_unseen")] == list(over)


async def test_a_closed_session_is_told_while_it_waits(temporal: WorkflowEnvironment) -> None:
    waits = KillView(working=(ORDER,), nets=(OPEN,), closed=("NSE is closed: SELL 10 INFY waits",))
    account = FakeAccount([waits] * 30 + [FLAT])
    assert (await ending(temporal, account)).is_flat
    assert account.names().count("alert kill_waiting") == 1


async def test_a_release_by_a_person_ends_it_with_a_report_of_what_is_left(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount([KillView(nets=(OPEN,)), KillView(nets=(OPEN,), released=True)])
    result = await ending(temporal, account, save="released")
    assert result.released
    assert not result.is_flat
    assert account.said("finish")[0].view.nets == (OPEN,)


async def test_foreign_is_closed_only_after_ours_and_only_when_typed(temporal: WorkflowEnvironment) -> None:
    ours = KillView(working=(ORDER,), foreign=("order SELL 5 NSE:SBIN (77)",), foreign_open=True)
    theirs = KillView(foreign=("order SELL 5 NSE:SBIN (77)",), foreign_open=True)
    account = FakeAccount([ours, theirs, theirs, FLAT])
    assert (await ending(temporal, account, make_kill(include_foreign=True), save="foreign")).is_flat
    assert account.names().count("foreign") == 2
    assert account.names().index("foreign") > [i for i, name in enumerate(account.names()) if name == "exit"][1]


async def test_a_look_asked_for_is_taken_before_the_timer(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount([KillView(nets=(OPEN,)), FLAT])
    with temporal.auto_time_skipping_disabled():
        async with running(temporal, account, make_kill(durations=OrderDurations(first_look=600.0))) as handle:
            await handle.signal(work.LOOK)
            await handle.signal(work.LOOK)
            assert (await handle.result()).is_flat


async def pausing(handle: WorkflowHandle[Any, KillView], times: int) -> None:
    """Until the kill switch waits for its next round, for the n-th time."""
    while True:
        history = await handle.fetch_history()
        started = [event for event in history.events if event.HasField("timer_started_event_attributes")]
        if len(started) >= times:
            return
        await asyncio.sleep(0.02)


async def test_a_cancel_in_temporal_stops_no_kill_switch(temporal: WorkflowEnvironment) -> None:
    account = FakeAccount([KillView(nets=(OPEN,)), KillView(nets=(OPEN,)), FLAT])
    with temporal.auto_time_skipping_disabled():
        async with (
            asyncio.timeout(30),
            running(temporal, account, make_kill(durations=OrderDurations(first_look=20.0))) as handle,
        ):
            await account.planned.wait()
            await pausing(handle, 1)  # the test server loses a task that cancels an activity which has just ended
            account.planned.clear()
            await handle.cancel()
            await account.planned.wait()
            await handle.signal(work.LOOK)
            assert (await handle.result()).is_flat
