"""The harness's own way to the running system: the journal by SQL, the sandbox's admin endpoint, the run's log. Changes nothing of ours.

Any part may be down at any moment: what cannot be asked now answers None, and the caller asks again within its bound.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx

from core import health
from core.clock import utc_now
from core.config import Settings
from core.services import names, services
from core.trading.types import Broker
from docker.native.stack import INFRA, NativeStack
from tests.fixtures.system import System

T = TypeVar("T")

ASK_S = 3.0
STEP_S = 0.2

AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, httpx.HTTPError, ValueError)
"""What a part that is being killed or frozen makes of a question."""


class RunLog:
    """What the harness did and saw, a JSON line each, in the home's log folder."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", buffering=1)

    def write(self, event: str, **facts: Any) -> None:
        self._file.write(json.dumps({"at": utc_now().isoformat(), "event": event} | facts, default=str) + "\n")


class World:
    """One running system as the harness sees it."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.stack = NativeStack(system.settings, services(system.settings))
        self.log = RunLog(self.stack.layout.log / "chaos.log")
        self.names = names(services(system.settings))
        self.rounds: dict[Broker, dict[str, Any]] = {}
        """The last round of reconciliation of each broker, as the public command printed it."""
        self.bare: set[str] = set()
        """Exits that wait for a person, because the broker's net leaves them nothing to close."""
        self._pool: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    @property
    def settings(self) -> Settings:
        return self.system.settings

    @property
    def parts(self) -> list[str]:
        """Every process that is killed and frozen: ours and the stack's."""
        return [*self.names, *INFRA]

    # the journal -------------------------------------------------------------------------------------------------

    async def sql(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of a query, as the database's superuser. Raises one of AWAY while it is away."""
        async with self._turn:
            try:
                async with asyncio.timeout(ASK_S * 20 if not values else ASK_S):
                    if self._pool is None or self._pool.is_closed():
                        self._pool = await self._connect()
                    return [dict(row) for row in await self._pool.fetch(query, *values)]
            except BaseException:
                if self._pool is not None:
                    self._pool.terminate()
                    self._pool = None
                raise

    async def _connect(self) -> asyncpg.Connection:
        settings = self.settings
        return await asyncpg.connect(
            host=settings.postgres_host,
            port=settings.postgres_port,
            user="postgres",
            password=settings.postgres_admin_password.get_secret_value(),
            database=settings.postgres_database,
            timeout=ASK_S,
        )

    async def try_sql(self, query: str, *values: Any) -> list[dict[str, Any]] | None:
        """Rows, or None while the database is away."""
        try:
            return await self.sql(query, *values)
        except AWAY:
            return None

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    # the sandbox ---------------------------------------------------------------------------------------------------

    async def admin(self, path: str, body: Any = None, method: str = "") -> Any:
        """The sandbox's admin endpoint: GET, or POST with a body. Raises one of AWAY while it is away."""
        url = f"http://127.0.0.1:{self.settings.sandbox_port}/admin/{path}"
        async with httpx.AsyncClient(timeout=ASK_S) as client:
            answer = await client.request(method or ("GET" if body is None else "POST"), url, json=body)
            answer.raise_for_status()
            return answer.json()["data"]

    async def try_admin(self, path: str, body: Any = None, method: str = "") -> Any:
        """As `admin`; None while the sandbox is away."""
        try:
            return await self.admin(path, body, method)
        except AWAY:
            return None

    # processes -------------------------------------------------------------------------------------------------------

    def pid(self, part: str) -> int:
        """0 while the supervisor has none running."""
        found = self.stack.parts().get(part)
        return 0 if found is None else found.pid

    def health(self) -> dict[str, health.Health]:
        return health.read_all(self.settings.run_dir)

    def not_ready(self) -> dict[str, str]:
        """Service → why it is not ready."""
        said = self.health()
        rows = {name: said.get(name) for name in self.names}
        return {
            name: row.reason if row else "no heartbeat" for name, row in rows.items() if row is None or not row.ready
        }


async def until(condition: Callable[[], Awaitable[T]], seconds: float, step: float = STEP_S) -> T | None:
    """The first true answer, or None after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = await condition()
        if found or time.monotonic() > end:
            return found or None
        await asyncio.sleep(step)


def seconds_between(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds()
