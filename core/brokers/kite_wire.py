"""Kite's binary ticker, decoded straight from bytes (kite.trade/docs/connect/v3/websocket). Pure: bytes in, facts out.

Never guesses: a packet of unknown length is refused, and a packet without an exchange timestamp never becomes a Tick.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from core.clock import from_epoch
from core.trading.ticks import Depth, Ohlc, Tick

LTP_BYTES = 8
INDEX_QUOTE_BYTES = 28
INDEX_FULL_BYTES = 32
QUOTE_BYTES = 44
FULL_BYTES = 184

# The low byte of an instrument_token is its segment; prices are integers of 1/divisor rupees.
_CDS, _BCD, _NCO = 3, 6, 12
_DECIMALS = {_CDS: 7, _BCD: 4, _NCO: 4}

# Kite's own client reads all fields unsigned, so a negative price shows as 42949671.96 there: prices are signed here.
_COUNT = struct.Struct(">H")
LTP = struct.Struct(">Ii")
INDEX = struct.Struct(">Iiiiiii")
INDEX_FULL = struct.Struct(">IiiiiiiI")
QUOTE = struct.Struct(">IiIiIIIiiii")
FULL = struct.Struct(">IiIiIIIiiii5I" + "IiH2x" * 10)

_DEPTH_AT = 16
_LEVEL_FIELDS = 3
_LEVELS = 5


class GarbledFrame(ValueError):
    """A frame whose lengths do not add up, or a packet of a length Kite does not have. The message says which."""


@dataclass(frozen=True, slots=True)
class LtpPacket:
    """Mode ltp: rupees, and no time at all."""

    instrument_token: int
    last_price: Decimal


@dataclass(frozen=True, slots=True)
class QuotePacket:
    """Mode quote, or a full packet whose exchange timestamp is missing. Rupees and units; no exchange time."""

    instrument_token: int
    last_price: Decimal
    last_quantity: int
    average_price: Decimal
    volume: int
    buy_quantity: int
    sell_quantity: int
    ohlc: Ohlc


Packet = LtpPacket | QuotePacket | Tick


def decimals(instrument_token: int) -> int:
    """How many digits of a price field are after the point: 2, but 7 for CDS and 4 for BCD and NCO."""
    return _DECIMALS.get(instrument_token & 0xFF, 2)


def packets(frame: bytes) -> Iterator[bytes]:
    """The packet bodies of one binary frame; none in a heartbeat (a single byte).

    Raises:
        GarbledFrame: after the last whole packet, when the frame is cut short or longer than it says.
    """
    size = len(frame)
    if size < _COUNT.size:
        return
    (count,) = _COUNT.unpack_from(frame)
    at = _COUNT.size
    for _ in range(count):
        if at + _COUNT.size > size:
            raise GarbledFrame(f"frame of {size} bytes ends at {at} with {count} packets announced")
        (length,) = _COUNT.unpack_from(frame, at)
        at += _COUNT.size
        if at + length > size:
            raise GarbledFrame(f"frame of {size} bytes ends inside the packet of {length} bytes at {at}")
        yield frame[at : at + length]
        at += length
    if at != size:
        raise GarbledFrame(f"{size - at} bytes left over after {count} packets in a frame of {size} bytes")


def decode(packet: bytes, received_at: datetime) -> Packet:
    """One packet body as what it proves: a Tick for a full packet with an exchange time, less for anything else.

    Args:
        received_at: when the frame arrived, aware UTC.

    Raises:
        GarbledFrame: the length is none of Kite's five.
    """
    length = len(packet)
    if length == FULL_BYTES:
        return _full(packet, received_at)
    if length == INDEX_FULL_BYTES:
        return _index_full(packet, received_at)
    if length == LTP_BYTES:
        token, last = LTP.unpack(packet)
        return LtpPacket(token, _rupees(last, decimals(token)))
    if length == QUOTE_BYTES:
        return _quote(QUOTE.unpack(packet))
    if length == INDEX_QUOTE_BYTES:
        return _index_quote(INDEX.unpack(packet))
    raise GarbledFrame(f"a packet of {length} bytes: Kite sends 8, 28, 32, 44 or 184")


def _rupees(value: int, digits: int) -> Decimal:
    return Decimal(value).scaleb(-digits)


def _ohlc(digits: int, open_: int, high: int, low: int, close: int) -> Ohlc:
    return Ohlc(
        open=_rupees(open_, digits), high=_rupees(high, digits), low=_rupees(low, digits), close=_rupees(close, digits)
    )


def _quote(fields: tuple[int, ...]) -> QuotePacket:
    token, last, last_quantity, average, volume, buy, sell = fields[:7]
    digits = decimals(token)
    return QuotePacket(
        instrument_token=token,
        last_price=_rupees(last, digits),
        last_quantity=last_quantity,
        average_price=_rupees(average, digits),
        volume=volume,
        buy_quantity=buy,
        sell_quantity=sell,
        ohlc=_ohlc(digits, *fields[7:11]),
    )


def _index_quote(fields: tuple[int, ...]) -> QuotePacket:
    token, last, high, low, open_, close = fields[:6]
    digits = decimals(token)
    return QuotePacket(
        instrument_token=token,
        last_price=_rupees(last, digits),
        last_quantity=0,
        average_price=Decimal(0),
        volume=0,
        buy_quantity=0,
        sell_quantity=0,
        ohlc=_ohlc(digits, open_, high, low, close),
    )


def _index_full(packet: bytes, received_at: datetime) -> Packet:
    fields = INDEX_FULL.unpack(packet)
    quote = _index_quote(fields)
    if not fields[7]:
        return quote
    return Tick(
        instrument_token=quote.instrument_token,
        last_price=quote.last_price,
        exchange_ts=from_epoch(fields[7]),
        received_at=received_at,
        ohlc=quote.ohlc,
    )


def _full(packet: bytes, received_at: datetime) -> Packet:
    fields = FULL.unpack(packet)
    quote = _quote(fields)
    last_trade_s, oi, exchange_s = fields[11], fields[12], fields[15]
    if not exchange_s:
        return quote
    digits = decimals(quote.instrument_token)
    return Tick(
        instrument_token=quote.instrument_token,
        last_price=quote.last_price,
        exchange_ts=from_epoch(exchange_s),
        received_at=received_at,
        last_quantity=quote.last_quantity,
        average_price=quote.average_price,
        volume=quote.volume,
        buy_quantity=quote.buy_quantity,
        sell_quantity=quote.sell_quantity,
        ohlc=quote.ohlc,
        last_trade_ts=from_epoch(last_trade_s) if last_trade_s else None,
        oi=oi,
        bids=_levels(fields, 0, digits),
        asks=_levels(fields, 1, digits),
    )


def _levels(fields: tuple[int, ...], side: int, digits: int) -> tuple[Depth, ...]:
    """One side of the book, best first. Empty levels (quantity 0) are no levels."""
    start = _DEPTH_AT + side * _LEVELS * _LEVEL_FIELDS
    found = []
    for at in range(start, start + _LEVELS * _LEVEL_FIELDS, _LEVEL_FIELDS):
        quantity, price, orders = fields[at : at + _LEVEL_FIELDS]
        if quantity:
            found.append(Depth(price=_rupees(price, digits), quantity=quantity, orders=orders))
    return tuple(found)
