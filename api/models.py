"""What the API answers, field by field. Money in rupees as decimal strings, times UTC, quantities in units (shares)."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from core.events.payloads import Denial, FillRecord, OrderState, Reconciliation, SendRecord, Signal
from core.storage.redis import PnlView, PositionView
from core.trading.types import Broker, Exchange, Intent, OrderStatus, OrderType, Product, Side, Validity

SIMULATED = "True where prices come from the local sandbox: nothing here is real."


class Answer(BaseModel):
    """Whatever we answer."""

    model_config = ConfigDict(frozen=True)

    def kept(self) -> dict[str, Any]:
        """As it is kept for whoever asks the same again: without what is told once."""
        return self.model_dump(mode="json")


class Part(Answer):
    """One thing the system needs: a server it uses or a process of its own."""

    name: str = Field(examples=["kafka"])
    kind: str = Field(description="`server` or `service`", examples=["server"])
    ready: bool
    reason: str = Field(description="Why not; empty when ready.", examples=[""])
    note: str = Field(default="", description="Worth seeing and no trouble: an alert channel that fails, a standby.")


class Live(Answer):
    """This process answers."""

    status: str = "alive"


class Ready(Answer):
    """Every part by name; `ready` only if all are."""

    ready: bool
    at: datetime
    simulated: bool = Field(description=SIMULATED)
    parts: list[Part]


class OrderSummary(Answer):
    """An order as the log last told of it."""

    order_id: UUID
    broker: Broker
    state: OrderStatus
    strategy_id: str = Field(examples=["momentum-demo"])
    instance: str = Field(examples=["momentum-demo@paper"])
    instrument: str = Field(examples=["NSE:INFY"])
    side: Side
    intent: Intent
    order_type: OrderType
    product: Product
    validity: Validity
    quantity: int
    filled_quantity: int
    price: Decimal | None
    trigger_price: Decimal | None
    average_price: Decimal | None
    realized_pnl: Decimal = Field(description="Gross: what this order's fills realised.")
    charges: Decimal
    net_pnl: Decimal
    broker_order_id: str | None
    reason: str | None
    source: str = Field(description="`strategy` or who asked.")
    created_at: datetime
    updated_at: datetime
    simulated: bool = Field(description=SIMULATED)

    @staticmethod
    def of(broker: Broker, order: OrderState, *, simulated: bool) -> OrderSummary:
        shared = set(OrderSummary.model_fields) & set(OrderState.model_fields)
        return OrderSummary(
            **{name: getattr(order, name) for name in shared},
            broker=broker,
            state=order.status,
            net_pnl=order.net_pnl,
            simulated=simulated,
        )


class OrderPage(Answer):
    """Newest first. `next` is the cursor of the following page, None on the last one."""

    orders: list[OrderSummary]
    next: str | None = Field(description="Pass as `cursor` for the next page.")


class TimelineEvent(Answer):
    """One event of the order's life in words, with its data as the log carries it."""

    event_id: UUID
    at: datetime
    type: str = Field(examples=["order.filled"])
    order_seq: int | None
    text: str = Field(examples=["filled 50 @ 1500.00, 50 of 50"])
    data: dict[str, Any]


class Decision(Answer):
    """What risk decided on the signal."""

    accepted: bool
    decided_at: datetime
    denials: list[Denial]


class OrderDetail(Answer):
    """An order's whole life: signal, decision, sends with the broker's answers, fills, every event."""

    order: OrderSummary
    account: str
    target: str
    exchange: Exchange
    tradingsymbol: str
    instrument_token: int
    signal: Signal | None
    decision: Decision | None
    sends: list[SendRecord]
    fills: list[FillRecord]
    events: list[TimelineEvent]
    workflow_id: str
    temporal_url: str = Field(description="The order's workflow in Temporal UI.")


class Position(PositionView):
    """A position marked to the last tick; gross = realised + unrealised, net = gross − charges."""

    broker: Broker


class PositionList(Answer):
    simulated: bool = Field(description=SIMULATED)
    positions: list[Position]


class BrokerPnl(Answer):
    """A broker's total and its instances. `day_*` is of the trading day, the rest since the first fill."""

    broker: Broker
    total: PnlView
    instances: list[PnlView]


class PnlReport(Answer):
    simulated: bool = Field(description=SIMULATED)
    brokers: list[BrokerPnl]


class Round(Reconciliation):
    """One comparison of a broker's account with the journal. Signed units: broker = ours + foreign + drift."""

    broker: Broker


class ReconciliationList(Answer):
    simulated: bool = Field(description=SIMULATED)
    rounds: list[Round] = Field(description="By broker, newest first; none where no round is on the log yet.")


class InstanceStatus(Answer):
    """A strategy on a broker. `active` False says in `reason` why this instance does not trade."""

    instance: str
    broker: Broker
    target: str = Field(description="Where its orders end up.", examples=["local"])
    active: bool
    reason: str
    state: str = Field(
        description="What strategy-runner says: running, warming, failed, inactive; unknown if it says nothing."
    )
    runtime: dict[str, Any] = Field(description="Strategy-runner's own words, as it last wrote them.")


class Strategy(Answer):
    """A strategy as configured, with each of its instances."""

    strategy_id: str
    class_name: str
    active: bool
    version: int
    parameters: dict[str, Any]
    instruments: list[str]
    product: Product
    age_limit_s: float
    capital: Decimal
    opt_ins: dict[str, str]
    instances: list[InstanceStatus]


class StrategyList(Answer):
    simulated: bool = Field(description=SIMULATED)
    runtime: str = Field(description="`known`, or why the runtime states are not.")
    strategies: list[Strategy]


class TopicStatus(Answer):
    """A topic of the log. `lag` sums what consumer groups have not committed; `dlq` counts its open dead letters."""

    topic: str
    partitions: int
    end_offset: int = Field(description="Sum over partitions.")
    lag: dict[str, int] = Field(description="By consumer group.")
    dlq: int | None = Field(description="None for topics without one.")


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str = Field(examples=["Service Unavailable"])
    status: int = Field(examples=[503])
    detail: str = Field(examples=["Redis is away while reading the read model: ConnectionError"])
    errors: list[dict[str, Any]] | None = None
