"""What the order's workflow decides, one ending after the other; each history is replayed against the code at the end."""

from __future__ import annotations

import asyncio
import json
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.common import WorkflowIDReusePolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from core import order_work
from core.order_work import BrokerHint, OrderInput, OrderView
from core.routing import orders_queue, urgent_queue
from core.trading.types import Broker, Intent, OrderStatus
from tests.workflows.conftest import FakeWorld, desk, make_input, pausing, view
from workflows.order import OrderWorkflow

HINT = BrokerHint(status="COMPLETE", source="test")


HISTORIES = Path(__file__).parent.parent / "data" / "histories"
SAVED = {path.stem: path.read_text() for path in sorted(HISTORIES.glob("*.json"))}


async def ending(
    temporal: WorkflowEnvironment, world: FakeWorld, order: OrderInput | None = None, *, save: str | None = None
) -> OrderView:
    """Run one order to its end, then replay its history; SAVE_HISTORIES=1 keeps it for the replay test below."""
    async with desk(temporal, world) as at:
        handle = await at.start(order or make_input())
        return await ended(handle, save=save)


async def ended(handle: WorkflowHandle[Any, OrderView], *, save: str | None = None) -> OrderView:
    """The end of an order that runs, its history replayed and, if asked, kept."""
    result = await handle.result()
    history = await handle.fetch_history()
    await replayer().replay_workflow(history)
    if save and os.environ.get("SAVE_HISTORIES") == "1":
        HISTORIES.mkdir(parents=True, exist_ok=True)
        (HISTORIES / f"{save}.json").write_text(scrubbed(history.to_json()))
    return result


def scrubbed(history: str) -> str:
    """Without the names of the machine and folder it was recorded in."""
    return re.sub(r'"[0-9]+@[^"]+"', '"worker"', history).replace(f"{Path(__file__).parents[2]}/", "")


def replayer() -> Replayer:
    return Replayer(workflows=[OrderWorkflow], data_converter=pydantic_data_converter)


@pytest.mark.parametrize("name", SAVED)
async def test_saved_histories_still_replay(name: str) -> None:
    """An order that began under older code goes on under this one. A mismatch needs `workflow.patched`, never a new file."""
    await replayer().replay_workflow(WorkflowHistory.from_json("paper-order-saved", SAVED[name]))


def test_every_ending_has_a_saved_history() -> None:
    assert SAVED.keys() >= {
        "filled",
        "rejected",
        "expired",
        "unknown_found",
        "unknown_absent",
        "exit_sent_again",
        "exit_short",
        "cancelled",
        "unresolved_found",
        "log_away",
        "cancelled_unsent",
        "cancelled_by_command",
        "cancel_waits_for_the_order",
        "modified",
        "resolved_never_placed",
        "exit_waited",
        "rested",
        "exit_went_on",
        "position_left",
    }


def written(history: WorkflowHistory) -> list[str]:
    """What search attributes said of the order's status, in turn."""
    key = order_work.SA_STATUS.name
    fields = [
        event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
        for event in history.events
    ]
    return [json.loads(found[key].data) for found in fields if key in found]


async def test_search_attributes_are_written_when_an_order_rests_and_when_it_ends(
    temporal: WorkflowEnvironment,
) -> None:
    """A fill that is hinted at before the first pause is over is written once; runs of older code write each step."""
    world = FakeWorld(place=[view(OrderStatus.ACKED)], look=[view(OrderStatus.ACKED), view(OrderStatus.FILLED)])
    async with desk(temporal, world) as at:
        handle = await at.start(make_input())
        await ended(handle, save="rested")
        assert written(await handle.fetch_history()) == ["ACKED", "FILLED"]
    for files_late, expected in ((True, ["FILLED"]), (False, ["ACKED", "FILLED"])):
        world = FakeWorld(place=[view(OrderStatus.ACKED)], look=[view(OrderStatus.FILLED)])
        async with desk(temporal, world) as at:
            with temporal.auto_time_skipping_disabled():
                handle = await at.start(make_input(files_late=files_late))
                await handle.signal(order_work.HINT, HINT)
                await ended(handle)
            assert written(await handle.fetch_history()) == expected


