"""An act: who asks, under which request id, and why. The same request asked twice is the same act.

Nothing here acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from core import ids
from core.people.roles import Actor
from core.storage import audit
from core.storage.audit import Outcome, Why


@dataclass(frozen=True, slots=True)
class Act:
    """What every act carries. `reason` is kept with it."""

    actor: Actor
    request_id: UUID
    reason: str = ""

    @property
    def by(self) -> str:
        """Who, as journals keep it."""
        return self.actor.name

    @property
    def source(self) -> str:
        """Where it came in, as events keep it."""
        return "cli" if self.actor.via == "cli" else "api"

    @property
    def why(self) -> Why:
        """For the audit row of a change that another module writes."""
        return Why(self.reason, self.request_id)

    def derived(self, *what: object) -> UUID:
        """The id of what this act leads to: asked twice, it is the same."""
        return ids.derive(self.request_id, *what)

    async def note(
        self,
        engine: AsyncEngine,
        action: str,
        subject: str,
        *,
        outcome: Outcome = Outcome.DONE,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the audit row of an act that another transaction does. Raises Transient."""
        await audit.note(
            engine,
            self.actor,
            action,
            subject,
            outcome=outcome,
            reason=self.reason,
            before=before,
            after=after,
            request_id=self.request_id,
        )
