"""What a fill costs: brokerage, taxes and fees by the dated table of charge_rates. Pure: no I/O, no clock.

An estimate of the contract note, not a copy: STT and stamp duty are not rounded to the rupee, and depository charges on
delivery sells, auto-square-off fees and exercise STT are not here (docs/charges.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal

from core.trading.charge_rates import GST_RATE, RATES, SEBI_RATE, ChargeRates, Segment
from core.trading.types import Exchange, Product, Side

QUANTUM = Decimal("0.0001")
"""Each component is rounded to a hundredth of a paisa."""

_NSE_SIDE = frozenset({Exchange.NSE, Exchange.NFO})
_BSE_SIDE = frozenset({Exchange.BSE, Exchange.BFO})
_OPTION_TYPES = frozenset({"CE", "PE"})


@dataclass(frozen=True, slots=True)
class ChargeBreakdown:
    """One fill's charges in rupees; `total` is the sum of the parts."""

    brokerage: Decimal
    stt: Decimal
    exchange_txn: Decimal
    sebi: Decimal
    stamp: Decimal
    gst: Decimal
    total: Decimal


def charges_for_fill(
    *,
    exchange: Exchange,
    instrument_type: str,
    product: Product,
    side: Side,
    quantity: int,
    price: Decimal,
    on: date,
    order_turnover_before: Decimal = Decimal(0),
) -> ChargeBreakdown:
    """The charges of one fill, rupees, each part rounded to QUANTUM.

    Brokerage is capped per executed order, so a fill is charged what it adds to its order's brokerage: the fills of an
    order add up to the brokerage of the whole.

    Args:
        instrument_type: EQ, FUT, CE or PE as in the instrument dump.
        quantity: units (shares), not lots.
        on: trading day; it chooses the row of the table.
        order_turnover_before: rupees of turnover of the same order's earlier fills.

    Raises:
        ValueError: no rates are known for this exchange, instrument type or day. `check_chargeable` says so beforehand.
    """
    rates = rates_for(exchange, instrument_type, product, on)
    turnover = price * quantity
    brokerage = _brokerage(rates, order_turnover_before + turnover) - _brokerage(rates, order_turnover_before)
    exchange_txn = _round(turnover * (rates.exchange_nse if exchange in _NSE_SIDE else rates.exchange_bse))
    sebi = _round(turnover * SEBI_RATE)
    stt = _round(turnover * (rates.stt_buy if side is Side.BUY else rates.stt_sell))
    stamp = _round(turnover * rates.stamp_buy) if side is Side.BUY else Decimal(0)
    gst = _round((brokerage + exchange_txn + sebi) * GST_RATE)
    total = brokerage + stt + exchange_txn + sebi + stamp + gst
    return ChargeBreakdown(brokerage, stt, exchange_txn, sebi, stamp, gst, total)


def check_chargeable(exchange: Exchange, instrument_type: str, on: date) -> str | None:
    """Why a fill of this instrument could not be charged on this day, or None where it can. Call it before trading."""
    try:
        rates_for(exchange, instrument_type, Product.MIS, on)
    except ValueError as error:
        return str(error)
    return None


def segment_of(instrument_type: str, product: Product) -> Segment:
    """The product decides between intraday and delivery, not whether the position was really held overnight.

    Raises:
        ValueError: an instrument type the table does not know.
    """
    if instrument_type == "EQ":
        return Segment.EQUITY_INTRADAY if product is Product.MIS else Segment.EQUITY_DELIVERY
    if instrument_type == "FUT":
        return Segment.FUTURES
    if instrument_type in _OPTION_TYPES:
        return Segment.OPTIONS
    raise ValueError(f"no charges are known for instrument type {instrument_type!r}: add them to charge_rates.py")


def rates_for(exchange: Exchange, instrument_type: str, product: Product, on: date) -> ChargeRates:
    """The row in force on a trading day.

    Raises:
        ValueError: the table has no rates for this exchange, instrument type or day.
    """
    if exchange not in _NSE_SIDE | _BSE_SIDE:
        raise ValueError(f"no charges are known for exchange {exchange}: add them to charge_rates.py")
    segment = segment_of(instrument_type, product)
    rows = [row for row in RATES if row.segment is segment and row.since <= on]
    if not rows:
        raise ValueError(f"no charges are known for {segment} on {on}: the table in charge_rates.py begins later")
    return max(rows, key=lambda row: row.since)


def _brokerage(rates: ChargeRates, order_turnover: Decimal) -> Decimal:
    """An order's brokerage at this turnover so far."""
    if order_turnover == 0:
        return Decimal(0)
    if rates.brokerage_rate is None:
        return rates.brokerage_cap
    return _round(min(order_turnover * rates.brokerage_rate, rates.brokerage_cap))


def _round(amount: Decimal) -> Decimal:
    return amount.quantize(QUANTUM, ROUND_HALF_EVEN)
