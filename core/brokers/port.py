"""The one port both brokers implement: place, modify, cancel, book, order, trades, positions, funds.

Two independent implementations, no shared behaviour. Every method raises only core.errors: NotPlaced (certain),
OutcomeUnknown (the book must tell), SessionExpired (waits for a login), Transient (a read that may be tried again).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Protocol

from core.trading.types import Broker, Exchange, OrderType, Product, Side, Validity

BOOK_ENDS = frozenset({"COMPLETE", "CANCELLED", "REJECTED"})
"""Kite's terminal statuses; every other string, known or not, is not terminal (kite.trade/docs/connect/v3/orders)."""

BOOK_ACKED = frozenset(
    {"OPEN", "TRIGGER PENDING", "MODIFIED", "MODIFY PENDING", "MODIFY VALIDATION PENDING", "CANCEL PENDING"}
)
"""Statuses that show the exchange has the order."""


@dataclass(frozen=True, slots=True)
class PlaceRequest:
    """One order to hand over. Prices in rupees, quantity in units.

    `deadline` is a time.monotonic() value: past it, do not send.
    """

    tag: str
    exchange: Exchange
    tradingsymbol: str
    instrument_token: int
    instrument_type: str
    tick_size: Decimal
    side: Side
    quantity: int
    order_type: OrderType
    product: Product
    validity: Validity
    price: Decimal | None
    trigger_price: Decimal | None
    deadline: float
    leaves: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """Called, in whatever thread, as the first byte leaves."""


@dataclass(frozen=True, slots=True)
class BookRow:
    """One row of the broker's order book. `average_price` is only a hint before COMPLETE: trades are the truth."""

    broker_order_id: str
    tags: tuple[str, ...]
    status: str
    status_message: str | None
    exchange: Exchange
    tradingsymbol: str
    instrument_token: int
    side: Side
    product: Product
    order_type: OrderType
    quantity: int
    filled_quantity: int
    cancelled_quantity: int
    average_price: Decimal | None
    price: Decimal | None
    trigger_price: Decimal | None
    order_at: datetime | None
    raw: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_end(self) -> bool:
        return self.status in BOOK_ENDS

    @property
    def is_acked(self) -> bool:
        """The exchange has, or had, the order."""
        return self.status in BOOK_ACKED or self.status in {"COMPLETE", "CANCELLED"} or self.filled_quantity > 0


@dataclass(frozen=True, slots=True)
class Book:
    """The account's whole order book of one trading day, with what makes it evidence."""

    account: str
    trading_day: date
    requested_at: datetime
    received_at: datetime
    rows: tuple[BookRow, ...]


@dataclass(frozen=True, slots=True)
class Trade:
    """One execution as the broker lists it."""

    trade_id: str
    broker_order_id: str
    exchange: Exchange
    tradingsymbol: str
    instrument_token: int
    side: Side
    product: Product
    quantity: int
    price: Decimal
    filled_at: datetime


@dataclass(frozen=True, slots=True)
class BrokerPosition:
    """Net position of the account at the broker."""

    exchange: Exchange
    tradingsymbol: str
    instrument_token: int
    product: Product
    quantity: int
    average_price: Decimal


@dataclass(frozen=True, slots=True)
class BrokerProfile:
    """Limits of a broker. None = no limit. `reserved` is what only exits and cancels may use.

    `read_spacing_s` is the least time between two reads of the same kind; `reads_by_id` says that asking for a few
    orders is cheaper than for the whole book (then `orders` is asked, else `book` is shared among all who ask).
    """

    per_second: int | None
    per_second_reserved: int
    per_minute: int | None
    per_minute_reserved: int
    per_day: int | None
    per_day_reserved: int
    modifications: int | None
    read_spacing_s: float = 0.0
    reads_by_id: bool = False
    delivers: bool = False
    """CNC positions become holdings overnight and leave the positions (kite.trade/docs/connect/v3/portfolio)."""
    empty_book_proves: bool = False
    """Its book cannot be empty by mistake: then an empty one counts as evidence of absence."""
    id_of_tag: Callable[[str], str] | None = None
    """The broker order id that a tag leads to, where the broker derives it: an order of a past day can then be asked for by it."""
    commands_per_second: int | None = None
    """Cancels and modifies together: counted apart from orders, with the reads."""

    @property
    def commands(self) -> BrokerProfile:
        """The limits of cancels and modifies, as a pacer reads them."""
        return BrokerProfile(self.commands_per_second, 0, None, 0, None, 0, self.modifications)


@dataclass(frozen=True, slots=True)
class Funds:
    """Rupees free for new orders and in use."""

    available: Decimal
    utilised: Decimal


class Trader(Protocol):
    """What an order worker may ask of a broker. `account` is who the broker says we are."""

    broker: Broker
    profile: BrokerProfile

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def waits_for(self) -> str | None:
        """Why no command can leave now and what a person should do (a dead session); None where one can. No I/O to the broker."""
        ...

    async def account(self) -> str:
        """The account id as the broker reports it (not as configured)."""
        ...

    async def place(self, request: PlaceRequest) -> str:
        """Hand the order over; returns the broker order id.

        Raises:
            NotPlaced: for certain nothing reached the exchange.
            OutcomeUnknown: only the book can tell.
        """
        ...

    async def modify(
        self,
        broker_order_id: str,
        *,
        quantity: int | None,
        price: Decimal | None,
        trigger_price: Decimal | None,
        order_type: OrderType | None,
        deadline: float,
    ) -> None:
        """Ask for a change of a working order. `deadline` is a time.monotonic() value: past it, it is not sent."""
        ...

    async def cancel(self, broker_order_id: str) -> None:
        """Ask for a cancel; the book alone says whether it happened."""
        ...

    async def book(self) -> Book:
        """The whole book of the present trading day."""
        ...

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        """These orders' rows, missing where the broker does not list them."""
        ...

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        """These orders' trades of the present trading day."""
        ...

    async def positions(self) -> tuple[BrokerPosition, ...]: ...

    async def funds(self) -> Funds: ...