async def test_an_order_is_sent_followed_and_filled_by_a_fallback_look(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[
            view(OrderStatus.ACKED),
            view(OrderStatus.PARTIALLY_FILLED, filled_quantity=20),
            view(OrderStatus.FILLED),
        ],
    )
    result = await ending(temporal, world, save="filled")
    assert result.status is OrderStatus.FILLED
    assert (world.count("place"), world.count("look")) == (1, 3)
    assert world.count("publish") == 4


async def test_hints_lead_to_looks_and_doubled_hints_to_nothing_more(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(place=[view(OrderStatus.SUBMITTED)], look=[view(OrderStatus.FILLED)])
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            for _ in range(3):
                await handle.signal(order_work.HINT, HINT)
            assert (await handle.result()).status is OrderStatus.FILLED
    assert world.count("look") == 1


async def test_a_refusal_ends_in_rejected_without_a_look(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(place=[view(OrderStatus.REJECTED, reason="INPUT: tick size")], look=[view(OrderStatus.ACKED)])
    assert (await ending(temporal, world, save="rejected")).status is OrderStatus.REJECTED
    assert world.count("look") == 0


async def test_not_placed_is_retried_by_temporal_until_the_entry_expires(temporal: WorkflowEnvironment) -> None:
    again = ApplicationError("429: Too many requests", type="RATE_LIMITED")
    world = FakeWorld(place=[again, again, view(OrderStatus.EXPIRED, reason="too old")], look=[])
    assert (await ending(temporal, world, save="expired")).status is OrderStatus.EXPIRED
    assert world.count("place") == 3


async def test_an_unknown_outcome_is_resolved_by_look_up_and_never_sent_again(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.UNKNOWN)],
        look_up=[view(OrderStatus.UNKNOWN, evidence="1 healthy book"), view(OrderStatus.ACKED)],
        look=[view(OrderStatus.FILLED)],
    )
    assert (await ending(temporal, world, save="unknown_found")).status is OrderStatus.FILLED
    assert (world.count("place"), world.count("look_up")) == (1, 2)
    assert world.count("alert order_unknown") == 1


async def test_an_entry_proven_absent_expires(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.UNKNOWN)],
        look_up=[view(OrderStatus.UNKNOWN)] * 5 + [view(OrderStatus.EXPIRED, reason="never reached the broker")],
    )
    assert (await ending(temporal, world, save="unknown_absent")).status is OrderStatus.EXPIRED
    assert world.count("place") == 1


async def test_an_exit_proven_absent_opens_its_next_send(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.UNKNOWN), view(OrderStatus.SUBMITTED, send_no=2)],
        look_up=[view(OrderStatus.PENDING, send_no=2)],
        look=[view(OrderStatus.FILLED, send_no=2)],
    )
    result = await ending(temporal, world, make_input(intent=Intent.EXIT), save="exit_sent_again")
    assert result.status is OrderStatus.FILLED
    assert [place.send_no for name, place in world.calls if name == "place"] == [1, 2]
    assert {queue for name, queue in world.queues if name == "place"} == {urgent_queue(Broker.PAPER)}


async def test_an_exit_that_ends_short_of_its_goal_is_alerted(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[view(OrderStatus.CANCELLED, filled_quantity=20, short=True, reason="cancelled in the app")],
    )
    result = await ending(temporal, world, make_input(intent=Intent.EXIT), save="exit_short")
    assert result.status is OrderStatus.CANCELLED
    assert world.count("alert exit_short") == 1


async def test_a_cancel_at_the_broker_ends_the_order(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[view(OrderStatus.ACKED), view(OrderStatus.CANCELLED, filled_quantity=10)],
    )
    assert (await ending(temporal, world, save="cancelled")).filled_quantity == 10


async def test_an_unresolved_order_waits_for_evidence_and_is_alerted(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.UNKNOWN)],
        look_up=[view(OrderStatus.UNRESOLVED, reason="the day is over", broker_order_id=None), view(OrderStatus.ACKED)],
        look=[view(OrderStatus.FILLED)],
    )
    assert (await ending(temporal, world, save="unresolved_found")).status is OrderStatus.FILLED
    assert world.count("alert order_unresolved") == 1


