"""Limits of strategies and accounts: as they are, and changed. Row, version, `config.changes` event and audit are one transaction.

Never takes a limit that risk would refuse: both parse it with the same model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from control.acts import Act
from control.connections import Connections
from control.strategies import announce
from core.errors import CommandRefused
from core.events.payloads import LimitsChanged
from core.storage import audit, risk_config
from core.storage.db import transient
from core.storage.risk_config import LimitsRow
from core.storage.strategy_changes import record_limits
from core.trading.risk.limits import MODELS, Scope, parse_limits
from core.trading.types import Broker


@dataclass(frozen=True, slots=True)
class Limits:
    """`limits` is what was set, `effective` with the defaults of the rest. Version 0: nothing was set.

    `announced` False: the log is away, the change is told later; risk reads the row every few seconds all the same.
    """

    scope: Scope
    name: str
    limits: dict[str, Any]
    effective: dict[str, Any]
    version: int
    announced: bool = True


async def read(links: Connections, scope: Scope, name: str) -> Limits:
    """Raises CommandRefused for an account that is no broker, Transient."""
    _known(scope, name)
    found = await risk_config.limits_row(links.config, scope.value, name)
    return _of(scope, name, found)


async def change(links: Connections, act: Act, scope: Scope, name: str, limits: dict[str, Any]) -> Limits:
    """Set these limits; what is left out takes its default. Risk takes them up at the event, without a restart.

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
        changed = LimitsChanged(
            scope=scope.value, name=name, version=after.version, changed_by=act.by, limits=after.limits
        )
        await record_limits(connection, changed, reason=act.reason, source=act.source)
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
    return replace(_of(scope, name, after), announced=await announce(links))


def _known(scope: Scope, name: str) -> None:
    if scope is Scope.ACCOUNT and name not in set(Broker):
        raise CommandRefused(f"name: {name!r} is no broker; it is one of {', '.join(Broker)}")


def _of(scope: Scope, name: str, found: LimitsRow | None) -> Limits:
    limits = found.limits if found else {}
    effective = MODELS[scope].model_validate(limits).model_dump(mode="json")
    return Limits(scope, name, limits, effective, found.version if found else 0)
