"""Every table. Journal tables carry a placeholder schema that an engine translates to one broker's own; nothing joins across.

Times are timestamptz (UTC), money is numeric (rupees), quantities are integers.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from core.routing import CONFIG_SCHEMA, JOURNAL, PAPER_EXCHANGE_SCHEMA

MONEY = Numeric()
"""Unconstrained numeric: an average price comes back exactly as it was computed, so every fold agrees to the last digit."""

AVERAGE_PRICE = Numeric(26, 10)
"""Average prices of positions keep the quantum of core/trading/positions.py, so that a fold read back goes on exactly."""


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: DateTime(timezone=True),
        date: Date,
        Decimal: MONEY,
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
        bytes: LargeBinary,
        str: Text,
        int: Integer,
        bool: Boolean,
    }


def table_of(row: type[Base]) -> Table:
    """The table behind a mapped class, for Core statements."""
    return cast(Table, row.__table__)


# config: what people decided ---------------------------------------------------------------------------------------


class StrategyRow(Base):
    """A strategy as people configured it. `opt_ins` maps a broker (never paper, which is implicit) to the target named."""

    __tablename__ = "strategies"
    __table_args__ = {"schema": CONFIG_SCHEMA}  # noqa: RUF012

    strategy_id: Mapped[str] = mapped_column(primary_key=True)
    class_name: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    instruments: Mapped[list[Any]]
    product: Mapped[str] = mapped_column(server_default="MIS")
    active: Mapped[bool]
    age_limit_s: Mapped[float] = mapped_column(server_default=text("5"))
    capital: Mapped[Decimal] = mapped_column(server_default=text("100000"))
    opt_ins: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    version: Mapped[int] = mapped_column(server_default=text("1"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class RiskLimitsRow(Base):
    """Limits of a strategy (`scope` = strategy, `name` = its id) or an account (`scope` = account, `name` = broker)."""

    __tablename__ = "risk_limits"
    __table_args__ = {"schema": CONFIG_SCHEMA}  # noqa: RUF012

    scope: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    limits: Mapped[dict[str, Any]]
    version: Mapped[int] = mapped_column(server_default=text("1"))
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class InstrumentRow(Base):
    """The day's dump of one target, so that every process resolves the same names to the same tokens."""

    __tablename__ = "instruments"
    __table_args__ = (
        Index("instruments_by_token", "target", "trading_day", "instrument_token"),
        {"schema": CONFIG_SCHEMA},
    )

    target: Mapped[str] = mapped_column(primary_key=True)
    trading_day: Mapped[date] = mapped_column(primary_key=True)
    instrument_key: Mapped[str] = mapped_column(primary_key=True)
    instrument_token: Mapped[int] = mapped_column(BigInteger)
    row: Mapped[dict[str, Any]]


class CheckpointRow(Base):
    """A streaming service's folded state with the offsets it stands at (`offsets`: topic → partition → next offset)."""

    __tablename__ = "checkpoints"
    __table_args__ = {"schema": CONFIG_SCHEMA}  # noqa: RUF012

    name: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[dict[str, Any]]
    offsets: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))


class SharedLeaseRow(Base):
    """Leases of processes that serve no single broker (the market feed)."""

    __tablename__ = "leases"
    __table_args__ = {"schema": CONFIG_SCHEMA}  # noqa: RUF012

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]


# journal: what we did and meant, one copy a broker ----------------------------------------------------------------


class AccountRow(Base):
    """The account's lock: every decision of risk holds this row. `kill` binds entries of all, `kill_strategies` (id → reason) of some."""

    __tablename__ = "accounts"
    __table_args__ = {"schema": JOURNAL}  # noqa: RUF012

    account: Mapped[str] = mapped_column(primary_key=True)
    kill: Mapped[bool] = mapped_column(server_default=text("false"))
    kill_by: Mapped[str | None]
    kill_reason: Mapped[str | None]
    kill_at: Mapped[datetime | None]
    kill_strategies: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


class LeaseRow(Base):
    """Who may talk to the broker. Judged by database time; a thawed holder's claims fail on the epoch."""

    __tablename__ = "leases"
    __table_args__ = {"schema": JOURNAL}  # noqa: RUF012

    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime]


class RiskDecisionRow(Base):
    """The first decision on a signal, for ever. Redelivery re-publishes `event_value` and never re-evaluates."""

    __tablename__ = "risk_decisions"
    __table_args__ = (
        Index("risk_decisions_by_instance", "instance", "decided_at"),
        {"schema": JOURNAL},
    )

    signal_id: Mapped[UUID] = mapped_column(primary_key=True)
    decision_id: Mapped[UUID]
    instance: Mapped[str]
    instrument_token: Mapped[int] = mapped_column(BigInteger)
    side: Mapped[str]
    slot: Mapped[str]
    accepted: Mapped[bool]
    denials: Mapped[list[Any]]
    event_topic: Mapped[str]
    event_key: Mapped[str]
    event_value: Mapped[bytes]
    event_headers: Mapped[list[Any]]
    decided_at: Mapped[datetime]


