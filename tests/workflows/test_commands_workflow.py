"""What the order's workflow makes of commands: when each is carried out, when again, and that fills and ends go on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from core import order_work
from core.ids import new_id
from core.order_work import BrokerHint, CommandCall, CommandInput, CommandNext, CommandResult, OrderView
from core.routing import urgent_queue
from core.trading.commands import CommandKind
from core.trading.types import Broker, Intent, OrderStatus
from tests.workflows.conftest import FakeWorld, after, desk, make_input, pausing, view
from tests.workflows.test_order_workflow import ended, ending

CANCEL, MODIFY, RESOLVE = CommandKind
HINT = BrokerHint(status="UPDATE", source="test")
BOUND_S = 20


def asked(kind: CommandKind) -> CommandInput:
    return CommandInput(request_id=new_id(), kind=kind)


async def until(condition: Callable[[], bool]) -> None:
    """Wall-clock wait, for tests that hold the time still."""
    bound = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < bound
        await asyncio.sleep(0.01)


async def test_a_cancel_stops_an_order_that_waits_to_be_sent(temporal: WorkflowEnvironment) -> None:
    """Its send is retried for ever (a closed session, a dead login): the cancel does not wait for that."""
    closed = ApplicationError("the session is closed", type="SessionClosed")
    world = FakeWorld(place=[closed], command=[after(OrderStatus.CANCELLED, reason="cancelled before it was sent")])
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input(intent=Intent.EXIT))
            await until(lambda: world.count("place") > 0)
            await handle.signal(order_work.COMMAND, asked(CANCEL))
            assert (await ended(handle, save="cancelled_unsent")).status is OrderStatus.CANCELLED
    assert world.count("command") == 1
    assert {queue for name, queue in world.queues if name == "command"} == {urgent_queue(Broker.PAPER)}


async def test_a_cancel_is_gone_on_with_until_the_book_shows_the_end(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[view(OrderStatus.ACKED)],
        command=[after(OrderStatus.ACKED, CommandNext.LATER)] * 4 + [after(OrderStatus.CANCELLED)],
    )
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            await handle.signal(order_work.COMMAND, asked(CANCEL))
            await until(lambda: world.count("command") > 0)
        assert (await ended(handle, save="cancelled_by_command")).status is OrderStatus.CANCELLED
    assert world.count("command") == 5


async def test_a_cancel_told_twice_is_one(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        command=[after(OrderStatus.ACKED, CommandNext.LATER), after(OrderStatus.CANCELLED)],
    )
    command = asked(CANCEL)
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            for _ in range(3):
                await handle.signal(order_work.COMMAND, command)
            assert (await ended(handle)).status is OrderStatus.CANCELLED
    assert world.count("command") == 2


async def test_a_cancel_of_an_unknown_order_waits_until_it_is_found(temporal: WorkflowEnvironment) -> None:
    held = asyncio.Event()

    async def lost() -> OrderView:
        await held.wait()
        return view(OrderStatus.UNKNOWN)

    world = FakeWorld(
        place=[lost],
        look_up=[view(OrderStatus.UNKNOWN, evidence="1 book"), view(OrderStatus.ACKED)],
        command=[
            after(OrderStatus.PENDING, CommandNext.WHEN_KNOWN),
            after(OrderStatus.UNKNOWN, CommandNext.WHEN_KNOWN),
            after(OrderStatus.CANCELLED),
        ],
    )
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            await until(lambda: world.count("place") > 0)
            await handle.signal(order_work.COMMAND, asked(CANCEL))
            await until(lambda: world.count("command") > 0)
            held.set()
            await until(lambda: world.count("command") > 1)
        assert (await ended(handle, save="cancel_waits_for_the_order")).status is OrderStatus.CANCELLED
    assert (world.count("place"), world.count("command")) == (1, 3)


async def test_a_fill_beats_a_cancel_and_the_command_hears_of_it(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[view(OrderStatus.FILLED)],
        command=[after(OrderStatus.ACKED, CommandNext.WHEN_KNOWN), after(OrderStatus.FILLED)],
    )
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            await handle.signal(order_work.COMMAND, asked(CANCEL))
            await until(lambda: world.count("command") > 0)
            await handle.signal(order_work.HINT, HINT)
            assert (await ended(handle)).status is OrderStatus.FILLED
    assert world.count("command") == 2, "carried out once more after the end, so that it is finished"


async def test_a_modify_is_followed_to_its_outcome_and_published(temporal: WorkflowEnvironment) -> None:
    done = asyncio.Event()

    async def book() -> OrderView:
        return view(OrderStatus.FILLED if done.is_set() else OrderStatus.ACKED)

    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[book],
        command=[after(OrderStatus.ACKED, CommandNext.LATER), after(OrderStatus.ACKED)],
    )
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            await handle.signal(order_work.COMMAND, asked(MODIFY))
            await until(lambda: world.count("command") == 2)
            await until(lambda: world.calls[-1][0] == "publish" or world.count("publish") >= 3)
            done.set()
            await handle.signal(order_work.HINT, HINT)
            assert (await ended(handle, save="modified")).status is OrderStatus.FILLED


async def test_a_cancel_goes_before_a_modify_that_waits(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        command=[after(OrderStatus.ACKED, CommandNext.LATER), after(OrderStatus.CANCELLED)],
    )
    modify, cancel = asked(MODIFY), asked(CANCEL)
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input(commands=(modify,)))
            await until(lambda: world.count("command") == 1)
            await handle.signal(order_work.COMMAND, cancel)
            assert (await ended(handle)).status is OrderStatus.CANCELLED
    carried = [call.request_id for name, call in world.calls if name == "command"]
    assert carried[:2] == [modify.request_id, cancel.request_id]
    assert set(carried) == {modify.request_id, cancel.request_id}


@dataclass
class Counting(FakeWorld):
    """Holds every command back until the test lets it go, and counts how many are carried out side by side."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    most: int = 0

    @activity.defn(name=order_work.CARRY_OUT)
    async def carry_out(self, call: CommandCall) -> CommandResult:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.go.wait()
        self.under_way -= 1
        return await super().carry_out(call)


