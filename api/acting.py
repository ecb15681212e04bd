"""What every acting route is given: who asks, under which request, and each request done once however often it is asked.

The Idempotency-Key is required. The same key with another body is refused; with the same one it gets the first answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Header, Request, Response

from api.auth import needs
from api.models import Answer
from control.acts import Act
from control.connections import Connections
from core import ids
from core.people.roles import Actor, Role, Scope
from core.storage import requests

A = TypeVar("A", bound=Answer)

REPLAYED = "Idempotent-Replayed"
WAIT = "wait"
"""How long somebody waits for an outcome is no part of what they ask."""

Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=8,
        max_length=200,
        pattern=r"^[!-~]+$",
        description="Yours to choose, new for each thing you ask; asked again with the same one, it is done once.",
        examples=["3f0e1c5e-7a51-4a0c-9d4b-52e5a6d3f5b1"],
    ),
]


@dataclass(frozen=True, slots=True)
class Asking:
    """One acting request."""

    actor: Actor
    links: Connections
    key: str
    fingerprint: str
    response: Response

    def act(self, reason: str = "") -> Act:
        """Its id is derived from who asks and their key."""
        assert self.actor.user_id is not None  # only the command line acts without a user
        return Act(self.actor, ids.derive(self.actor.user_id, "request", self.key), reason)

    async def same(self, reason: str) -> Act:
        """For what is done once by its ids however often it is repeated: its key is for this request alone.

        Raises:
            CommandConflict: the key was used for another request. Transient: the database is away.
        """
        act = self.act(reason)
        await requests.begin(self.links.config, act.request_id, self.fingerprint)
        return act

    async def once(self, kind: type[A], reason: str, work: Callable[[Act], Awaitable[A]]) -> A:
        """Do it, or give the answer of the first time. What failed may be asked again.

        Raises:
            CommandConflict: the key was used for another request. Whatever `work` raises.
        """
        act = self.act(reason)
        before = await requests.begin(self.links.config, act.request_id, self.fingerprint)
        if before is not None:
            self.response.headers[REPLAYED] = "true"
            return kind.model_validate(before)
        answer = await work(act)
        await requests.answered(self.links.config, act.request_id, answer.kept())
        return answer


def asks(role: Role, scope: Scope, *, person: bool = False) -> Any:
    """`asking: Annotated[Asking, asks(Role.TRADER, Scope.ORDERS)]`: the role, the key and the connections of an acting route."""
    allowed = needs(role, scope, person=person)

    async def asking(request: Request, response: Response, idempotency_key: Key, actor: Actor = allowed) -> Asking:
        body = await request.body()
        query = urlencode([each for each in request.query_params.multi_items() if each[0] != WAIT])
        parts = (request.method, request.url.path, query, hashlib.sha256(body).hexdigest())
        fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return Asking(actor, request.app.state.links, idempotency_key, fingerprint, response)

    return Depends(asking)


def _links(request: Request) -> Connections:
    found: Connections = request.app.state.links
    return found


LinksDep = Annotated[Connections, Depends(_links)]
