"""The field's words as types: sides, order types, products, states. Pure: no I/O, no clock."""

from __future__ import annotations

from enum import StrEnum


class Broker(StrEnum):
    """Where orders go. Never mixed: topics, schemas, keys, queues and processes are all per broker."""

    PAPER = "paper"
    ZERODHA = "zerodha"


class Side(StrEnum):
    BUY = "BUY"
    SELL = "SELL"

    @property
    def sign(self) -> int:
        """+1 for BUY, -1 for SELL: what one unit does to a position."""
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY


class Intent(StrEnum):
    """ENTRY opens or adds and expires when old; EXIT is a goal (towards zero) and never expires."""

    ENTRY = "ENTRY"
    EXIT = "EXIT"


class OrderType(StrEnum):
    MARKET = "MARKET"
    LIMIT = "LIMIT"
    SL = "SL"
    SL_M = "SL-M"


class Product(StrEnum):
    CNC = "CNC"
    MIS = "MIS"
    NRML = "NRML"


class Validity(StrEnum):
    DAY = "DAY"
    IOC = "IOC"
    TTL = "TTL"


class Exchange(StrEnum):
    NSE = "NSE"
    BSE = "BSE"
    NFO = "NFO"
    BFO = "BFO"
    CDS = "CDS"
    BCD = "BCD"
    MCX = "MCX"


class OrderStatus(StrEnum):
    """An order's life as we record it (the broker's own words are BookStatus)."""

    PENDING = "PENDING"
    SUBMITTED = "SUBMITTED"
    ACKED = "ACKED"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    UNRESOLVED = "UNRESOLVED"

    @property
    def is_end(self) -> bool:
        return self in _ENDS


_ENDS = frozenset({OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.REJECTED, OrderStatus.EXPIRED})


class SendState(StrEnum):
    """One attempt to hand an order to the broker. Only INTENT may be sent, and only by whoever claims it."""

    INTENT = "INTENT"
    SENDING = "SENDING"
    SENT = "SENT"
    REFUSED = "REFUSED"
    UNKNOWN = "UNKNOWN"
    ABSENT = "ABSENT"
    LATE = "LATE"
    """Given up, or its order has ended, and its row turned up still working: it is being cancelled."""
    LATE_ENDED = "LATE_ENDED"


class KiteTarget(StrEnum):
    """Which servers the zerodha broker talks to."""

    LOCAL = "local"
    ZERODHA_SANDBOX = "zerodha-sandbox"
    PRODUCTION = "production"
