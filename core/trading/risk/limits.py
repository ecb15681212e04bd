"""What people may set about risk, with units and safe defaults: a strategy's limits and an account's. Pure data.

A row of `config.risk_limits` holds one of these as JSON: scope `strategy` and a strategy's id, or scope `account` and a
broker's name. A field left out takes its default; a field that does not exist, or a bad value, is refused by name.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Scope(StrEnum):
    """Whom a row of limits binds."""

    STRATEGY = "strategy"
    ACCOUNT = "account"


class RiskLimits(BaseModel):
    """Limits of one strategy; each of its instances (one a broker) is held to them alone. They bind entries only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_position: int = Field(
        default=500,
        ge=0,
        description="units held in one instrument and product with working orders; never above the freeze quantity",
    )
    max_order_value: Decimal = Field(default=Decimal(200_000), ge=0, description="rupees of one order")
    max_open_orders: int = Field(default=5, ge=0, description="working orders of the instance, entries and exits")
    max_trades_a_day: int = Field(
        default=100, ge=0, description="entry orders of the trading day that are working or have a fill"
    )
    max_day_loss: Decimal = Field(
        default=Decimal(5_000), gt=0, description="rupees lost in the trading day: realised + unrealised - charges"
    )
    price_band_percent: Decimal = Field(
        default=Decimal(3), gt=0, le=100, description="percent a limit or trigger price may lie from the last price"
    )
    max_tick_age_s: float = Field(default=5.0, gt=0, description="seconds since the instrument's last tick came in")
    cooldown_s: float = Field(
        default=1.0, ge=0, description="seconds between entries of one side in one instrument, by origin"
    )


class AccountLimits(BaseModel):
    """Limits of one broker's account, over all its instances together. They bind entries only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_order_value: Decimal = Field(default=Decimal(500_000), ge=0, description="rupees of one order")
    max_open_orders: int = Field(default=50, ge=0, description="working orders of the account")
    max_trades_a_day: int = Field(
        default=1_000, ge=0, description="entry orders of the trading day that are working or have a fill"
    )
    max_day_loss: Decimal = Field(
        default=Decimal(20_000), gt=0, description="rupees lost in the trading day: realised + unrealised - charges"
    )


MODELS: dict[Scope, type[RiskLimits] | type[AccountLimits]] = {
    Scope.STRATEGY: RiskLimits,
    Scope.ACCOUNT: AccountLimits,
}


def parse_limits(scope: str, limits: Any) -> RiskLimits | AccountLimits:
    """The limits in one row.

    Raises:
        ValueError: naming each bad field with what is wrong about it, or the scope when it is none of ours.
    """
    try:
        model = MODELS[Scope(scope)]
    except ValueError:
        raise ValueError(f"scope {scope!r} is not one of {', '.join(Scope)}") from None
    try:
        return model.model_validate(limits)
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in item['loc']) or 'limits'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise ValueError("; ".join(problems)) from None
