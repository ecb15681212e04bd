"""Positions, PnL and charges recomputed from a broker's own trades, apart from the code under test: plain fractions, no rounding.

Rules: average cost, folded by (fill time, trade id); NSE intraday equity charges of 1 April 2026 (zerodha.com/charges).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

HALF_A_PAISA = Fraction(5, 1000)
CENTIPAISA = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Deal:
    """One execution with its side (+1 bought, -1 sold)."""

    at: datetime
    trade_id: str
    broker_order_id: str
    sign: int
    quantity: int
    price: Decimal


@dataclass(frozen=True, slots=True)
class Held:
    """What a list of deals adds up to. Rupees; `realized` is gross."""

    quantity: int
    average: Fraction
    realized: Fraction
    charges: Decimal


def fold(deals: Iterable[Deal]) -> Held:
    """Average cost over the deals of one position."""
    ordered = sorted(deals, key=lambda one: (one.at, one.trade_id, one.broker_order_id))
    quantity, cost, realized = 0, Fraction(0), Fraction(0)
    for one in ordered:
        signed, price = one.sign * one.quantity, Fraction(one.price)
        if quantity * signed >= 0:
            quantity, cost = quantity + signed, cost + signed * price
            continue
        average = cost / quantity
        closed = min(abs(quantity), one.quantity)
        direction = 1 if quantity > 0 else -1
        realized += (price - average) * closed * direction
        before, quantity = quantity, quantity + signed
        crossed = quantity * before < 0
        cost = quantity * (price if crossed else average)
    average = cost / quantity if quantity else Fraction(0)
    return Held(quantity, average, realized, sum((charges_of(rows) for rows in _by_order(ordered)), Decimal(0)))


def _by_order(deals: Iterable[Deal]) -> list[list[Deal]]:
    found: dict[str, list[Deal]] = {}
    for one in deals:
        found.setdefault(one.broker_order_id, []).append(one)
    return list(found.values())


def charges_of(deals: list[Deal]) -> Decimal:
    """Charges of one order's deals: each component of each fill to a hundredth of a paisa, brokerage capped per order."""
    total, turnover = Decimal(0), Decimal(0)
    for one in deals:
        value = one.price * one.quantity
        brokerage = _brokerage(turnover + value) - _brokerage(turnover)
        turnover += value
        exchange = _round(value * Decimal("0.0000307"))
        sebi = _round(value * Decimal("0.000001"))
        stt = _round(value * Decimal("0.00025")) if one.sign < 0 else Decimal(0)
        stamp = _round(value * Decimal("0.00003")) if one.sign > 0 else Decimal(0)
        total += brokerage + exchange + sebi + stt + stamp + _round((brokerage + exchange + sebi) * Decimal("0.18"))
    return total


def _brokerage(turnover: Decimal) -> Decimal:
    return _round(min(turnover * Decimal("0.0003"), Decimal(20)))


def _round(amount: Decimal) -> Decimal:
    return amount.quantize(CENTIPAISA, ROUND_HALF_EVEN)


def same(one: Fraction | Decimal, other: Fraction | Decimal) -> bool:
    """Equal to the paisa."""
    return abs(Fraction(one) - Fraction(other)) < HALF_A_PAISA


def average_of(deals: Iterable[Deal]) -> Fraction | None:
    """Volume-weighted price of an order's fills."""
    rows = list(deals)
    quantity = sum(one.quantity for one in rows)
    return sum((Fraction(one.price) * one.quantity for one in rows), Fraction(0)) / quantity if quantity else None
