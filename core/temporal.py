"""One way to connect to Temporal: our namespace, the pydantic converter, a clear error when it is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import lru_cache

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError

from core.config import Settings
from core.errors import Transient
from core.waiting import Waiting

_FILTER = "ERROR,temporalio_sdk_core=WARN"
"""Rust log levels. A server that is away is told once a minute by whoever waits for it, not at each of the client's tries."""


@lru_cache(maxsize=1)
def _runtime() -> Runtime:
    """One runtime a process, its core's log lines going the way of all others."""
    forwarding = LogForwardingConfig(logger=logging.getLogger("temporalio.core"))
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=_FILTER, forwarding=forwarding)))


async def connect(settings: Settings) -> Client:
    """A client on our namespace.

    Raises:
        Transient: the server does not answer; the caller waits and tries again, or stops its start.
    """
    try:
        return await Client.connect(
            settings.temporal_address,
            namespace=settings.temporal_namespace,
            data_converter=pydantic_data_converter,
            runtime=_runtime(),
        )
    except RuntimeError as error:
        raise Transient(f"Temporal at {settings.temporal_address} does not answer: {error}") from error


ASK_EVERY_S = 5.0


@asynccontextmanager
async def watched(client: Client, waiting: Waiting) -> AsyncIterator[None]:
    """While the body runs, say in health and the log when Temporal is away: the SDK's workers wait for it in silence."""
    task = asyncio.create_task(_watch(client, waiting), name="watch temporal")
    try:
        yield
    finally:
        task.cancel()


async def _watch(client: Client, waiting: Waiting) -> None:
    while True:
        try:
            await client.service_client.check_health(timeout=timedelta(seconds=ASK_EVERY_S))
            waiting.over("temporal")
        except RPCError as error:
            waiting.on("temporal", f"Temporal does not answer: {error.message}")
        await asyncio.sleep(ASK_EVERY_S)