async def test_a_log_that_is_away_delays_news_not_the_order(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)], look=[view(OrderStatus.ACKED), view(OrderStatus.FILLED)], publish_fails=5
    )
    assert (await ending(temporal, world, save="log_away")).status is OrderStatus.FILLED
    assert world.calls[-1][0] == "publish"
    assert world.publish_fails == 0


async def test_a_cancel_in_temporal_orphans_no_order(temporal: WorkflowEnvironment) -> None:
    """A person may press Cancel in Temporal UI: the order is at the broker all the same and must be followed."""
    looked = asyncio.Event()

    async def acked() -> OrderView:
        looked.set()
        return view(OrderStatus.ACKED)

    world = FakeWorld(place=[view(OrderStatus.SUBMITTED)], look=[acked, view(OrderStatus.FILLED)])
    async with desk(temporal, world) as at:
        with temporal.auto_time_skipping_disabled():
            handle = await at.start(make_input())
            async with asyncio.timeout(20):
                await looked.wait()
                await pausing(handle)  # the test server loses a task that cancels an activity which has just ended
                await handle.cancel()
                await handle.signal(order_work.HINT, HINT)
                assert (await handle.result()).status is OrderStatus.FILLED
        await replayer().replay_workflow(await handle.fetch_history())


async def test_an_order_its_book_lost_is_alerted_once_and_looked_for_in_the_book(temporal: WorkflowEnvironment) -> None:
    lost = view(OrderStatus.ACKED, missing=True, evidence="the book does not list it")
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)],
        look=[lost, lost, view(OrderStatus.UNRESOLVED, reason="its day is over"), view(OrderStatus.FILLED)],
    )
    assert (await ending(temporal, world)).status is OrderStatus.FILLED
    assert (world.count("alert order_missing"), world.count("alert order_unresolved")) == (1, 1)
    assert world.count("look_up") == 0


async def test_a_day_of_fallback_looks_stays_within_one_history(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED)], look=[view(OrderStatus.ACKED)] * 375 + [view(OrderStatus.FILLED)]
    )
    assert (await ending(temporal, world)).status is OrderStatus.FILLED


async def test_starting_the_same_order_twice_is_refused_even_after_its_end(temporal: WorkflowEnvironment) -> None:
    world = FakeWorld(place=[view(OrderStatus.REJECTED)])
    order = make_input()
    async with desk(temporal, world) as at:
        first = await at.start(order)
        await first.result()
        with pytest.raises(WorkflowAlreadyStartedError):
            await temporal.client.start_workflow(
                order_work.ORDER_WORKFLOW,
                order,
                id=first.id,
                task_queue=orders_queue(order.broker),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            )
    assert world.count("place") == 1


async def test_an_exit_whose_send_filled_before_its_goal_is_sent_again(temporal: WorkflowEnvironment) -> None:
    """Its first send filled all that was held; an entry from before it filled more."""
    went_on = view(OrderStatus.PENDING, send_no=2, filled_quantity=30, average_price=Decimal(1500))
    world = FakeWorld(
        place=[view(OrderStatus.SUBMITTED), view(OrderStatus.SUBMITTED, send_no=2, filled_quantity=30)],
        look=[went_on, view(OrderStatus.FILLED, send_no=2)],
    )
    result = await ending(temporal, world, make_input(intent=Intent.EXIT), save="exit_went_on")
    assert (result.status, result.filled_quantity) == (OrderStatus.FILLED, 50)
    assert [call.send_no for name, call in world.calls if name == "place"] == [1, 2]
    assert world.count("alert exit_short") == 0


async def test_a_fill_that_no_exit_closes_is_told_once(temporal: WorkflowEnvironment) -> None:
    why = "exit 1, decided later, had closed the position before this filled on"
    world = FakeWorld(
        place=[view(OrderStatus.ACKED)],
        look=[
            view(OrderStatus.PARTIALLY_FILLED, filled_quantity=20, unexited=why),
            view(OrderStatus.PARTIALLY_FILLED, filled_quantity=30, unexited=why),
            view(OrderStatus.FILLED, unexited=why),
        ],
    )
    await ending(temporal, world, save="position_left")
    assert [call.message for name, call in world.calls if name == "alert position_left"] == [
        f"BUY 50 INFY @ MARKET · momentum: {why}"
    ]
