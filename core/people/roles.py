"""Roles of people, scopes of API keys, and who acts. Pure: decides from what it is given, and never lets a key do more than its owner."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

NAME = re.compile(r"[a-z][a-z0-9._-]{1,31}")
"""What a user may be called: safe in a log line, an address and a terminal."""


class Role(StrEnum):
    """Each may do all that the one before may."""

    VIEWER = "viewer"
    """Looks at everything about trading."""
    TRADER = "trader"
    """Acts on orders and strategies, engages the kill switch, reconciles, logs in at the broker."""
    ADMIN = "admin"
    """Also opts in to real money, sets limits, releases the kill switch, manages people."""

    def covers(self, other: Role) -> bool:
        return _RANK[self] >= _RANK[other]


_RANK = {role: rank for rank, role in enumerate(Role)}


class Scope(StrEnum):
    """What an API key may be used for, besides its role. A person's session has every scope."""

    READ = "read"
    ORDERS = "orders"
    STRATEGIES = "strategies"
    RISK = "risk"
    """Kill switch and limits."""
    OPERATIONS = "operations"
    """Reconciliation, dead letters, the broker's session."""
    PEOPLE = "people"
    """Users, keys, audit."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. `via` is `session`, `key ID` or `cli`; `origin` the address it came from. `user_id` None: the command line."""

    name: str
    role: Role
    via: str
    origin: str
    scopes: frozenset[Scope] = frozenset(Scope)
    user_id: UUID | None = None
    session_id: UUID | None = None

    def may(self, role: Role, scope: Scope) -> bool:
        return self.role.covers(role) and scope in self.scopes


def weaker(one: Role, other: Role) -> Role:
    """The role that may do less."""
    return one if other.covers(one) else other