class OrderRow(Base):
    """An order. Inserted PENDING with the decision: until it ends, this row is the reservation."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("orders_working", "instance", "instrument_token", postgresql_where=text("ended_at IS NULL")),
        Index("orders_by_created", "created_at"),
        {"schema": JOURNAL},
    )

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    signal_id: Mapped[UUID] = mapped_column(unique=True)
    correlation_id: Mapped[UUID]
    strategy_id: Mapped[str]
    instance: Mapped[str]
    source: Mapped[str]
    requested_by: Mapped[str]
    account: Mapped[str]
    target: Mapped[str]
    instrument: Mapped[str]
    instrument_token: Mapped[int] = mapped_column(BigInteger)
    instrument_type: Mapped[str]
    exchange: Mapped[str]
    tradingsymbol: Mapped[str]
    lot_size: Mapped[int]
    tick_size: Mapped[Decimal]
    side: Mapped[str]
    intent: Mapped[str]
    order_type: Mapped[str]
    product: Mapped[str]
    validity: Mapped[str]
    quantity: Mapped[int]
    price: Mapped[Decimal | None]
    trigger_price: Mapped[Decimal | None]
    reference_price: Mapped[Decimal | None]
    status: Mapped[str]
    filled_quantity: Mapped[int] = mapped_column(server_default=text("0"))
    average_price: Mapped[Decimal | None]
    broker_order_id: Mapped[str | None]
    send_no: Mapped[int] = mapped_column(server_default=text("1"))
    order_seq: Mapped[int] = mapped_column(server_default=text("0"))
    reason: Mapped[str | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    origin_at: Mapped[datetime]
    age_limit_s: Mapped[float]
    realized_pnl: Mapped[Decimal] = mapped_column(server_default=text("0"))
    charges: Mapped[Decimal] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class SendRow(Base):
    """One attempt to hand an order to the broker: claimed (INTENT → SENDING) before a byte leaves."""

    __tablename__ = "sends"
    __table_args__ = (
        ForeignKeyConstraint(["order_id"], [f"{JOURNAL}.orders.order_id"]),
        Index("sends_by_claim", "account", "claimed_at"),
        Index("sends_by_broker_order", "account", "broker_order_id"),
        Index("sends_late", "order_id", postgresql_where=text("state = 'LATE'")),
        {"schema": JOURNAL},
    )

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    send_no: Mapped[int] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    account: Mapped[str]
    trading_day: Mapped[date | None]
    quantity: Mapped[int]
    lease_epoch: Mapped[int | None] = mapped_column(BigInteger)
    claimed_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    answered_at: Mapped[datetime | None]
    answer: Mapped[str | None]
    broker_order_id: Mapped[str | None]


class FillRow(Base):
    """One execution, booked once: the primary key is the broker's identity of it."""

    __tablename__ = "fills"
    __table_args__ = (
        ForeignKeyConstraint(["order_id"], [f"{JOURNAL}.orders.order_id"]),
        Index("fills_by_order", "order_id"),
        Index("fills_by_position", "instance", "instrument_token", "product", "filled_at"),
        {"schema": JOURNAL},
    )

    account: Mapped[str] = mapped_column(primary_key=True)
    trading_day: Mapped[date] = mapped_column(primary_key=True)
    exchange: Mapped[str] = mapped_column(primary_key=True)
    broker_order_id: Mapped[str] = mapped_column(primary_key=True)
    trade_id: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[UUID]
    instance: Mapped[str]
    instrument_token: Mapped[int] = mapped_column(BigInteger)
    instrument: Mapped[str]
    instrument_type: Mapped[str]
    product: Mapped[str]
    side: Mapped[str]
    quantity: Mapped[int]
    price: Mapped[Decimal]
    filled_at: Mapped[datetime]
    realized_pnl: Mapped[Decimal]
    charges: Mapped[Decimal]
    position_quantity: Mapped[int]
    position_average_price: Mapped[Decimal] = mapped_column(AVERAGE_PRICE)
    recorded_at: Mapped[datetime]


class PositionRow(Base):
    """The fold of an instance's fills in an instrument and product: what risk and exits are judged by."""

    __tablename__ = "positions"
    __table_args__ = {"schema": JOURNAL}  # noqa: RUF012

    instance: Mapped[str] = mapped_column(primary_key=True)
    instrument_token: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    product: Mapped[str] = mapped_column(primary_key=True)
    account: Mapped[str]
    instrument: Mapped[str]
    quantity: Mapped[int]
    average_price: Mapped[Decimal] = mapped_column(AVERAGE_PRICE)
    realized_pnl: Mapped[Decimal]
    charges: Mapped[Decimal]
    updated_at: Mapped[datetime]


class OutgoingEventRow(Base):
    """An event written with its transition, published in `order_seq` order by the workflow."""

    __tablename__ = "outgoing_events"
    __table_args__ = (
        ForeignKeyConstraint(["order_id"], [f"{JOURNAL}.orders.order_id"]),
        Index("outgoing_unpublished", "order_id", "order_seq", postgresql_where=text("published_at IS NULL")),
        {"schema": JOURNAL},
    )

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    order_seq: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[UUID] = mapped_column(unique=True)
    topic: Mapped[str]
    key: Mapped[str]
    value: Mapped[bytes]
    headers: Mapped[list[Any]]
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]


