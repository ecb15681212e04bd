"""One way to connect to Temporal: our namespace, the pydantic converter, a clear error when it is away."""

from __future__ import annotations

import logging
from functools import lru_cache

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig

from core.config import Settings
from core.errors import Transient

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
