"""What a kill switch's workflow and its activities say to each other: names and models. Models only ever gain optional fields.

Deterministic and free of I/O: workflows import it.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict

from core.trading.durations import OrderDurations
from core.trading.types import Broker

KILL_WORKFLOW = "KillSwitchWorkflow"

ENGAGE = "engage_kill"
CANCEL_ORDERS = "cancel_orders_for_kill"
SEE_ACCOUNT = "see_account_for_kill"
EXIT_POSITIONS = "exit_positions_for_kill"
CLOSE_FOREIGN = "close_foreign_for_kill"
FINISH = "finish_kill"

LOOK = "look"
"""Workflow signal: something changed (a release, a person's decision): look now instead of at the next timer."""

SOURCE = "kill"
"""`source` of the exits a kill switch asks for."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class AccountPosition(_Model):
    """Net position of the account at the broker, in units."""

    instrument: str
    product: str
    quantity: int
    instrument_token: int


class AccountOrder(_Model):
    """A working row of the broker's book."""

    broker_order_id: str
    tags: tuple[str, ...]
    what: str


class AccountUnbooked(_Model):
    """A row of the book that is ours and shows more filled than the journal has booked."""

    order_id: UUID
    strategy_id: str
    instrument: str
    product: str
    what: str


class AccountSeen(_Model):
    """What the broker shows of the account."""

    positions: tuple[AccountPosition, ...] = ()
    working: tuple[AccountOrder, ...] = ()
    unbooked: tuple[AccountUnbooked, ...] = ()
    """Ours, to be booked: what they make of a position is not somebody else's."""
    flattened: tuple[tuple[str, str], ...] = ()
    """Instrument and product of positions in which `flatten --direct` did something that is to be booked."""


class KillOrder(_Model):
    """One of our orders that has not ended."""

    order_id: UUID
    what: str
    status: str
    ours_to_wait_for: bool = False
    """An exit of this kill switch itself: not cancelled, followed."""


class KillNet(_Model):
    """One (instrument, product): our net by the journal, the broker's, what working exits take, and what stands in the way."""

    instrument: str
    product: str
    ours: int
    at_broker: int
    exiting: int = 0
    note: str = ""


class KillView(_Model):
    """Where a kill switch stands."""

    working: tuple[KillOrder, ...] = ()
    nets: tuple[KillNet, ...] = ()
    waits: tuple[str, ...] = ()
    """Why it goes no faster, in words for a person: an order in doubt, a denied exit."""
    closed: tuple[str, ...] = ()
    """Exits that wait until their exchange opens."""
    stuck: tuple[str, ...] = ()
    """What only a person can mend."""
    exits: int = 0
    """Exits asked for so far."""
    alerts: tuple[str, ...] = ()
    """What a person is told at once: exits that were made smaller because somebody else closed what they were to close."""
    foreign: tuple[str, ...] = ()
    """Orders and positions of the account that are not ours."""
    foreign_open: bool = False
    """Some of them are still to be closed, because a person asked for it."""
    released: bool = False
    over: tuple[str, ...] = ()
    """Exits of what is not ours that were sent and of which nobody will learn the end, as their trading day is over."""

    @property
    def is_flat(self) -> bool:
        """None of our orders works and our net is zero."""
        return not self.working and not any(net.ours for net in self.nets) and not self.foreign_open


class KillInput(_Model):
    """Input of KillSwitchWorkflow, one a broker. `strategy_id` None: the whole account."""

    kill_id: UUID
    broker: Broker
    account: str
    strategy_id: str | None
    requested_by: str
    reason: str
    include_foreign: bool
    durations: OrderDurations
    resumed: KillView | None = None
    """Set by continue-as-new alone."""
    story: tuple[str, ...] = ()


class SeenInput(_Model):
    kill: KillInput
    seen: AccountSeen


class FinishInput(_Model):
    kill: KillInput
    view: KillView
    story: tuple[str, ...]


def scope(kill: KillInput) -> str:
    """`all of zerodha`, or `momentum on zerodha`."""
    return f"{kill.strategy_id} on {kill.broker}" if kill.strategy_id else f"all of {kill.broker}"
