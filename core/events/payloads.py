"""What messages carry. Pure data; unknown fields are ignored on read, so fields may be added but never removed."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from core.trading.signals import Signal
from core.trading.ticks import Gap, Tick
from core.trading.types import Exchange, Intent, OrderStatus, OrderType, Product, SendState, Side, Validity

__all__ = [
    "Alert",
    "ConfigChanged",
    "FillRecord",
    "Gap",
    "LimitsChanged",
    "OrderEvent",
    "OrderState",
    "OrderUpdate",
    "PnlSnapshot",
    "Reconciliation",
    "SendRecord",
    "Signal",
    "SignalRejected",
    "SignalValidated",
    "Tick",
]


class _Payload(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SignalValidated(_Payload):
    """A signal that passed, with the order it becomes. The order id is derived from the decision."""

    signal: Signal
    order_id: UUID
    decision_id: UUID
    decided_at: datetime
    account: str
    target: str


class Denial(_Payload):
    """One failing rule: its code, what it saw against its limit, in words."""

    code: str
    message: str


class SignalRejected(_Payload):
    """A signal that failed, with every failing rule."""

    signal: Signal
    decision_id: UUID
    decided_at: datetime
    denials: tuple[Denial, ...]


class OrderUpdate(_Payload):
    """A hint from the broker: something about this order may have changed. Never taken as truth."""

    broker_order_id: str
    tag: str | None = None
    status: str
    source: str
    received_at: datetime
    raw: dict[str, Any] = Field(default_factory=dict)


RECONNECTED = "RECONNECTED"
"""Status of an update about no order: the broker's updates were interrupted, some may be lost."""


class SendRecord(_Payload):
    """One attempt to hand the order to the broker."""

    send_no: int
    tag: str
    state: SendState
    quantity: int
    broker_order_id: str | None = None
    claimed_at: datetime | None = None
    answered_at: datetime | None = None
    answer: str | None = None


class FillRecord(_Payload):
    """One execution. Identity: (account, trading_day, exchange, broker_order_id, trade_id). Money in rupees.

    `realized_pnl` is gross, what this fill realised; `charges` are this fill's alone; `position_quantity` and
    `position_average_price` are the position after it.
    """

    account: str
    trading_day: date
    exchange: Exchange
    broker_order_id: str
    trade_id: str
    quantity: int
    price: Decimal
    filled_at: datetime
    realized_pnl: Decimal
    charges: Decimal
    position_quantity: int
    position_average_price: Decimal


class OrderState(_Payload):
    """An order's full state, in every order event. Prices in rupees, times UTC."""

    order_id: UUID
    signal_id: UUID
    strategy_id: str
    instance: str
    source: str
    account: str
    target: str
    instrument: str
    instrument_token: int
    exchange: Exchange
    tradingsymbol: str
    side: Side
    intent: Intent
    order_type: OrderType
    product: Product
    validity: Validity
    quantity: int
    price: Decimal | None
    trigger_price: Decimal | None
    status: OrderStatus
    filled_quantity: int
    average_price: Decimal | None
    broker_order_id: str | None
    send_no: int
    reason: str | None
    origin_at: datetime
    created_at: datetime
    updated_at: datetime
    realized_pnl: Decimal
    charges: Decimal
    sends: tuple[SendRecord, ...] = ()

    @property
    def net_pnl(self) -> Decimal:
        return self.realized_pnl - self.charges


class OrderEvent(_Payload):
    """One step of an order: its sequence, the full state after it, and on `filled` the fill itself."""

    order_seq: int
    order: OrderState
    fill: FillRecord | None = None


class PnlSnapshot(_Payload):
    """A position marked to market: rupees; gross = realized + unrealized, net = gross - charges.

    `day_*` is the trading day's part; its unrealized is the whole of what is open now.
    """

    instance: str
    strategy_id: str
    instrument: str
    instrument_token: int
    exchange: Exchange
    tradingsymbol: str
    product: Product
    quantity: int
    average_price: Decimal
    last_price: Decimal | None
    realized_pnl: Decimal
    unrealized_pnl: Decimal | None
    charges: Decimal
    trading_day: date
    day_realized_pnl: Decimal | None = None
    day_charges: Decimal | None = None
    as_of: datetime
    simulated: bool


class ReconciledLine(_Payload):
    """One instrument and product of an account, signed units: broker = ours + foreign + drift.

    `drift` is None where something moved while it was read. `delivered`: shares of ours the broker lists as holdings by now, not part of
    `ours`. `uncovered`: units of `ours` that the broker's net does not hold any more.
    """

    exchange: Exchange
    tradingsymbol: str
    product: Product
    broker: int
    ours: int
    foreign: int
    drift: int | None
    delivered: int = 0
    uncovered: int = 0


class ForeignOrder(_Payload):
    """An order of the account that is not ours: the trader's own, or the broker's desk's. Never touched."""

    broker_order_id: str
    tags: tuple[str, ...] = ()
    status: str
    exchange: Exchange
    tradingsymbol: str
    product: Product
    side: Side
    quantity: int
    filled_quantity: int


class Reconciliation(_Payload):
    """One comparison of the journal with the broker's book, trades and positions, and what was mended on the way.

    `judged` False: no figures, `why_not` says why. `lines` has every instrument with something to tell; `foreign_orders` the first of
    `foreign_orders_count`.
    """

    round_id: UUID
    account: str
    trading_day: date
    began_at: datetime
    finished_at: datetime
    reasons: tuple[str, ...]
    requests: tuple[UUID, ...] = ()
    judged: bool
    why_not: str | None = None
    lines: tuple[ReconciledLine, ...] = ()
    foreign_orders: tuple[ForeignOrder, ...] = ()
    foreign_orders_count: int = 0
    late_fills: int = 0
    adopted: tuple[UUID, ...] = ()
    started_again: tuple[UUID, ...] = ()
    told: tuple[UUID, ...] = ()
    published_late: int = 0
    trouble: tuple[str, ...] = ()

    @property
    def drifting(self) -> tuple[ReconciledLine, ...]:
        return tuple(line for line in self.lines if line.drift)


class ConfigChanged(_Payload):
    """What a person changed about a strategy, with the version that now holds. `row` is the strategy's row as stored."""

    strategy_id: str
    version: int
    changed_by: str
    row: dict[str, Any]


class LimitsChanged(_Payload):
    """What a person changed about limits, with the version that now holds. `scope`: strategy or account; `name`: whose they are."""

    scope: str
    name: str
    version: int
    changed_by: str
    limits: dict[str, Any]


class Alert(_Payload):
    """What a person should know. `kind` groups alerts (and is the key), `subject` says about what."""

    kind: str
    subject: str
    message: str
    action: str
    at: datetime
    details: dict[str, str] = Field(default_factory=dict)
