"""Demo strategies and limits for a fresh deployment, so that there is something to see. Never touches a table that has rows.

They trade on the local sandbox alone: for any other target they are written switched off, without limits.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from core.config import Settings
from core.storage.db import config_engine, transient
from core.storage.models import RiskLimitsRow, StrategyRow, table_of
from core.storage.strategies import StrategyConfig
from core.trading.types import Broker, KiteTarget

STRATEGIES = table_of(StrategyRow)
LIMITS = table_of(RiskLimitsRow)

DEMO_MOMENTUM = "momentum-demo"
DEMO_REVERSION = "reversion-demo"


def demo_strategies(target: KiteTarget) -> list[StrategyConfig]:
    """One on paper alone, one that also trades on zerodha where that is the local sandbox.

    Bars of 3 s: both have decided within half a minute. The cooldowns keep zerodha's orders below its 4,000 entries and exits a day.
    """
    active = target is KiteTarget.LOCAL
    momentum = {"bar_s": 3, "fast": 2, "slow": 4, "quantity": 2, "allow_short": True, "cooldown_s": 40}
    reversion = {
        "bar_s": 3, "period": 5, "entry_z": 1.0, "exit_z": 0.2, "quantity": 2, "allow_short": True, "cooldown_s": 75, "max_hold_s": 45,
    }  # fmt: skip
    return [
        StrategyConfig(DEMO_MOMENTUM, "Momentum", momentum, ("NSE:INFY", "NSE:RELIANCE", "NSE:TCS"), active),
        StrategyConfig(
            DEMO_REVERSION,
            "MeanReversion",
            reversion,
            ("NSE:SBIN", "NSE:HDFCBANK"),
            active,
            opt_ins={Broker.ZERODHA.value: KiteTarget.LOCAL.value},
        ),
    ]


def demo_limits() -> list[dict[str, Any]]:
    """Wide enough that a demo day never ends at a limit. The zerodha account keeps its default loss limit on purpose."""
    strategy = {"max_trades_a_day": 20_000, "max_day_loss": "100000"}
    return [
        {"scope": "strategy", "name": DEMO_MOMENTUM, "limits": strategy},
        {"scope": "strategy", "name": DEMO_REVERSION, "limits": strategy},
        {
            "scope": "account",
            "name": Broker.PAPER.value,
            "limits": {"max_trades_a_day": 40_000, "max_day_loss": "200000"},
        },
        {"scope": "account", "name": Broker.ZERODHA.value, "limits": {"max_trades_a_day": 4_000}},
    ]


async def seed(settings: Settings) -> None:
    """Write the demo rows where config.strategies and config.risk_limits are empty. Safe to run again.

    Raises:
        Transient: the database is away.
    """
    engine = config_engine(settings, pool_size=1)
    target = settings.kite_target
    try:
        async with transient("writing demo strategies"), engine.begin() as connection:
            if not await _is_empty(connection):
                return
            rows = [row.as_row() | {"capital": row.capital} for row in demo_strategies(target)]
            await connection.execute(insert(STRATEGIES).on_conflict_do_nothing(), rows)
            if target is KiteTarget.LOCAL:
                await connection.execute(insert(LIMITS).on_conflict_do_nothing(), demo_limits())
    finally:
        await engine.dispose()


async def _is_empty(connection: AsyncConnection) -> bool:
    count = (await connection.execute(select(func.count()).select_from(STRATEGIES))).scalar_one()
    return int(count) == 0
