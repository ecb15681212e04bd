"""A broker worker asked to stop while the broker thinks about an order: the answer is awaited, journalled and reported."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from core import health, order_work
from core.brokers.kite_http import exchange_token
from core.brokers.zerodha_session import write_session
from core.config import PROJECT_ROOT, Settings
from core.ids import new_id
from core.order_work import OrderView, PlaceInput
from core.routing import account, broker_queue
from core.storage.db import broker_engine
from core.temporal import connect
from core.trading.durations import OrderDurations
from core.trading.types import Broker, OrderStatus, SendState
from tests.integration.feed_world import start_sandbox
from tests.integration.portfolio_support import eventually
from tests.integration.sandbox_support import SandboxProcess
from tests.journal_world import JournalWorld

pytestmark = [pytest.mark.stack]

BROKER = Broker.ZERODHA
SERVICE = f"broker-{BROKER}"
PATIENCE_S = 12.0
"""How long the supervisor waits between its stop signal and kill -9."""

SLOW_S = 5.0
"""Longer than the grace was that lost such answers, shorter than the HTTP deadline of 7 s."""


@workflow.defn(name="PlaceOnce")
class PlaceOnce:
    """The one step of an order's workflow that is looked at here."""

    @workflow.run
    async def run(self, queue: str, place: PlaceInput) -> OrderView:
        found: OrderView = await workflow.execute_activity(
            order_work.PLACE_ORDER,
            place,
            result_type=OrderView,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=place.durations.place_timeout),
            heartbeat_timeout=timedelta(seconds=place.durations.heartbeat),
        )
        return found


@pytest.fixture
async def sandbox(settings: Settings, stack: Settings, tmp_path: Path) -> AsyncIterator[SandboxProcess]:
    with start_sandbox(settings, tmp_path / "sandbox") as process:
        token = process.admin("POST", "request-token")["request_token"]
        write_session(settings, await exchange_token(settings, token))
        yield process


@asynccontextmanager
async def broker_worker(settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
    """The real process, ready."""
    command = PROJECT_ROOT / ".venv" / "bin" / "alpha-panda"
    process = await asyncio.create_subprocess_exec(
        command, "service", SERVICE, env=os.environ, stdout=asyncio.subprocess.DEVNULL
    )

    def ready() -> bool:
        assert process.returncode is None, f"{SERVICE} ended with {process.returncode}"
        found = health.read_all(settings.run_dir).get(SERVICE)
        return found is not None and found.ready and found.pid == process.pid

    try:
        await eventually(ready, within_s=30)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def place(client: Client, order_id: UUID) -> asyncio.Task[OrderView]:
    place = PlaceInput(order_id=order_id, send_no=1, durations=OrderDurations())
    handle = await client.start_workflow(
        "PlaceOnce", args=[broker_queue(BROKER), place], id=f"stop-{new_id()}", task_queue="stop", result_type=OrderView
    )
    return asyncio.create_task(handle.result())


@pytest.fixture
async def world(settings: Settings, stack: Settings) -> AsyncIterator[JournalWorld]:
    engine = broker_engine(settings, BROKER)
    yield await JournalWorld.make(engine, BROKER)
    await engine.dispose()


async def test_a_stop_in_the_middle_of_a_send_reports_the_answer_and_ends_in_time(
    settings: Settings, sandbox: SandboxProcess, world: JournalWorld
) -> None:
    order_id = await world.order(account=account(settings, BROKER), target=settings.kite_target.value, age_limit_s=60.0)
    sandbox.admin("POST", "faults", kind="slow_answer", route="order.place", delay_s=SLOW_S)
    client = await connect(settings)
    async with (
        Worker(client, task_queue="stop", workflows=[PlaceOnce], workflow_runner=UnsandboxedWorkflowRunner()),
        broker_worker(settings) as process,
    ):
        placed = await place(client, order_id)
        await eventually(lambda: sandbox.admin("GET", "ledger"))
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        view = await asyncio.wait_for(placed, 10)
    assert view.status is OrderStatus.SUBMITTED
    found = await world.journal.load(order_id)
    assert (found.status, found.send["state"]) == (OrderStatus.SUBMITTED, SendState.SENT)
    assert found.order["broker_order_id"] is not None


async def test_an_idle_worker_ends_at_once(settings: Settings, sandbox: SandboxProcess) -> None:
    async with broker_worker(settings) as process:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
