"""One way to connect to Temporal: our namespace, the pydantic converter, a clear error when it is away."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from core.config import Settings
from core.errors import Transient


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
        )
    except RuntimeError as error:
        raise Transient(f"Temporal at {settings.temporal_address} does not answer: {error}") from error
