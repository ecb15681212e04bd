"""What commands that act have in common: who sits here, the connections they open and close. Imports what it needs when it runs."""

from __future__ import annotations

import asyncio
import getpass
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from core.people.roles import Actor, Role

if TYPE_CHECKING:
    from uuid import UUID

    from control.acts import Act
    from control.connections import Connections
    from core.config import Settings

T = TypeVar("T")


def here(by: str | None = None) -> Actor:
    """Whoever sits at this machine: they hold `.env`, so nothing is kept from them. The audit names their login, or who they say."""
    return Actor(name=by or getpass.getuser(), role=Role.ADMIN, via="cli", origin=socket.gethostname())


def act(by: str | None = None, reason: str = "", request_id: UUID | None = None) -> Act:
    """One act from the command line; without a request id it is a new one each time."""
    from control.acts import Act
    from core.ids import new_id

    return Act(here(by), request_id or new_id(), reason)


def acting(work: Callable[[Connections], Awaitable[T]], settings: Settings | None = None) -> T:
    """Run `work` with connections and close them; logs go to standard error, so that JSON stays clean. Raises as `work`."""
    import structlog

    from cli import remote
    from control.connections import Connections
    from core.config import settings as ours

    remote.refuse("This command")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def run() -> T:
        links = Connections(settings or ours(), "cli")
        try:
            return await work(links)
        finally:
            await links.close()

    return asyncio.run(run())
