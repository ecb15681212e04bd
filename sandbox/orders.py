"""An order as Kite keeps it: its fields, its book row and its postback. Holds facts; the exchange decides what happens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from core.trading.matching import RestingOrder
from core.trading.types import OrderType, Side, Validity
from sandbox.wire import dumps, ist, number, rupees


class Status(StrEnum):
    """Kite's words for where an order stands."""

    RECEIVED = "PUT ORDER REQ RECEIVED"
    VALIDATION_PENDING = "VALIDATION PENDING"
    OPEN_PENDING = "OPEN PENDING"
    OPEN = "OPEN"
    TRIGGER_PENDING = "TRIGGER PENDING"
    MODIFY_VALIDATION_PENDING = "MODIFY VALIDATION PENDING"
    MODIFY_PENDING = "MODIFY PENDING"
    MODIFIED = "MODIFIED"
    CANCEL_PENDING = "CANCEL PENDING"
    COMPLETE = "COMPLETE"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"

    @property
    def is_end(self) -> bool:
        return self in _ENDS


_ENDS = frozenset({Status.COMPLETE, Status.CANCELLED, Status.REJECTED})
UPDATE = "UPDATE"
"""The status of a postback for a partial fill or a modification."""

API, APP, RMS = "api", "app", "rms"
"""Sources of an order: our client, the user's Kite app, the broker's risk desk."""

RISK_DESK = "ADMINSQF"
"""`placed_by` of the risk desk's orders (assumed)."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A placement that passed validation. Prices in paise (0: none); MARKET and SL-M are converted already."""

    variety: str
    exchange: str
    tradingsymbol: str
    token: int
    side: Side
    order_type: OrderType
    product: str
    validity: Validity
    quantity: int
    disclosed_quantity: int
    price: int
    trigger_price: int
    tag: str | None
    system_tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What a modification sets, all fields, prices in paise."""

    order_type: OrderType
    validity: Validity
    quantity: int
    disclosed_quantity: int
    price: int
    trigger_price: int


@dataclass(slots=True)
class Order:
    """Mutable only by the exchange. Prices in paise, quantities in units, times aware UTC."""

    order_id: str
    seq: int
    day: date
    user_id: str
    request: OrderRequest
    status: Status
    terms: Change
    placed_at: datetime
    updated_at: datetime
    exchange_order_id: str | None = None
    exchange_at: datetime | None = None
    exchange_updated_at: datetime | None = None
    accepted_at: datetime | None = None
    status_message: str | None = None
    status_message_raw: str | None = None
    filled: int = 0
    filled_value: int = 0
    cancelled: int = 0
    triggered: bool = False
    modified: bool = False
    modifications: int = 0
    change: Change | None = None
    cancel_asked: bool = False
    states: int = 0
    source: str = API
    """Who placed it: API, APP or RMS."""

    _row: bytes | None = field(default=None, repr=False)

    @property
    def live(self) -> bool:
        """True while the exchange holds it: it can fill, whatever modification or cancellation is on its way."""
        return self.accepted_at is not None and not self.status.is_end

    @property
    def pending(self) -> int:
        return self.terms.quantity - self.filled

    @property
    def average_price(self) -> Decimal:
        """Rupees a unit over all fills, 0 before the first."""
        if not self.filled:
            return Decimal(0)
        return round(Decimal(self.filled_value) / self.filled / 100, 6)

    def resting(self) -> RestingOrder:
        assert self.accepted_at is not None
        terms = self.terms
        return RestingOrder(
            self.order_id, self.request.side, terms.order_type, terms.validity, terms.quantity, self.filled,
            Decimal(terms.price) / 100, Decimal(terms.trigger_price) / 100 if terms.trigger_price else None,
            self.triggered, self.accepted_at,
        )  # fmt: skip

    def touched(self) -> None:
        self._row = None

    def row_json(self) -> bytes:
        """The order book's row, encoded once a change."""
        if self._row is None:
            self._row = dumps(self.row())
        return self._row

    def row(self) -> dict[str, Any]:
        """Keys and order as in Zerodha's published order book."""
        request, terms = self.request, self.terms
        tags = [*([request.tag] if request.tag else []), *request.system_tags]
        row: dict[str, Any] = {"account_id": self.user_id, **self._identity()}
        row |= {
            "variety": request.variety,
            "modified": self.modified,
            **self._what(),
            "validity": str(terms.validity),
            "validity_ttl": 0,
            **self._figures(),
            "tag": request.tag,
        }
        if tags:
            row["tags"] = tags
        row["guid"] = None
        return row

    def postback(self, app_id: int, status: str, api_secret: str | None) -> dict[str, Any]:
        """The published postback's keys. Without a secret (WebSocket frames) the checksum is blank."""
        stamp = ist(self.updated_at) or ""
        digest = hashlib.sha256(f"{self.order_id}{stamp}{api_secret}".encode()).hexdigest() if api_secret else ""
        return {
            "user_id": self.user_id,
            "unfilled_quantity": self.pending if not self.status.is_end else 0,
            "app_id": app_id,
            "checksum": digest,
            **self._identity(),
            "status": status,
            "variety": self.request.variety,
            **self._what(),
            "validity": str(self.terms.validity),
            **self._figures(),
            "tag": self.request.tag,
            "guid": None,
        }

    def _identity(self) -> dict[str, Any]:
        return {
            "placed_by": RISK_DESK if self.source == RMS else self.user_id,
            "order_id": self.order_id,
            "exchange_order_id": self.exchange_order_id,
            "parent_order_id": None,
            "status": str(self.status),
            "status_message": self.status_message,
            "status_message_raw": self.status_message_raw,
            "order_timestamp": ist(self.updated_at),
            "exchange_update_timestamp": ist(self.exchange_updated_at),
            "exchange_timestamp": ist(self.exchange_at),
        }

    def _what(self) -> dict[str, Any]:
        return {
            "exchange": self.request.exchange,
            "tradingsymbol": self.request.tradingsymbol,
            "instrument_token": self.request.token,
            "order_type": str(self.terms.order_type),
            "transaction_type": str(self.request.side),
        }

    def _figures(self) -> dict[str, Any]:
        pending = 0 if self.status in {Status.COMPLETE, Status.REJECTED} else self.pending
        return {
            "product": self.request.product,
            "quantity": self.terms.quantity,
            "disclosed_quantity": self.terms.disclosed_quantity,
            "price": rupees(self.terms.price),
            "trigger_price": rupees(self.terms.trigger_price),
            "average_price": number(self.average_price),
            "filled_quantity": self.filled,
            "pending_quantity": pending,
            "cancelled_quantity": self.cancelled,
            "market_protection": 0,
            "meta": {},
        }

    def doc(self) -> str:
        """Everything, as the store keeps it."""
        values = asdict(self)
        del values["_row"]
        return json.dumps(values, default=_encode)

    @classmethod
    def from_doc(cls, text: str) -> Order:
        values = json.loads(text)
        values["day"] = date.fromisoformat(values["day"])
        values["status"] = Status(values["status"])
        request = values["request"]
        request |= {"side": Side(request["side"]), "order_type": OrderType(request["order_type"])}
        request |= {"validity": Validity(request["validity"]), "system_tags": tuple(request["system_tags"])}
        values["request"] = OrderRequest(**request)
        values["terms"] = _change(values["terms"])
        values["change"] = None if values["change"] is None else _change(values["change"])
        for name in (each.name for each in fields(cls) if each.name.endswith("_at")):
            values[name] = None if values[name] is None else datetime.fromisoformat(values[name])
        return cls(**values)


