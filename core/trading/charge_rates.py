"""What trading costs at Zerodha, dated: a row holds from its day until the next row of its segment. Data only.

Never edit a row that was in force: add one with its own date and source. docs/charges.md explains it to people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum


class Segment(StrEnum):
    """What decides the rates: the kind of instrument and, for shares, whether they are held overnight."""

    EQUITY_DELIVERY = "equity delivery"
    EQUITY_INTRADAY = "equity intraday"
    FUTURES = "futures"
    OPTIONS = "options"


@dataclass(frozen=True, slots=True)
class ChargeRates:
    """Rates as fractions of turnover (price × quantity; of the premium for options), money in rupees.

    Brokerage is per executed order: `brokerage_rate` of its turnover, at most `brokerage_cap`; with a `brokerage_rate`
    of None the cap itself is charged (flat). `exchange_nse` holds for NSE and NFO, `exchange_bse` for BSE and BFO.
    """

    segment: Segment
    since: date
    brokerage_rate: Decimal | None
    brokerage_cap: Decimal
    stt_buy: Decimal
    stt_sell: Decimal
    exchange_nse: Decimal
    exchange_bse: Decimal
    stamp_buy: Decimal
    source: str


SEBI_RATE = Decimal("0.000001")
"""₹10 a crore, both sides (zerodha.com/charges)."""

GST_RATE = Decimal("0.18")
"""On brokerage + SEBI + exchange transaction charges (zerodha.com/charges)."""

_OCTOBER_2024 = "uniform exchange charges and new STT from 2024-10-01 (exchange circulars; zerodha.com/charges)"
_MARCH_2026 = "NSE charges from 2026-03-01, investor protection levy included (zerodha.com/charges, read 2026-10-07)"
_APRIL_2026 = "STT on futures and options from 2026-04-01 (Finance Act 2026; cleartax.in securities-transaction-tax)"


def _percent(text: str) -> Decimal:
    return Decimal(text) / 100


def _delivery(since: date, nse: str, source: str) -> ChargeRates:
    return ChargeRates(
        segment=Segment.EQUITY_DELIVERY,
        since=since,
        brokerage_rate=Decimal(0),
        brokerage_cap=Decimal(0),
        stt_buy=_percent("0.1"),
        stt_sell=_percent("0.1"),
        exchange_nse=_percent(nse),
        exchange_bse=_percent("0.00375"),
        stamp_buy=_percent("0.015"),
        source=source,
    )


def _intraday(since: date, nse: str, source: str) -> ChargeRates:
    return ChargeRates(
        segment=Segment.EQUITY_INTRADAY,
        since=since,
        brokerage_rate=_percent("0.03"),
        brokerage_cap=Decimal(20),
        stt_buy=Decimal(0),
        stt_sell=_percent("0.025"),
        exchange_nse=_percent(nse),
        exchange_bse=_percent("0.00375"),
        stamp_buy=_percent("0.003"),
        source=source,
    )


def _futures(since: date, stt: str, nse: str, source: str) -> ChargeRates:
    return ChargeRates(
        segment=Segment.FUTURES,
        since=since,
        brokerage_rate=_percent("0.03"),
        brokerage_cap=Decimal(20),
        stt_buy=Decimal(0),
        stt_sell=_percent(stt),
        exchange_nse=_percent(nse),
        exchange_bse=Decimal(0),
        stamp_buy=_percent("0.002"),
        source=source,
    )


def _options(since: date, stt: str, nse: str, source: str) -> ChargeRates:
    return ChargeRates(
        segment=Segment.OPTIONS,
        since=since,
        brokerage_rate=None,
        brokerage_cap=Decimal(20),
        stt_buy=Decimal(0),
        stt_sell=_percent(stt),
        exchange_nse=_percent(nse),
        exchange_bse=_percent("0.0325"),
        stamp_buy=_percent("0.003"),
        source=source,
    )


RATES: tuple[ChargeRates, ...] = (
    _delivery(date(2024, 10, 1), "0.00297", _OCTOBER_2024),
    _delivery(date(2026, 3, 1), "0.00307", _MARCH_2026),
    _intraday(date(2024, 10, 1), "0.00297", _OCTOBER_2024),
    _intraday(date(2026, 3, 1), "0.00307", _MARCH_2026),
    _futures(date(2024, 10, 1), "0.02", "0.00173", _OCTOBER_2024),
    _futures(date(2026, 3, 1), "0.02", "0.00183", _MARCH_2026),
    _futures(date(2026, 4, 1), "0.05", "0.00183", _APRIL_2026),
    _options(date(2024, 10, 1), "0.1", "0.03503", _OCTOBER_2024),
    _options(date(2026, 3, 1), "0.1", "0.03553", _MARCH_2026),
    _options(date(2026, 4, 1), "0.15", "0.03553", _APRIL_2026),
)
