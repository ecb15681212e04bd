"""Limits of strategies and accounts: as they are, and changed. Row, version and audit are one transaction; risk reads them within seconds.

Never takes a limit that risk would refuse: both parse it with the same model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from control.acts import Act
from control.connections import Connections
from core.errors import CommandRefused
from core.storage import audit, risk_config
from core.storage.db import transient
from core.storage.risk_config import LimitsRow
from core.trading.risk.limits import MODELS, Scope, parse_limits
from core.trading.types import Broker


@dataclass(frozen=True, slots=True)
class Limits:
    """`limits` is what was set, `effective` with the defaults of the rest. Version 0: nothing was set."""

    scope: Scope
    name: str
    limits: dict[str, Any]
    effective: dict[str, Any]
    version: int


async def read(links: Connections, scope: Scope, name: str) -> Limits:
    """Raises CommandRefused for an account that is no broker, Transient."""
    _known(scope, name)
    found = await risk_config.limits_row(links.config, scope.value, name)
    return _of(scope, name, found)


async def change(links: Connections, act: Act, scope: Scope, name: str, limits: dict[str, Any]) -> Limits:
    """Set these limits; what is left out takes its default.

    Raises:
        CommandRefused: naming each bad field. Transient: the database is away; nothing was changed.
    """
    _known(scope, name)
    try:
        parsed = parse_limits(scope, limits)
    except ValueError as error:
        raise CommandRefused("\n".join(str(error).split("; "))) from None
    plain = parsed.model_dump(mode="json", include=set(limits))
    async with transient("setting limits"), links.config.begin() as connection:
        before, after = await risk_config.put_limits(connection, scope.value, name, plain)
        await audit.write(
            connection,
            act.actor,
            "limits.change",
            f"{scope} {name}",
            reason=act.reason,
            before=before.limits if before else None,
            after=after.limits,
            request_id=act.request_id,
        )
    return _of(scope, name, after)


def _known(scope: Scope, name: str) -> None:
    if scope is Scope.ACCOUNT and name not in set(Broker):
        raise CommandRefused(f"name: {name!r} is no broker; it is one of {', '.join(Broker)}")


def _of(scope: Scope, name: str, found: LimitsRow | None) -> Limits:
    limits = found.limits if found else {}
    effective = MODELS[scope].model_validate(limits).model_dump(mode="json")
    return Limits(scope, name, limits, effective, found.version if found else 0)
