"""The day's instrument list: real-looking NSE, BSE and NFO rows with their true tokens, lots and ticks. No prices live here.

Tokens of shares and indices are the exchanges' own; contracts get stable invented ones. Expiries follow NSE's Tuesday
rule and the given day; exchange holidays do not shift them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

NSE, NFO, BSE, INDICES = 1, 2, 4, 9
"""Segment codes: the low byte of an instrument_token."""

CSV_HEADER = (
    "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,"
    "instrument_type,segment,exchange"
)

# tradingsymbol, NSE exchange token, name, price in rupees the walk starts from
_SHARES = (
    ("RELIANCE", 2885, "RELIANCE INDUSTRIES", "1402.30"),
    ("INFY", 1594, "INFOSYS", "1512.40"),
    ("TCS", 11536, "TATA CONSULTANCY SERV LT", "3105.60"),
    ("HDFCBANK", 1333, "HDFC BANK", "986.45"),
    ("ICICIBANK", 4963, "ICICI BANK", "1387.20"),
    ("SBIN", 3045, "STATE BANK OF INDIA", "842.15"),
    ("ITC", 1660, "ITC", "412.35"),
    ("AXISBANK", 5900, "AXIS BANK", "1184.70"),
    ("KOTAKBANK", 1922, "KOTAK MAHINDRA BANK", "2021.80"),
    ("LT", 11483, "LARSEN & TOUBRO", "3712.90"),
    ("BHARTIARTL", 10604, "BHARTI AIRTEL", "1893.50"),
    ("HINDUNILVR", 1394, "HINDUSTAN UNILEVER", "2534.10"),
    ("BAJFINANCE", 317, "BAJAJ FINANCE", "978.60"),
    ("MARUTI", 10999, "MARUTI SUZUKI INDIA", "14832.00"),
    ("ASIANPAINT", 236, "ASIAN PAINTS", "2467.30"),
    ("WIPRO", 3787, "WIPRO", "251.65"),
    ("HCLTECH", 7229, "HCL TECHNOLOGIES", "1476.20"),
    ("SUNPHARMA", 3351, "SUN PHARMACEUTICAL IND L", "1652.40"),
    ("TATASTEEL", 3499, "TATA STEEL", "161.24"),
    ("ONGC", 2475, "OIL AND NATURAL GAS CORP.", "243.18"),
    ("NTPC", 11630, "NTPC", "334.75"),
    ("POWERGRID", 14977, "POWER GRID CORP", "287.90"),
    ("ULTRACEMCO", 11532, "ULTRATECH CEMENT", "12214.00"),
    ("TITAN", 3506, "TITAN COMPANY", "3589.70"),
    ("NESTLEIND", 17963, "NESTLE INDIA", "1204.80"),
    ("ADANIPORTS", 15083, "ADANI PORT & SEZ", "1421.50"),
    ("COALINDIA", 20374, "COAL INDIA", "389.45"),
    ("BPCL", 526, "BHARAT PETROLEUM CORP  LT", "338.20"),
    ("IOC", 1624, "INDIAN OIL CORP", "149.37"),
    ("BHEL", 438, "BHEL", "234.86"),
    ("YESBANK", 11915, "YES BANK", "21.47"),
    ("IDEA", 14366, "VODAFONE IDEA", "8.92"),
    ("SUZLON", 12018, "SUZLON ENERGY", "58.63"),
    ("GOLDBEES", 14428, "NIP IND ETF GOLD BEES", "98.41"),
    ("NIFTYBEES", 10576, "NIP IND ETF NIFTY BEES", "281.60"),
)
_BSE_TOKENS = {"RELIANCE": 500325, "INFY": 500209, "TCS": 532540, "HDFCBANK": 500180, "SBIN": 500112}
# tradingsymbol, exchange token, exchange, price
_INDICES = (
    ("NIFTY 50", 1001, "NSE", "25412.35"),
    ("NIFTY BANK", 1016, "NSE", "56843.20"),
    ("NIFTY FIN SERVICE", 1007, "NSE", "26711.90"),
    ("INDIA VIX", 1035, "NSE", "12.84"),
    ("SENSEX", 1, "BSE", "83124.60"),
)
# underlying, price, lot, strike step in rupees
_FUTURES = (
    ("NIFTY", "25412.35", 65),
    ("BANKNIFTY", "56843.20", 30),
    ("RELIANCE", "1402.30", 500),
    ("INFY", "1512.40", 400),
    ("HDFCBANK", "986.45", 550),
    ("SBIN", "842.15", 750),
)
_OPTIONS = (("NIFTY", "25412.35", 65, 50, True), ("BANKNIFTY", "56843.20", 30, 100, False))
_STRIKES_EACH_SIDE = 3
_MONTH_LETTERS = "123456789OND"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One row of the dump. `base_paise` is where its price begins, in paise."""

    token: int
    tradingsymbol: str
    name: str
    exchange: str
    segment: str
    kind: str
    tick_paise: int
    lot_size: int
    base_paise: int
    expiry: date | None = None
    strike: Decimal = Decimal(0)

    @property
    def key(self) -> str:
        """How Kite's quote routes name it: `NSE:INFY`."""
        return f"{self.exchange}:{self.tradingsymbol}"

    @property
    def tick_size(self) -> Decimal:
        return Decimal(self.tick_paise) / 100

    @property
    def is_index(self) -> bool:
        return self.segment == "INDICES"

    @property
    def is_option(self) -> bool:
        return self.kind in {"CE", "PE"}

    def csv_row(self) -> str:
        name = f'"{self.name}"' if "," in self.name else self.name
        return (
            f"{self.token},{self.token >> 8},{self.tradingsymbol},{name},0.0,{self.expiry or ''},"
            f"{float(self.strike)},{float(self.tick_size):g},{self.lot_size},{self.kind},{self.segment},{self.exchange}"
        )


