"""What a page is: its address, its name, who may see it, and what builds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from api.auth import Needs
from api.pages import parts
from api.pages.desk import Desk
from core.errors import NotAllowed
from core.people.roles import Role, Scope

VIEWER = Needs(Role.VIEWER, Scope.READ, person=False)


@dataclass(frozen=True, slots=True)
class Page:
    """`build` fills the page's main part. `needs` is the same that the API's routes of these figures ask. `listed`: in the menu."""

    path: str
    title: str
    build: Callable[[Desk], Awaitable[None]]
    needs: Needs = VIEWER
    listed: bool = True

    async def show(self, desk: Desk) -> None:
        try:
            self.needs.check(desk.actor)
        except NotAllowed as error:
            parts.text(f"{error} An admin can change that: `alpha-panda users role`.", "p", "empty")
            return
        await self.build(desk)
