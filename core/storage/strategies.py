"""Reads and writes the strategies people configured (config.strategies). Says nothing about whether a row makes sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.storage.db import transient
from core.storage.models import StrategyRow


@dataclass(frozen=True, slots=True)
class StrategyConfig:
    """One row. `capital` in rupees, `age_limit_s` in seconds; `opt_ins` maps a broker's name to the target it was given for."""

    strategy_id: str
    class_name: str
    parameters: Mapping[str, Any]
    instruments: tuple[str, ...]
    active: bool
    product: str = "MIS"
    age_limit_s: float = 5.0
    capital: Decimal = Decimal(100_000)
    opt_ins: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    def as_row(self) -> dict[str, Any]:
        """Plain JSON, as a `config.changes` event carries it."""
        return {
            "strategy_id": self.strategy_id,
            "class_name": self.class_name,
            "parameters": dict(self.parameters),
            "instruments": list(self.instruments),
            "active": self.active,
            "product": self.product,
            "age_limit_s": self.age_limit_s,
            "capital": str(self.capital),
            "opt_ins": dict(self.opt_ins),
            "version": self.version,
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> StrategyConfig:
        """The inverse of `as_row`; takes a table's row too.

        Raises:
            KeyError, ValueError, ArithmeticError, TypeError: on a row that is none.
        """
        return StrategyConfig(
            strategy_id=str(row["strategy_id"]),
            class_name=str(row["class_name"]),
            parameters=dict(row["parameters"]),
            instruments=tuple(str(key) for key in row["instruments"]),
            active=bool(row["active"]),
            product=str(row["product"]),
            age_limit_s=float(row["age_limit_s"]),
            capital=Decimal(str(row["capital"])),
            opt_ins={str(broker): str(target) for broker, target in dict(row["opt_ins"]).items()},
            version=int(row["version"]),
        )


async def load_strategies(engine: AsyncEngine) -> list[StrategyConfig]:
    """Every row, active or not, by strategy_id.

    Raises:
        Transient: the database is away.
    """
    query = select(StrategyRow.__table__).order_by(StrategyRow.strategy_id)
    async with transient("reading strategies"), engine.connect() as connection:
        return [StrategyConfig.from_row(dict(row)) for row in (await connection.execute(query)).mappings()]


async def save_strategy(engine: AsyncEngine, config: StrategyConfig) -> StrategyConfig:
    """Insert the row, or replace it under the next version; returns it as stored. Announcing it on the log is the caller's.

    Raises:
        Transient: the database is away.
    """
    values = config.as_row() | {"capital": config.capital, "version": 1, "updated_at": func.now()}
    changes = {name: value for name, value in values.items() if name not in {"strategy_id", "version"}}
    statement = (
        insert(StrategyRow)
        .values(values)
        .on_conflict_do_update(
            index_elements=[StrategyRow.strategy_id], set_={**changes, "version": StrategyRow.version + 1}
        )
        .returning(StrategyRow.__table__)
    )
    async with transient("saving a strategy"), engine.begin() as connection:
        return StrategyConfig.from_row(dict((await connection.execute(statement)).mappings().one()))
