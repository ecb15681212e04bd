"""A time-skipping Temporal server with fake activities: the workflow's own decisions, at no wall-clock cost."""

from __future__ import annotations

import asyncio
import sysconfig
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from core import order_work
from core.order_work import (
    AlertInput,
    CommandCall,
    CommandNext,
    CommandResult,
    LookInput,
    OrderInput,
    OrderView,
    PlaceInput,
)
from core.routing import broker_queue, order_workflow_id, orders_queue, urgent_queue
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Intent, OrderStatus, OrderType, Side
from workflows.order import OrderWorkflow

Answer = OrderView | Exception | Callable[[], Coroutine[Any, Any, OrderView]]


def make_input(**changes: Any) -> OrderInput:
    values: dict[str, Any] = {
        "order_id": uuid.uuid4(),
        "broker": Broker.PAPER,
        "correlation_id": uuid.uuid4(),
        "strategy_id": "momentum",
        "instance": "momentum@paper",
        "symbol": "INFY",
        "side": Side.BUY,
        "intent": Intent.ENTRY,
        "order_type": OrderType.MARKET,
        "quantity": 50,
        "price": None,
        "origin_at": datetime(2026, 11, 20, 5, 0, tzinfo=UTC),
        "requested_by": "strategy momentum",
        "account": "PAPER",
        "target": "paper",
        "durations": OrderDurations(),
        "files_late": True,
    }
    return OrderInput(**(values | changes))


def view(status: OrderStatus, **changes: Any) -> OrderView:
    values: dict[str, Any] = {"status": status, "send_no": 1, "quantity": 50}
    if status in {OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED}:
        values |= {"average_price": Decimal("1500.05"), "filled_quantity": 50}
    if status not in {OrderStatus.PENDING, OrderStatus.UNKNOWN}:
        values |= {"broker_order_id": "B1"}
    return OrderView(**(values | changes))


def after(status: OrderStatus, go_on: CommandNext = CommandNext.DONE, **changes: Any) -> CommandResult:
    """What carrying out a command came to."""
    return CommandResult(view=view(status, **changes), next=go_on, told="as the test says")


@dataclass
class FakeWorld:
    """Answers of the activities, taken in turn; the last one stays. Every call is noted."""

    place: list[Answer] = field(default_factory=list)
    look: list[Answer] = field(default_factory=list)
    look_up: list[Answer] = field(default_factory=list)
    command: list[CommandResult] = field(default_factory=list)
    publish_fails: int = 0
    calls: list[tuple[str, Any]] = field(default_factory=list)
    queues: list[tuple[str, str]] = field(default_factory=list)

    async def _answer(self, name: str, argument: Any, answers: list[Answer]) -> OrderView:
        self.calls.append((name, argument))
        self.queues.append((name, activity.info().task_queue))
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, OrderView) else await answer()

    @activity.defn(name=order_work.PLACE_ORDER)
    async def place_order(self, place: PlaceInput) -> OrderView:
        return await self._answer("place", place, self.place)

    @activity.defn(name=order_work.LOOK_AT_BOOK)
    async def look_at_book(self, look: LookInput) -> OrderView:
        return await self._answer("look", look, self.look)

    @activity.defn(name=order_work.LOOK_UP_BY_TAG)
    async def look_up_by_tag(self, look: LookInput) -> OrderView:
        return await self._answer("look_up", look, self.look_up)

    @activity.defn(name=order_work.CARRY_OUT)
    async def carry_out(self, call: CommandCall) -> CommandResult:
        self.calls.append(("command", call))
        self.queues.append(("command", activity.info().task_queue))
        return self.command.pop(0) if len(self.command) > 1 else self.command[0]

    @activity.defn(name=order_work.PUBLISH_EVENTS)
    async def publish_events(self, order_id: UUID) -> int:
        self.calls.append(("publish", order_id))
        if self.publish_fails:
            self.publish_fails -= 1
            raise RuntimeError("the log is away")
        return 1

    @activity.defn(name=order_work.RAISE_ALERT)
    async def raise_alert(self, alert: AlertInput) -> None:
        self.calls.append((f"alert {alert.kind}", alert))

    def count(self, name: str) -> int:
        return sum(1 for called, _ in self.calls if called == name)


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    env = await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=str(Path(sysconfig.get_path("scripts")) / "temporal-test-server"),
        data_converter=pydantic_data_converter,
    )
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    keys = (
        order_work.SA_BROKER,
        order_work.SA_STRATEGY,
        order_work.SA_SYMBOL,
        order_work.SA_SIDE,
        order_work.SA_STATUS,
        order_work.SA_BROKER_ORDER,
    )
    await env.client.operator_service.add_search_attributes(
        AddSearchAttributesRequest(namespace="default", search_attributes={key.name: keyword for key in keys})
    )
    yield env
    await env.shutdown()
    await asyncio.sleep(0.3)  # the SDK's runtime may crash the interpreter's own shutdown (temporalio sdk-python 300)


@dataclass
class Desk:
    """Starts order workflows against a fake world."""

    client: Client
    world: FakeWorld

    async def start(self, order: OrderInput) -> WorkflowHandle[Any, OrderView]:
        return await self.client.start_workflow(
            order_work.ORDER_WORKFLOW,
            order,
            id=order_workflow_id(order.broker, order.order_id),
            task_queue=orders_queue(order.broker),
            result_type=OrderView,
        )


@asynccontextmanager
async def desk(temporal: WorkflowEnvironment, world: FakeWorld, *, cached: int = 1000) -> AsyncIterator[Desk]:
    """Workers for the block. With `cached=0` each step is replayed from history, and no task waits for this worker alone."""
    calls = [world.place_order, world.look_at_book, world.look_up_by_tag, world.carry_out]
    async with (
        Worker(
            temporal.client,
            task_queue=orders_queue(Broker.PAPER),
            workflows=[OrderWorkflow],
            max_cached_workflows=cached,
            activities=[world.publish_events, world.raise_alert],
        ),
        Worker(temporal.client, task_queue=broker_queue(Broker.PAPER), activities=calls),
        Worker(temporal.client, task_queue=urgent_queue(Broker.PAPER), activities=calls),
    ):
        yield Desk(temporal.client, world)


async def pausing(handle: WorkflowHandle[Any, Any]) -> None:
    """Until the order's workflow waits for time to pass, with no activity under way."""
    while True:
        events = (await handle.fetch_history()).events
        scheduled = sum(event.HasField("activity_task_scheduled_event_attributes") for event in events)
        done = sum(event.HasField("activity_task_completed_event_attributes") for event in events)
        if scheduled == done > 1 and events[-1].HasField("timer_started_event_attributes"):
            return
        await asyncio.sleep(0.02)
