"""One person's open page: who looks, what follows the facts, and acting through the API's own routes with the checks those routes name.

Never acts for a session that is over or a role that may not: both are asked anew for each act.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from fastapi import HTTPException, Response
from fastapi.dependencies.utils import get_dependant
from nicegui import Client
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from api.acting import Asking
from api.auth import Needs, access_of
from api.hub import EventHub
from api.pages.chart_bars import ChartBars
from api.pages.live import Live, Seen, Shown
from api.probes import Prober
from api.problems import status_of
from api.reads import Reads
from control.connections import Connections
from core import logging
from core.config import Settings
from core.errors import AlphaPandaError, NotAllowed, NotLoggedIn
from core.people.roles import Actor
from core.storage import sessions

log = logging.get(__name__)

Route = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Room:
    """What all pages share, made once by the app."""

    settings: Settings
    reads: Reads
    links: Connections
    prober: Prober
    hub: EventHub
    live: Live
    bars: ChartBars
    desks: set[Desk] = field(default_factory=set, compare=False)


async def end_what_is_over(room: Room) -> None:
    """Close every open page whose session is over. Raises Transient: then all stay open, and nobody may act."""
    by_session: dict[tuple[UUID, UUID], list[Desk]] = {}
    for desk in room.desks:
        if desk.actor.session_id is not None and desk.actor.user_id is not None:
            by_session.setdefault((desk.actor.session_id, desk.actor.user_id), []).append(desk)
    for (session_id, user_id), desks in by_session.items():
        try:
            await sessions.live(room.reads.engine, session_id, user_id)
        except NotLoggedIn:
            for desk in desks:
                desk.end()


def needed(route: Route) -> Needs:
    """What a route asks of who calls it, as the route itself says."""
    found = access_of(get_dependant(path="/", call=route))
    assert isinstance(found, Needs), f"{route} names no role"
    return found


def in_words(error: Exception) -> str:
    """What went wrong, for a person. Raises it again where it is a mistake of ours."""
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, ValidationError):
        rows = (f"{'.'.join(str(part) for part in row['loc'])}: {row['msg']}" for row in error.errors())
        return "\n".join(row.removeprefix(": ").replace("Value error, ", "") for row in rows)
    if isinstance(error, AlphaPandaError):
        return str(error) if status_of(error) != 500 else "An error of ours: see the log of the service `api`."
    raise error


class Desk:
    """`actor` is who opened the page; what they may do is looked up again when they do it."""

    def __init__(self, room: Room, actor: Actor, request: Request, client: Client) -> None:
        self.room = room
        self.actor = actor
        self.request = request
        self.client = client
        self.over = False
        self.on_trouble: Callable[[str], None] = lambda _: None
        self._troubles: dict[object, str] = {}
        room.desks.add(self)
        client.on_delete(self._gone)

    def _gone(self) -> None:
        self.room.live.leave(self)
        self.room.desks.discard(self)

    def end(self) -> None:
        """The session is over: nothing more is shown here, and the browser is sent to the login."""
        self.over = True
        self._gone()
        self.client.run_javascript("location.assign('/login?next=' + encodeURIComponent(location.pathname))")

    # facts -------------------------------------------------------------------------------------------------------------

    async def follow(self, name: str, shown: Callable[[Seen], None]) -> None:
        """Show the fact now and whenever it changes, as long as the page is open."""
        await self.room.live.watch(name, (self, shown), self._inside(shown))

    async def refresh(self, name: str, work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Run `work` now and after each change of the fact, one run at a time. Returns what asks for another run.

        What keeps a run from its figures is said on the page until one succeeds.
        """
        again = asyncio.Event()

        async def run() -> None:
            while True:
                await again.wait()
                again.clear()
                if self.over:
                    return
                with self.client:
                    _, wrong = await self.attempt(work())
                    self._trouble(work, wrong)
                if wrong:
                    log.warning("a page could not be refreshed", page=self.request.url.path, reason=wrong)

        task = asyncio.create_task(run(), name="refresh a page")
        self.client.on_delete(task.cancel)
        await work()
        await self.room.live.watch(name, (self, work), lambda _: again.set())
        again.clear()
        return again.set

    def _trouble(self, source: object, words: str) -> None:
        """Words of what is in the way, empty once it is over; `on_trouble` gets what to say, empty for nothing."""
        if words:
            self._troubles[source] = words
        else:
            self._troubles.pop(source, None)
        said = next(iter(self._troubles.values()), "")
        self.on_trouble(f"This page is old: {said}" if said else "")

    def _inside(self, shown: Shown) -> Shown:
        def show(seen: Seen) -> None:
            with self.client:
                shown(seen)

        return show

    # acting ------------------------------------------------------------------------------------------------------------

    def may(self, route: Route) -> bool:
        """Whether to offer it; `ask` is what decides."""
        try:
            needed(route).check(self.actor)
        except NotAllowed:
            return False
        return True

    async def who(self) -> Actor:
        """Who looks, as of now. Raises NotLoggedIn once the session is over, Transient."""
        if self.over:
            raise NotLoggedIn("The session is over: log in again.")
        if self.actor.session_id is None or self.actor.user_id is None:
            raise NotLoggedIn("An API key only looks: log in to act.")
        session = await sessions.live(self.room.reads.engine, self.actor.session_id, self.actor.user_id)
        return replace(session.actor(self.actor.origin), via=self.actor.via)

    async def ask(self, route: Route, *given: Any, key: str, **more: Any) -> Any:
        """Call an acting route as its own HTTP request would. `key` is the click's: asked twice with the same, it is done once.

        Raises:
            NotLoggedIn, NotAllowed; whatever the route raises.
        """
        actor = await self.who()
        needed(route).check(actor)
        parts = [route.__module__, route.__name__, *(_plain(one) for one in given), _plain(more)]
        fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        asking = Asking(actor, self.room.links, f"{key}-{fingerprint[:16]}", fingerprint, Response())
        return await route(*given, asking=asking, **more)

    async def attempt(self, work: Awaitable[Any]) -> tuple[Any, str]:
        """(answer, "") or (None, what went wrong in words)."""
        try:
            return await work, ""
        except NotLoggedIn as error:
            self.end()
            return None, str(error)
        except (HTTPException, ValidationError, AlphaPandaError) as error:
            return None, in_words(error)
        except Exception as error:
            log.error("an act of the dashboard failed", error=repr(error))
            return None, "An error of ours: see the log of the service `api`."


def _plain(given: Any) -> str:
    return given.model_dump_json() if isinstance(given, BaseModel) else str(given)
