"""Keeps a broker's reconcile workflow running: started with the orders worker, and again when somebody ended it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.client import Client
from temporalio.service import RPCError

from core import logging
from core.config import Settings
from core.reconcile_start import ensure
from core.reconcile_work import ReconcileAsk
from core.trading.types import Broker

LOOK_EVERY_S = 10.0
ASK_AGAIN_S = 2.0
STARTED = "the orders worker started"

log = logging.get(__name__)


@asynccontextmanager
async def kept(client: Client, settings: Settings, broker: Broker) -> AsyncIterator[None]:
    """While the body runs, the broker's reconcile workflow does."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_keep(client, settings, broker), name="keep reconciling")
        yield
        task.cancel()


async def _keep(client: Client, settings: Settings, broker: Broker) -> None:
    ask: ReconcileAsk | None = ReconcileAsk(reason=STARTED)
    while True:
        try:
            await ensure(client, settings, broker, ask)
            ask = None
        except (RPCError, TimeoutError) as error:  # said once a minute by whoever watches Temporal; asked again soon
            log.info("reconciliation not started yet", broker=broker.value, reason=str(error))
        await asyncio.sleep(LOOK_EVERY_S if ask is None else ASK_AGAIN_S)