class CommandRow(Base):
    """What a person or program asked of an order (cancel, modify, resolve): journalled first, then sent as a workflow signal."""

    __tablename__ = "commands"
    __table_args__ = (Index("commands_by_order", "order_id", "created_at"), {"schema": JOURNAL})

    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    order_id: Mapped[UUID]
    kind: Mapped[str]
    parameters: Mapped[dict[str, Any]]
    requested_by: Mapped[str]
    reason: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="REQUESTED")
    outcome: Mapped[str | None]
    evidence: Mapped[str | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class BookSeenRow(Base):
    """Evidence: a book seen while this send was UNKNOWN, that did not show its tag. Absence is proven from these rows."""

    __tablename__ = "books_seen"
    __table_args__ = {"schema": JOURNAL}  # noqa: RUF012

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    send_no: Mapped[int] = mapped_column(primary_key=True)
    requested_at: Mapped[datetime] = mapped_column(primary_key=True)
    account: Mapped[str]
    trading_day: Mapped[date]
    received_at: Mapped[datetime]
    rows: Mapped[int]
    healthy: Mapped[bool]
    reason: Mapped[str | None]


# views: what people read, folded from the log alone; rebuilt by dropping them -------------------------------------------


class ViewOrderRow(Base):
    """An order's latest state as the log tells it."""

    __tablename__ = "view_orders"
    __table_args__ = (Index("view_orders_by_created", "created_at"), {"schema": JOURNAL})

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    signal_id: Mapped[UUID]
    strategy_id: Mapped[str]
    instance: Mapped[str]
    instrument: Mapped[str]
    side: Mapped[str]
    status: Mapped[str]
    order_seq: Mapped[int]
    state: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ViewEventRow(Base):
    """One step of a timeline: a signal, a decision or an order event, once by its id."""

    __tablename__ = "view_events"
    __table_args__ = (
        Index("view_events_by_order", "order_id", "order_seq"),
        Index("view_events_by_signal", "signal_id"),
        Index("view_events_by_ts", "ts"),
        {"schema": JOURNAL},
    )

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    ts: Mapped[datetime]
    signal_id: Mapped[UUID | None]
    order_id: Mapped[UUID | None]
    order_seq: Mapped[int | None]
    correlation_id: Mapped[UUID]
    data: Mapped[dict[str, Any]]


# paper exchange: the paper broker's own book, never read by the journal's code ---------------------------------------------


class ExchangeOrderRow(Base):
    """An order the paper exchange accepted. Unique by tag: placing twice books once."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("exchange_orders_open", "instrument_token", postgresql_where=text("NOT done")),
        Index("exchange_orders_by_day", "trading_day"),
        {"schema": PAPER_EXCHANGE_SCHEMA},
    )

    broker_order_id: Mapped[str] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(unique=True)
    trading_day: Mapped[date]
    exchange: Mapped[str]
    tradingsymbol: Mapped[str]
    instrument_token: Mapped[int] = mapped_column(BigInteger)
    instrument_type: Mapped[str]
    tick_size: Mapped[Decimal]
    side: Mapped[str]
    order_type: Mapped[str]
    product: Mapped[str]
    validity: Mapped[str]
    quantity: Mapped[int]
    price: Mapped[Decimal | None]
    trigger_price: Mapped[Decimal | None]
    market_protection: Mapped[Decimal | None]
    status: Mapped[str]
    status_message: Mapped[str | None]
    triggered: Mapped[bool] = mapped_column(server_default=text("false"))
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    modifications: Mapped[int] = mapped_column(server_default=text("0"))
    filled_quantity: Mapped[int] = mapped_column(server_default=text("0"))
    average_price: Mapped[Decimal | None]
    accepted_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    done: Mapped[bool] = mapped_column(server_default=text("false"))


class ExchangeTradeRow(Base):
    """One execution on the paper exchange. The trade id is derived, so a fill is booked at most once."""

    __tablename__ = "trades"
    __table_args__ = (Index("exchange_trades_by_order", "broker_order_id"), {"schema": PAPER_EXCHANGE_SCHEMA})

    trade_id: Mapped[str] = mapped_column(primary_key=True)
    broker_order_id: Mapped[str]
    trading_day: Mapped[date]
    quantity: Mapped[int]
    price: Mapped[Decimal]
    tick_id: Mapped[UUID]
    filled_at: Mapped[datetime]


JOURNAL_TABLES = [table for table in Base.metadata.sorted_tables if table.schema == JOURNAL]
CONFIG_TABLES = [table for table in Base.metadata.sorted_tables if table.schema == CONFIG_SCHEMA]
EXCHANGE_TABLES = [table for table in Base.metadata.sorted_tables if table.schema == PAPER_EXCHANGE_SCHEMA]
VIEW_TABLES = frozenset({"view_orders", "view_events", "view_reconciliations", "view_pnl_minutes"})
