"""Zerodha's JSON rows, as the SDK hands them over, in the port's words. Pure apart from one log line.

Never guesses: a row without its id or status makes the whole book unreadable; rows of the trader's own in words we do not
trade in (MTF, cover orders, mutual funds) are left out and said once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from core import logging
from core.brokers.port import BOOK_ENDS, BookRow, BrokerPosition, Funds, Trade
from core.clock import IST, parse_kite_time
from core.trading.types import Exchange, OrderType, Product, Side

log = logging.get(__name__)

_said: set[str] = set()


class ForeignBook(ValueError):
    """The rows belong to another account."""


def money(value: Any) -> Decimal | None:
    """Rupees from JSON's number, by way of its text; Kite writes 0 for "none"."""
    amount = Decimal(str(value)) if value is not None else Decimal(0)
    return amount or None


def moment(value: Any) -> datetime | None:
    """Aware UTC from what the SDK makes of Kite's timestamps: naive datetimes in IST, or the 19-character text."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=IST)).astimezone(UTC)
    if isinstance(value, str) and len(value) == 19:
        return parse_kite_time(value)
    return None


def book_rows(found: list[dict[str, Any]], account: str, wanted: Collection[str] | None = None) -> tuple[BookRow, ...]:
    """GET /orders as book rows; of these orders, or all.

    Raises:
        ForeignBook: no row names this account though rows name accounts.
        KeyError, TypeError, ValueError: a row that cannot be read.
    """
    _check_account(found, account)
    return tuple(
        _book_row(row)
        for row in found
        if (wanted is None or str(row["order_id"]) in wanted) and _speaks_our_words(row, "order_id", *_WORDS)
    )


def _check_account(found: Iterable[dict[str, Any]], account: str) -> None:
    """`account_id` names the owner where there is one; `placed_by` may also be Zerodha's own desk (square-off)."""
    owners = {str(row["account_id"]) for row in found if row.get("account_id")}
    placed_by = {str(row["placed_by"]) for row in found if row.get("placed_by")}
    if (owners and owners != {account}) or (not owners and placed_by and account not in placed_by):
        raise ForeignBook(f"the book is not {account}'s: it names {', '.join(sorted(owners or placed_by))}")


_WORDS: dict[str, frozenset[str]] = {
    "product": frozenset(Product),
    "exchange": frozenset(Exchange),
    "transaction_type": frozenset(Side),
    "order_type": frozenset(OrderType),
}


def _odd(row: dict[str, Any], fields: Iterable[str]) -> list[str]:
    return [f"{name}={row[name]}" for name in fields if row[name] not in _WORDS[name]]


def odd_orders(found: list[dict[str, Any]]) -> tuple[str, ...]:
    """Working orders that `book_rows` leaves out, in words."""
    working = (row for row in found if row["status"] not in BOOK_ENDS)
    return tuple(
        f"order {row['transaction_type']} {row['quantity']} {row['tradingsymbol']} ({row['order_id']}): {', '.join(odd)}"
        for row in working
        if (odd := _odd(row, _WORDS))
    )


def odd_positions(found: dict[str, Any]) -> tuple[str, ...]:
    """Open positions that `positions` leaves out, in words."""
    return tuple(
        f"position {row['quantity']:+d} {row['tradingsymbol']}: {', '.join(odd)}"
        for row in found["net"]
        if int(row["quantity"]) and (odd := _odd(row, ("product", "exchange")))
    )


def _speaks_our_words(row: dict[str, Any], id_field: str, *fields: str) -> bool:
    odd = _odd(row, fields)
    if odd and row[id_field] not in _said:
        _said.add(row[id_field])
        log.warning("broker row left out: not something we trade", id=row[id_field], odd=", ".join(odd))
    return not odd


def _book_row(row: dict[str, Any]) -> BookRow:
    tags = [row.get("tag"), *(row.get("tags") or ())]
    return BookRow(
        broker_order_id=str(row["order_id"]),
        tags=tuple(dict.fromkeys(str(tag) for tag in tags if tag)),
        status=str(row["status"]),
        status_message=row.get("status_message") or row.get("status_message_raw"),
        exchange=Exchange(row["exchange"]),
        tradingsymbol=str(row["tradingsymbol"]),
        instrument_token=int(row["instrument_token"]),
        side=Side(row["transaction_type"]),
        product=Product(row["product"]),
        order_type=OrderType(row["order_type"]),
        quantity=int(row["quantity"]),
        filled_quantity=int(row["filled_quantity"]),
        cancelled_quantity=int(row.get("cancelled_quantity") or 0),
        average_price=money(row.get("average_price")),
        price=money(row.get("price")),
        trigger_price=money(row.get("trigger_price")),
        order_at=moment(row.get("order_timestamp")),
        raw=row,
    )


def trades(found: list[dict[str, Any]], wanted: Collection[str]) -> tuple[Trade, ...]:
    """GET /trades, of these orders. Raises as `book_rows`."""
    return tuple(_trade(row) for row in found if str(row["order_id"]) in wanted)


def _trade(row: dict[str, Any]) -> Trade:
    filled_at = moment(row.get("fill_timestamp")) or moment(row.get("exchange_timestamp"))
    price = money(row["average_price"])
    if filled_at is None or price is None:
        raise ValueError(f"trade {row['trade_id']} has no time or no price")
    return Trade(
        trade_id=str(row["trade_id"]),
        broker_order_id=str(row["order_id"]),
        exchange=Exchange(row["exchange"]),
        tradingsymbol=str(row["tradingsymbol"]),
        instrument_token=int(row["instrument_token"]),
        side=Side(row["transaction_type"]),
        product=Product(row["product"]),
        quantity=int(row["quantity"]),
        price=price,
        filled_at=filled_at,
    )


def positions(found: dict[str, Any]) -> tuple[BrokerPosition, ...]:
    """GET /portfolio/positions, the net ones that are open."""
    fields = ("product", "exchange")
    rows = [row for row in found["net"] if int(row["quantity"]) and _speaks_our_words(row, "tradingsymbol", *fields)]
    return tuple(
        BrokerPosition(
            exchange=Exchange(row["exchange"]),
            tradingsymbol=str(row["tradingsymbol"]),
            instrument_token=int(row["instrument_token"]),
            product=Product(row["product"]),
            quantity=int(row["quantity"]),
            average_price=Decimal(str(row["average_price"])),
        )
        for row in rows
    )


def funds(found: dict[str, Any]) -> Funds:
    """GET /user/margins/equity: `net` is what new orders may use."""
    return Funds(Decimal(str(found["net"])), Decimal(str(found["utilised"]["debits"])))