async def heard(handle: WorkflowHandle[Any, Any]) -> None:
    """Until the workflow has taken in the last workflow signal."""
    while True:
        kinds = [event.event_type for event in (await handle.fetch_history()).events]
        signals = [at for at, kind in enumerate(kinds) if kind == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED]
        if signals and EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in kinds[signals[-1] :]:
            return
        await asyncio.sleep(0.02)


async def test_one_command_is_in_flight_however_many_are_asked_for(temporal: WorkflowEnvironment) -> None:
    world = Counting(
        place=[view(OrderStatus.SUBMITTED)],
        look=[view(OrderStatus.ACKED)],
        command=[after(OrderStatus.ACKED), after(OrderStatus.ACKED), after(OrderStatus.CANCELLED)],
    )
    first, second, third = asked(MODIFY), asked(MODIFY), asked(CANCEL)
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input(commands=(first,)))
            await until(lambda: world.under_way == 1)
            for command in (second, third):
                await handle.signal(order_work.COMMAND, command)
            await asyncio.wait_for(heard(handle), BOUND_S)
            world.go.set()
            assert (await ended(handle)).status is OrderStatus.CANCELLED
    assert world.most == 1
    carried = [call.request_id for name, call in world.calls if name == "command"]
    assert carried[:2] == [first.request_id, third.request_id], "a cancel goes before all that waits"


async def test_commands_without_an_outcome_are_handed_to_a_workflow_started_again(
    temporal: WorkflowEnvironment,
) -> None:
    world = FakeWorld(place=[], command=[after(OrderStatus.CANCELLED)])
    order = make_input(resumed=view(OrderStatus.ACKED), commands=(asked(CANCEL),))
    assert (await ending(temporal, world, order)).status is OrderStatus.CANCELLED
    assert (world.count("place"), world.count("command")) == (0, 1)


async def test_a_person_resolves_an_exit_that_was_never_placed_and_it_is_sent_anew(
    temporal: WorkflowEnvironment,
) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.UNKNOWN), view(OrderStatus.SUBMITTED, send_no=2)],
        look_up=[view(OrderStatus.UNRESOLVED, broker_order_id=None, reason="the day is over")],
        look=[view(OrderStatus.FILLED, send_no=2)],
        command=[after(OrderStatus.PENDING, send_no=2, broker_order_id=None)],
    )
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input(intent=Intent.EXIT))
            await until(lambda: world.count("alert order_unresolved") == 1)
            await handle.signal(order_work.COMMAND, asked(RESOLVE))
            result = await ended(handle, save="resolved_never_placed")
    assert result.status is OrderStatus.FILLED
    assert [place.send_no for name, place in world.calls if name == "place"] == [1, 2]


async def test_an_exit_waits_while_an_order_of_its_position_is_in_doubt(temporal: WorkflowEnvironment) -> None:
    waiting = view(OrderStatus.PENDING, broker_order_id=None, waits="waits: ENTRY x is UNRESOLVED")
    world = FakeWorld(place=[waiting] * 5 + [view(OrderStatus.SUBMITTED)], look=[view(OrderStatus.FILLED)])
    result = await ending(temporal, world, make_input(intent=Intent.EXIT), save="exit_waited")
    assert result.status is OrderStatus.FILLED
    assert (world.count("place"), world.count("alert exit_waits")) == (6, 1)


async def test_a_cancel_stops_an_exit_that_waits_for_an_order_in_doubt(temporal: WorkflowEnvironment) -> None:
    waiting = view(OrderStatus.PENDING, broker_order_id=None, waits="waits: ENTRY x is UNRESOLVED")
    world = FakeWorld(place=[waiting], command=[after(OrderStatus.CANCELLED, broker_order_id=None, short=True)])
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input(intent=Intent.EXIT))
            await until(lambda: world.count("alert exit_waits") == 1)
            await handle.signal(order_work.COMMAND, asked(CANCEL))
            assert (await ended(handle)).status is OrderStatus.CANCELLED
    assert world.count("alert exit_short") == 1


async def test_an_exit_that_ends_short_sends_nothing_more(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[view(OrderStatus.CANCELLED, filled_quantity=20, short=True, reason="cancelled in the app")],
    )
    assert (await ending(temporal, world, make_input(intent=Intent.EXIT))).filled_quantity == 20
    assert (world.count("place"), world.count("alert exit_short")) == (1, 1)


async def test_a_cancel_in_temporal_in_the_middle_of_a_command_orphans_no_order(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[view(OrderStatus.FILLED)],
        command=[after(OrderStatus.ACKED, CommandNext.LATER), after(OrderStatus.ACKED)],
    )
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            await handle.signal(order_work.COMMAND, asked(MODIFY))
            await until(lambda: world.count("command") > 0)
            await pausing(handle)  # the test server loses a task that cancels an activity which has just ended
            await handle.cancel()
            await handle.signal(order_work.HINT, HINT)
            assert (await ended(handle)).status is OrderStatus.FILLED