def build(day: date, extra: int = 0) -> list[Instrument]:
    """Every instrument tradable on `day`, tokens unique, `extra` synthetic shares at the end."""
    rows = [*_shares(), *_indices()]
    taken = {row.token for row in rows}
    for row in sorted((*_futures(day), *_options(day)), key=lambda row: row.tradingsymbol):
        rows.append(_with_free_token(row, taken))
    rows.extend(_synthetic(extra))
    return rows


def csv_dump(rows: Iterable[Instrument]) -> str:
    return "\n".join([CSV_HEADER, *(row.csv_row() for row in rows)]) + "\n"


def tick_for(paise: int) -> int:
    """NSE's tick size in paise for a share at this price (bands in force since April 2025)."""
    for below, tick in ((25_000, 1), (100_000, 5), (500_000, 10), (1_000_000, 50), (2_000_000, 100)):
        if paise < below:
            return tick
    return 500


def _paise(rupees: str) -> int:
    return int(Decimal(rupees) * 100)


def _round(paise: int, tick: int) -> int:
    return max(tick, paise // tick * tick)


def _shares() -> Iterator[Instrument]:
    for symbol, token, name, price in _SHARES:
        tick = tick_for(_paise(price))
        base = _round(_paise(price), tick)
        yield Instrument(token << 8 | NSE, symbol, name, "NSE", "NSE", "EQ", tick, 1, base)
        if symbol in _BSE_TOKENS:
            yield Instrument(_BSE_TOKENS[symbol] << 8 | BSE, symbol, name, "BSE", "BSE", "EQ", 5, 1, _round(base, 5))


def _indices() -> Iterator[Instrument]:
    for symbol, token, exchange, price in _INDICES:
        yield Instrument(
            token << 8 | INDICES, symbol, symbol, exchange, "INDICES", "EQ", 5, 1, _round(_paise(price), 5)
        )


def _last_tuesday(year: int, month: int) -> date:
    last = date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)
    return last - timedelta(days=(last.weekday() - 1) % 7)


def monthly_expiries(day: date, count: int = 3) -> list[date]:
    """The next `count` monthly expiries on or after `day`: the last Tuesday of each month."""
    found: list[date] = []
    year, month = day.year, day.month
    while len(found) < count:
        expiry = _last_tuesday(year, month)
        if expiry >= day:
            found.append(expiry)
        year, month = year + month // 12, month % 12 + 1
    return found


def _futures(day: date) -> Iterator[Instrument]:
    for name, price, lot in _FUTURES:
        for months, expiry in enumerate(monthly_expiries(day)):
            symbol = f"{name}{expiry:%y%b}FUT".upper()
            base = _paise(price) * (1000 + 5 * (months + 1)) // 1000
            yield Instrument(0, symbol, name, "NFO", "NFO-FUT", "FUT", 10, lot, _round(base, 10), expiry)


def _options(day: date) -> Iterator[Instrument]:
    month = monthly_expiries(day, 1)[0]
    for name, price, lot, step, weekly in _OPTIONS:
        week = day + timedelta(days=(1 - day.weekday()) % 7)
        expiries = sorted({week, month}) if weekly else [month]
        spot = Decimal(price)
        centre = int(spot / step) * step
        for expiry in expiries:
            for offset in range(-_STRIKES_EACH_SIDE, _STRIKES_EACH_SIDE + 1):
                strike = centre + offset * step
                yield from _option_pair(name, spot, lot, strike, expiry, monthly=expiry == month, day=day)


def _option_pair(
    name: str, spot: Decimal, lot: int, strike: int, expiry: date, *, monthly: bool, day: date
) -> Iterator[Instrument]:
    when = f"{expiry:%y%b}".upper() if monthly else f"{expiry:%y}{_MONTH_LETTERS[expiry.month - 1]}{expiry:%d}"
    time_value = float(spot) * 0.0045 * max((expiry - day).days, 1) ** 0.5
    for kind in ("CE", "PE"):
        inside = float(spot) - strike if kind == "CE" else strike - float(spot)
        worth = max(inside, 0.0) + time_value * (1 / (1 + abs(inside) / (time_value * 2)))
        base = _round(int(worth * 100), 5)
        symbol = f"{name}{when}{strike}{kind}"
        yield Instrument(0, symbol, name, "NFO", "NFO-OPT", kind, 5, lot, base, expiry, Decimal(strike))


def _with_free_token(row: Instrument, taken: set[int]) -> Instrument:
    exchange_token = 35_000 + zlib.crc32(row.tradingsymbol.encode()) % 60_000
    while (exchange_token << 8 | NFO) in taken:
        exchange_token += 1
    token = exchange_token << 8 | NFO
    taken.add(token)
    return Instrument(
        token, row.tradingsymbol, row.name, row.exchange, row.segment, row.kind, row.tick_paise, row.lot_size,
        row.base_paise, row.expiry, row.strike,
    )  # fmt: skip


def _synthetic(count: int) -> Iterator[Instrument]:
    for n in range(1, count + 1):
        base = 10_000 + (n * 7_919) % 290_000
        tick = tick_for(base)
        symbol = f"PANDA{n:04d}"
        yield Instrument(
            (100_000 + n) << 8 | NSE, symbol, f"SYNTHETIC {n:04d}", "NSE", "NSE", "EQ", tick, 1, _round(base, tick)
        )
