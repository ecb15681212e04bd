"""What people decided, as risk reads it: which strategies are active and opted in to what, and everybody's limits.

A bad row is named with its field; nothing here guesses a limit from one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from core.clock import utc_now
from core.errors import ConfigError
from core.storage.db import transient
from core.storage.models import RiskLimitsRow, StrategyRow, table_of
from core.trading.risk import AccountLimits, Limits, RiskLimits, parse_limits
from core.trading.types import Broker

STRATEGIES = table_of(StrategyRow)
LIMITS = table_of(RiskLimitsRow)


@dataclass(frozen=True, slots=True)
class StrategyLeave:
    """What a strategy may do. `opt_ins` maps a broker's name to the target the opt-in names."""

    active: bool
    opt_ins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RiskConfig:
    """One reading of the rows. Who has no row of limits has the defaults; who has no strategy row may not enter."""

    strategies: dict[str, StrategyLeave] = field(default_factory=dict)
    instruments: frozenset[str] = frozenset()
    strategy_limits: dict[str, RiskLimits] = field(default_factory=dict)
    account_limits: dict[str, AccountLimits] = field(default_factory=dict)

    def limits(self, strategy_id: str, broker: Broker) -> Limits:
        return Limits(
            self.strategy_limits.get(strategy_id, RiskLimits()),
            self.account_limits.get(broker.value, AccountLimits()),
        )

    def is_active(self, strategy_id: str) -> bool:
        leave = self.strategies.get(strategy_id)
        return leave is not None and leave.active

    def opt_in(self, strategy_id: str, broker: Broker) -> str | None:
        """The target the strategy opted in to on this broker; paper needs none and always names itself."""
        if broker is Broker.PAPER:
            return broker.value
        leave = self.strategies.get(strategy_id)
        return None if leave is None else leave.opt_ins.get(broker.value)


async def load_risk_config(engine: AsyncEngine) -> RiskConfig:
    """Read all rows.

    Raises:
        ConfigError: naming each bad row and field.
        Transient: the database is away.
    """
    columns = (STRATEGIES.c.strategy_id, STRATEGIES.c.active, STRATEGIES.c.opt_ins, STRATEGIES.c.instruments)
    async with transient("reading strategies and limits"), engine.connect() as connection:
        strategies = (await connection.execute(select(*columns))).all()
        limits = (await connection.execute(select(LIMITS.c.scope, LIMITS.c.name, LIMITS.c.limits))).all()
    by_strategy, by_account = _parse([(row.scope, row.name, row.limits) for row in limits])
    return RiskConfig(
        strategies={row.strategy_id: StrategyLeave(row.active, dict(row.opt_ins)) for row in strategies},
        instruments=frozenset(str(key) for row in strategies if row.active for key in row.instruments),
        strategy_limits=by_strategy,
        account_limits=by_account,
    )


def _parse(rows: list[tuple[str, str, Any]]) -> tuple[dict[str, RiskLimits], dict[str, AccountLimits]]:
    by_strategy: dict[str, RiskLimits] = {}
    by_account: dict[str, AccountLimits] = {}
    problems: list[str] = []
    for scope, name, limits in rows:
        try:
            parsed = parse_limits(scope, limits)
            if isinstance(parsed, RiskLimits):
                by_strategy[name] = parsed
            else:
                by_account[Broker(name).value] = parsed
        except ValueError as error:
            problems.append(f"  row ({scope}, {name}): {error}")
    if problems:
        raise ConfigError("Bad rows in config.risk_limits; mend these and start again:\n" + "\n".join(problems))
    return by_strategy, by_account


@dataclass(frozen=True, slots=True)
class LimitsRow:
    """What was set for one strategy or account, as JSON."""

    limits: dict[str, Any]
    version: int


async def limits_row(engine: AsyncEngine, scope: str, name: str) -> LimitsRow | None:
    """None where nothing was set. Raises Transient."""
    async with transient("reading limits"), engine.connect() as connection:
        return await _limits_row(connection, scope, name)


async def put_limits(
    connection: AsyncConnection, scope: str, name: str, limits: dict[str, Any]
) -> tuple[LimitsRow | None, LimitsRow]:
    """Set the row under its next version, in the caller's transaction. Returns it before and after."""
    before = await _limits_row(connection, scope, name, lock=True)
    values = {"scope": scope, "name": name, "limits": limits, "version": 1, "updated_at": utc_now()}
    changes = {"limits": limits, "version": LIMITS.c.version + 1, "updated_at": values["updated_at"]}
    statement = insert(LIMITS).values(values)
    statement = statement.on_conflict_do_update(index_elements=[LIMITS.c.scope, LIMITS.c.name], set_=changes)
    row = (await connection.execute(statement.returning(LIMITS.c.limits, LIMITS.c.version))).one()
    return before, LimitsRow(dict(row.limits), row.version)


async def _limits_row(connection: AsyncConnection, scope: str, name: str, *, lock: bool = False) -> LimitsRow | None:
    query = select(LIMITS.c.limits, LIMITS.c.version).where(LIMITS.c.scope == scope, LIMITS.c.name == name)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    return None if row is None else LimitsRow(dict(row.limits), row.version)
