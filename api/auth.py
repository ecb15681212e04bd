"""Who asks, and whether they may. Every route names its role through `needs` or says `open_to_all`; the app refuses to start otherwise.

A bearer token is an access token or an API key. A cookie counts for reading alone, unless the request proves it came from our page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyCookie, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.requests import HTTPConnection

from core.config import Settings
from core.errors import NotAllowed, NotLoggedIn
from core.people import tokens
from core.people.roles import Actor, Role, Scope
from core.storage import api_keys, sessions

ACCESS_COOKIE, REFRESH_COOKIE, CSRF_COOKIE = "ap_access", "ap_refresh", "ap_csrf"
CSRF_HEADER = "X-CSRF-Token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

KEY_PREFIX = "ap_"
_LOGIN = "Log in, or give an API key: `Authorization: Bearer …`."

_bearer = HTTPBearer(
    auto_error=False, scheme_name="bearer", description="An access token from /api/v1/auth/login, or an API key."
)
_cookie = APIKeyCookie(name=ACCESS_COOKIE, auto_error=False, scheme_name="cookie", description="The dashboard's.")


def origin_of(connection: HTTPConnection) -> str:
    """The address it came from, as uvicorn judges it (a proxy on loopback is believed)."""
    return connection.client.host if connection.client else "unknown"


async def actor_of(connection: HTTPConnection) -> Actor:
    """Who asks, by bearer token or cookie. For pages and streams, which only read, it is all they need.

    Raises:
        NotLoggedIn: nobody we know. Transient: PostgreSQL is away.
    """
    settings: Settings = connection.app.state.settings
    engine, origin = connection.app.state.reads.engine, origin_of(connection)
    given = connection.headers.get("authorization")
    if given is not None:
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or not token.isascii():
            raise NotLoggedIn(_LOGIN)
        if token.startswith(KEY_PREFIX):
            return await api_keys.actor_of(engine, token, origin)
    else:
        token = connection.cookies.get(ACCESS_COOKIE, "")
    if not token or not token.isascii():
        raise NotLoggedIn(_LOGIN)
    access = tokens.read(settings.api_jwt_secret, token)
    return (await sessions.live(engine, access.session_id, access.user_id)).actor(origin)


def from_elsewhere(connection: HTTPConnection) -> str | None:
    """In words, the other page a browser says this comes from; None where it says nothing, or that it is ours.

    Another port of this machine is another page: cookies are not kept apart by ports, and SameSite does not tell them apart.
    """
    origin, host = connection.headers.get("origin"), connection.headers.get("host", "")
    if origin is not None and origin not in {f"http://{host}", f"https://{host}"}:
        return f"Origin {origin[:100]!r}"
    site = connection.headers.get("sec-fetch-site", "same-origin")
    return None if site in {"same-origin", "none"} else f"a page elsewhere ({site[:20]})"


def from_our_page(request: Request, actor: Actor) -> None:
    """A change asked for by cookie must carry the session's CSRF token, and an Origin, where there is one, must be ours.

    Raises:
        NotAllowed: it does not.
    """
    if request.method in SAFE or "authorization" in request.headers:
        return
    settings: Settings = request.app.state.settings
    if elsewhere := from_elsewhere(request):
        raise NotAllowed(f"{elsewhere} is not this control room.")
    expected = tokens.csrf(settings.api_jwt_secret, actor.session_id) if actor.session_id else ""
    given = request.headers.get(CSRF_HEADER, "")
    if not expected or not given.isascii() or not tokens.same(expected, given):
        raise NotAllowed(f"{CSRF_HEADER}: send the value of the cookie {CSRF_COOKIE} with every change.")


@dataclass(frozen=True, slots=True)
class Needs:
    """The role and scope a route asks for. `person`: an API key will not do."""

    role: Role
    scope: Scope
    person: bool

    def check(self, actor: Actor) -> None:
        """Raises NotAllowed naming what is missing."""
        if not actor.role.covers(self.role):
            raise NotAllowed(f"This needs the role {self.role}; you are {actor.role}.")
        if self.scope not in actor.scopes:
            raise NotAllowed(f"This needs a key with the scope {self.scope}.")
        if self.person and actor.session_id is None:
            raise NotAllowed("This needs a person's session: an API key cannot do it.")


OPEN = "open"
"""A route that asks nobody who they are; why is in the route's own text."""


def needs(role: Role, scope: Scope = Scope.READ, *, person: bool = False) -> Any:
    """`actor: Annotated[Actor, needs(Role.TRADER, Scope.ORDERS)]`, or in a route's `dependencies`."""
    wanted = Needs(role, scope, person)

    async def allowed(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        cookie: Annotated[str | None, Depends(_cookie)],
    ) -> Actor:
        actor = await actor_of(request)
        from_our_page(request, actor)
        wanted.check(actor)
        return actor

    allowed.access = wanted  # type: ignore[attr-defined]
    return Depends(allowed)


async def _anybody() -> None:
    return None


_anybody.access = OPEN  # type: ignore[attr-defined]
open_to_all = Depends(_anybody)

Viewer = Annotated[Actor, needs(Role.VIEWER)]


DOCUMENTATION = frozenset({"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"})
"""Pages about the API itself, without anything of this deployment in them."""
ASSETS = frozenset({"/static-offline-docs"})


def _calls(dependant: Dependant) -> Iterator[Any]:
    yield dependant.call
    for each in dependant.dependencies:
        yield from _calls(each)


def access_of(dependant: Dependant | None) -> Needs | str | None:
    """What a route says about who may; None where it says nothing, or several things."""
    calls = list(_calls(dependant)) if dependant is not None else []
    found = {access for call in calls if (access := getattr(call, "access", None)) is not None}
    return found.pop() if len(found) == 1 else None


def routes(app: FastAPI) -> Iterator[tuple[str, Needs | str | None]]:
    """Every route as `METHOD /path` (a mount as its path) with what it says about who may."""
    for context in iter_route_contexts(app.routes):
        path = str(getattr(context, "path", None) or getattr(context.original_route, "path", ""))
        methods = ",".join(sorted(getattr(context, "methods", None) or ()))
        yield f"{methods} {path}".strip(), access_of(getattr(context, "dependant", None))


def unguarded(app: FastAPI) -> list[str]:
    """Routes that name no role. A dashboard's pages are not ours to see: they guard themselves under their own mount."""
    known = DOCUMENTATION | ASSETS | app.state.own_guards
    return [name for name, access in routes(app) if access is None and name.split(" ")[-1] not in known]
