"""What an order's workflow and its activities say to each other: names and models. Models only ever gain optional fields.

Deterministic and free of I/O: workflows import it.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from temporalio.common import SearchAttributeKey

from core.trading.commands import CommandKind
from core.trading.durations import OrderDurations
from core.trading.types import Broker, Intent, OrderStatus, OrderType, Side

ORDER_WORKFLOW = "OrderWorkflow"

PLACE_ORDER = "place_order"
LOOK_AT_BOOK = "look_at_book"
LOOK_UP_BY_TAG = "look_up_by_tag"
PUBLISH_EVENTS = "publish_events"
RAISE_ALERT = "raise_alert"
CARRY_OUT = "carry_out_command"
ADOPT_LATE_ROW = "adopt_late_row"

HINT = "hint"
COMMAND = "command"

URGENT = 1
"""Temporal task priorities: 1 overtakes everything waiting in the same queue. Exits and cancels."""
COMMANDED = 2
"""What else people and programs ask."""
NORMAL = 3
"""Entries, in their own queue; looks and look-ups, in the urgent one: there are many, and none is in a hurry."""

SA_BROKER = SearchAttributeKey.for_keyword("Broker")
SA_STRATEGY = SearchAttributeKey.for_keyword("StrategyId")
SA_SYMBOL = SearchAttributeKey.for_keyword("Symbol")
SA_SIDE = SearchAttributeKey.for_keyword("Side")
SA_STATUS = SearchAttributeKey.for_keyword("OrderStatus")
SA_BROKER_ORDER = SearchAttributeKey.for_keyword("BrokerOrderId")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class OrderView(_Model):
    """An order as the journal holds it after an activity. Money in rupees, gross PnL; `quantity` is what was sent."""

    status: OrderStatus
    send_no: int
    quantity: int
    filled_quantity: int = 0
    average_price: Decimal | None = None
    broker_order_id: str | None = None
    realized_pnl: Decimal = Decimal(0)
    charges: Decimal = Decimal(0)
    reason: str | None = None
    lagging: bool = False
    """The book counts more than the trades listed so far: look again soon."""
    missing: bool = False
    """Today's book does not list the order, long after the broker gave it an id."""
    short: bool = False
    """An exit that ended before its goal."""
    evidence: str | None = None
    waits: str | None = None
    """Why an exit is not sent yet: another order of its instrument is in doubt."""
    unexited: str | None = None
    """What of the position no exit is about to close though one was to: an entry filled on after an exit decided later had ended."""


class CommandInput(_Model):
    """A workflow signal: carry out this journalled command. What it asks stands in the journal."""

    request_id: UUID
    kind: CommandKind


class OrderInput(_Model):
    """Input of OrderWorkflow. The journal holds the order itself; this is what tells the story and routes the calls."""

    order_id: UUID
    broker: Broker
    correlation_id: UUID
    strategy_id: str
    instance: str
    symbol: str
    side: Side
    intent: Intent
    order_type: OrderType
    quantity: int
    price: Decimal | None
    origin_at: datetime
    requested_by: str
    account: str
    target: str
    durations: OrderDurations
    send_no: int = 1
    resumed: OrderView | None = None
    """Set by continue-as-new alone."""
    story: tuple[str, ...] = ()
    commands: tuple[CommandInput, ...] = ()
    """Commands without an outcome: set by continue-as-new, and by whoever starts a lost workflow again."""
    files_late: bool = False
    """Search attributes are written when the order rests, needs a person or ends, not at each step of a fast one: each write costs the
    server as much as a quarter of an activity. Runs begun without this go on writing at each step."""


class PlaceInput(_Model):
    order_id: UUID
    send_no: int
    durations: OrderDurations


class LookInput(_Model):
    """`account` and `target` are those the order was decided for; looks of runs begun without them ask the journal."""

    order_id: UUID
    send_no: int
    broker_order_id: str | None
    durations: OrderDurations
    account: str | None = None
    target: str | None = None


class CommandCall(_Model):
    """Carry out a command on an order as far as it goes now."""

    request_id: UUID
    order_id: UUID
    durations: OrderDurations


class CommandNext(StrEnum):
    DONE = "DONE"
    WHEN_KNOWN = "WHEN_KNOWN"
    """Again once the order's status, send or broker order id has changed."""
    LATER = "LATER"


class CommandResult(_Model):
    """Where the order stands after it, what was done, and when to go on with the command."""

    view: OrderView
    next: CommandNext
    told: str


class LateRowInput(_Model):
    """A row of the broker's book with one of our tags, of a send that was given up or an order that has ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    broker_order_id: str


class LateRowView(_Model):
    """What the late row came to. `adopted` is true the first time: then a person should be alerted."""

    order_id: UUID | None = None
    """None: no row of ours, or its workflow follows it."""
    adopted: bool = False
    fills_booked: int = 0
    working: bool = False
    """The book showed it still working: a cancel was asked for. Look again."""
    told: str = ""


class AlertInput(_Model):
    kind: str
    subject: str
    message: str
    action: str
    correlation_id: UUID | None = None


class BrokerHint(_Model):
    """Something may have changed at the broker: look at the book."""

    status: str
    source: str


def headline(order: OrderInput) -> str:
    """`BUY 50 INFY @ 1500.00 · momentum`; under Temporal's 200 bytes."""
    at = f"@ {order.price}" if order.price is not None else f"@ {order.order_type}"
    return f"{order.side} {order.quantity} {order.symbol} {at} · {order.strategy_id}"[:180]
