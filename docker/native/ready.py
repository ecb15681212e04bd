"""Waits, with a bound, until each part of either stack really answers: logged in, not merely an open port.

Never starts or changes anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from core.config import Settings
from core.errors import StopTheStart

STEP_S = 0.1


async def _postgres(settings: Settings) -> None:
    import asyncpg

    from core.storage.roles import connect_admin

    try:
        connection = await connect_admin(settings, "postgres")
    except asyncpg.InvalidPasswordError as error:
        raise StopTheStart(
            "PostgreSQL refuses POSTGRES_ADMIN_PASSWORD: its data was made with another one. Put that back into .env."
        ) from error
    await connection.close()


async def _redis(settings: Settings) -> None:
    from redis.asyncio import Redis
    from redis.exceptions import AuthenticationError

    client = Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        password=settings.redis_password.get_secret_value(),
        socket_timeout=2,
    )
    try:
        await client.ping()
    except AuthenticationError as error:
        raise StopTheStart(f"Redis on port {settings.redis_port} refuses REDIS_PASSWORD.") from error
    finally:
        await client.aclose()


async def _temporal(settings: Settings) -> None:
    from temporalio.client import Client

    client = await Client.connect(settings.temporal_address)
    if not await client.service_client.check_health():
        raise ConnectionError("the server says it is not serving yet")


def _kafka_gate() -> Callable[[Settings], Awaitable[None]]:
    client = None
    said: list[str] = []

    async def gate(settings: Settings) -> None:
        from confluent_kafka import KafkaException

        from core.messaging.provision import admin_client

        nonlocal client
        if client is None:
            client = admin_client(settings, lambda error: said.append(str(error.str())))
        try:
            await asyncio.to_thread(client.list_topics, timeout=2)
        except KafkaException as error:
            raise ConnectionError(said[-1] if said else error.args[0].str()) from error

    return gate


async def _gate(name: str, check: Callable[[Settings], Awaitable[None]], settings: Settings, timeout: float) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            async with asyncio.timeout(10):
                return await check(settings)
        except StopTheStart:
            raise
        except Exception as error:  # whatever says "not yet"; the last word is shown when time is up
            if time.monotonic() > end:
                raise NotReady(name, f"{name} does not answer after {timeout:.0f} s: {error!r}") from error
        await asyncio.sleep(STEP_S)


class NotReady(StopTheStart):
    """A part of the stack did not come up. `part` names its log."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


async def wait(settings: Settings, on_ready: Callable[[str], None] = lambda name: None, timeout: float = 120) -> None:
    """Return when all four parts answer; `on_ready` hears each one's name as it comes.

    Raises:
        StopTheStart: a part did not answer in time (NotReady) or refuses our password.
    """
    checks = {"postgres": _postgres, "redis": _redis, "temporal": _temporal, "kafka": _kafka_gate()}

    async def one(name: str, check: Callable[[Settings], Awaitable[None]]) -> None:
        await _gate(name, check, settings, timeout)
        on_ready(name)

    try:
        async with asyncio.TaskGroup() as group:
            for name, check in checks.items():
                group.create_task(one(name, check))
    except* StopTheStart as errors:
        raise errors.exceptions[0] from None
