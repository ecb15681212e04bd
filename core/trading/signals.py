"""What a strategy wants, before anyone has looked at the risk. Pure data."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from core.trading.types import Exchange, Intent, OrderType, Product, Side, Validity


class SignalSpec(BaseModel):
    """What a pure strategy returns: no ids, no clock. `leg` tells several signals of one slot apart; the side is not in the id."""

    model_config = ConfigDict(frozen=True)

    instrument: str
    side: Side
    quantity: int = Field(gt=0)
    intent: Intent
    order_type: OrderType = OrderType.MARKET
    product: Product = Product.MIS
    validity: Validity = Validity.DAY
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    leg: str = "0"
    reason: str = ""


class Signal(BaseModel):
    """A signal on its way through risk to the gateway.

    `instance` is `{strategy_id}@{broker}`; `origin_at` is the receive time of the tick or command it all began with (host
    clock, UTC): its age is judged from there. `age_limit_s` binds entries only. `quantity` in units, prices in rupees.
    """

    model_config = ConfigDict(frozen=True)

    signal_id: UUID
    strategy_id: str
    instance: str
    strategy_version: int
    instrument: str
    instrument_token: int
    exchange: Exchange
    tradingsymbol: str
    side: Side
    intent: Intent
    quantity: int = Field(gt=0)
    order_type: OrderType
    product: Product
    validity: Validity
    price: Decimal | None = None
    trigger_price: Decimal | None = None
    slot: str
    leg: str = "0"
    origin_at: datetime
    age_limit_s: float = Field(gt=0)
    source: str = "strategy"
    reason: str = ""


def instance_name(strategy_id: str, broker: str) -> str:
    """An instance is a strategy on a broker."""
    return f"{strategy_id}@{broker}"
