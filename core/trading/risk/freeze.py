"""The largest quantity an exchange takes in one order. Kite's dump lacks it, so it is a table with sources.

Update it when the exchanges' circulars do; a person should compare it with the exchange's contract file before real
money.
"""

from __future__ import annotations

from core.trading.instruments import Instrument
from core.trading.types import Exchange

NSE_INDEX_UNITS = {"NIFTY": 1800, "BANKNIFTY": 600, "FINNIFTY": 1800, "MIDCPNIFTY": 2800, "NIFTYNXT50": 600}
"""NSE circular of 30 January 2026, in force from 1 February 2026, by NSE/FAOP/67775 (30 April 2025), 1.8."""

BSE_INDEX_UNITS = {"SENSEX": 1000, "BANKEX": 900}
"""Assumed: not checked against a BSE circular."""

DERIVATIVE_LOTS = 20
"""Assumed, for any other derivative: the exchanges publish one a contract, commonly above this many lots."""

CASH_UNITS = 100_000
"""Assumed, for shares: the exchange's own limit is a share of the issued capital and far above a personal account."""

_INDEX_UNITS = {Exchange.NFO: NSE_INDEX_UNITS, Exchange.BFO: BSE_INDEX_UNITS}
_CASH = frozenset({Exchange.NSE, Exchange.BSE})


def freeze_quantity(instrument: Instrument) -> int:
    """Units one order may have at most: whole lots, at least one."""
    if instrument.exchange in _CASH:
        return CASH_UNITS
    lot = max(instrument.lot_size, 1)
    units = _INDEX_UNITS.get(instrument.exchange, {}).get(instrument.name)
    return max(units // lot, 1) * lot if units is not None else DERIVATIVE_LOTS * lot