def _change(values: dict[str, Any]) -> Change:
    return Change(**{
        **values, "order_type": OrderType(values["order_type"]), "validity": Validity(values["validity"])
    })  # fmt: skip


def _encode(value: object) -> str:
    if isinstance(value, date):  # datetimes are dates too
        return value.isoformat()
    raise TypeError(f"cannot store {value!r}")


def trade_row(order: Order, trade_id: str, paise: int, quantity: int, at: datetime) -> dict[str, Any]:
    """A row of GET /trades."""
    stamp = ist(at) or ""
    return {
        "trade_id": trade_id,
        "order_id": order.order_id,
        "exchange": order.request.exchange,
        "tradingsymbol": order.request.tradingsymbol,
        "instrument_token": order.request.token,
        "product": order.request.product,
        "average_price": rupees(paise),
        "quantity": quantity,
        "exchange_order_id": order.exchange_order_id,
        "transaction_type": str(order.request.side),
        "fill_timestamp": stamp,
        "order_timestamp": stamp[11:],
        "exchange_timestamp": stamp,
    }


def ledger_entry(order: Order) -> dict[str, Any]:
    """What the ledger keeps of an acceptance, as placed."""
    request = order.request
    return {
        "order_id": order.order_id,
        "tag": request.tag,
        "exchange": request.exchange,
        "tradingsymbol": request.tradingsymbol,
        "instrument_token": request.token,
        "transaction_type": str(request.side),
        "quantity": request.quantity,
        "order_type": str(request.order_type),
        "product": request.product,
        "validity": str(request.validity),
        "price": rupees(request.price),
        "trigger_price": rupees(request.trigger_price),
        "accepted_at": order.placed_at.isoformat(),
    }
