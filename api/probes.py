"""Is each part well? Servers are asked (one second each, all at once, answers kept one second); processes speak through files.

Never touches anything: an `ok` here is a connection that answered, nothing more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from api.models import Part, Ready
from core import health
from core.clock import utc_now
from core.config import Settings
from core.errors import AlphaPandaError
from core.messaging import security
from core.services import names, services

BOUND_S = 1.0
KEPT_S = 1.0


class Prober:
    """Asks each part at most once a second, however many people look."""

    def __init__(self, settings: Settings, engine: AsyncEngine, connection: Redis) -> None:
        self._settings = settings
        self._engine = engine
        self._redis = connection
        self._temporal: Client | None = None
        self._asking = asyncio.Lock()
        self._answer: Ready | None = None
        self._asked = 0.0

    async def ready(self) -> Ready:
        async with self._asking:
            if self._answer is None or time.monotonic() - self._asked >= KEPT_S:
                self._answer = await self._ask()
                self._asked = time.monotonic()
            return self._answer

    async def _ask(self) -> Ready:
        servers: dict[str, Callable[[], Awaitable[None]]] = {
            "kafka": lambda: security.probe(self._settings),
            "postgres": self._ask_postgres,
            "redis": self._ask_redis,
            "temporal": self._ask_temporal,
        }
        parts = await asyncio.gather(*(_bounded(name, ask) for name, ask in servers.items()))
        parts += self._services()
        return Ready(
            ready=all(part.ready for part in parts),
            at=utc_now(),
            simulated=self._settings.simulated,
            parts=parts,
        )

    def _services(self) -> list[Part]:
        said = health.read_all(self._settings.run_dir)
        parts = []
        for name in names(services(self._settings)):
            word = said.get(name)
            ready, reason = (word.ready, word.reason) if word else (False, "not running: no health file")
            parts.append(Part(name=name, kind="service", ready=ready, reason=reason, note=word.note if word else ""))
        return parts

    async def _ask_postgres(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def _ask_redis(self) -> None:
        await self._redis.ping()

    async def _ask_temporal(self) -> None:
        settings = self._settings
        if self._temporal is None:
            self._temporal = await Client.connect(
                settings.temporal_address, namespace=settings.temporal_namespace, lazy=True
            )
        bound = timedelta(seconds=BOUND_S)
        if not await self._temporal.service_client.check_health(timeout=bound):
            raise ConnectionError("Temporal says it is not serving")


async def _bounded(name: str, ask: Callable[[], Awaitable[None]]) -> Part:
    """A probe's answer as a part; whatever goes wrong is the reason, in one line."""
    try:
        async with asyncio.timeout(BOUND_S):
            await ask()
    except TimeoutError:
        return Part(name=name, kind="server", ready=False, reason=f"no answer within {BOUND_S:.0f} s")
    except AlphaPandaError as error:
        return Part(name=name, kind="server", ready=False, reason=_line(str(error)))
    except Exception as error:  # any client's own exception class means the same here: the part does not answer
        return Part(name=name, kind="server", ready=False, reason=_line(f"{type(error).__name__}: {error}"))
    return Part(name=name, kind="server", ready=True, reason="")


def _line(message: str) -> str:
    return " ".join(message.split())[:300]
