"""One full packet to the bytes and headers of its `market.ticks` event, without building objects in between.

Must say exactly what `core.brokers.kite_wire.decode` and the envelope would say (a property test holds it to that).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from core.brokers import kite_wire
from core.clock import from_epoch
from core.events import envelope
from core.events.envelope import Envelope, EventType
from core.ids import derive_at, tick_id
from core.trading.ticks import Gap

SOURCE = "market-feed"

_EXCHANGE_TS = {kite_wire.FULL_BYTES: 15, kite_wire.INDEX_FULL_BYTES: 7}
_DEPTH_AT = 16
_BIDS = range(_DEPTH_AT, _DEPTH_AT + 15, 3)
_ASKS = range(_DEPTH_AT + 15, _DEPTH_AT + 30, 3)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message ready for the log. `age_s`: receive time minus exchange time (the exchange's clock has whole seconds)."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    age_s: float


def is_full(packet: bytes) -> bool:
    """True for the two packets that can carry an exchange timestamp."""
    return len(packet) in _EXCHANGE_TS


def encode_tick(packet: bytes, received_at: datetime) -> Encoded | None:
    """The event of a full packet (184 bytes, index 32); None where the packet has no exchange timestamp.

    Args:
        received_at: when the frame arrived, aware UTC.
    """
    size = len(packet)
    layout = kite_wire.FULL if size == kite_wire.FULL_BYTES else kite_wire.INDEX_FULL
    fields = layout.unpack(packet)
    exchange_s = fields[_EXCHANGE_TS[size]]
    if not exchange_s:
        return None
    token = fields[0]
    exchange_ts, exchange_text = _moment(exchange_s)
    identity = tick_id(token, exchange_ts, packet)
    text = str(identity)
    data = (_full if size == kite_wire.FULL_BYTES else _index)(fields, exchange_text, utc_text(received_at))
    value = (
        f'{{"id":"{text}","type":"tick","ts":"{utc_text(received_at)}","key":"{token}","source":"{SOURCE}","version":1,'
        f'"broker":null,"correlation_id":"{text}","causation_id":null,"data":{data}}}'
    )
    identity_bytes = text.encode()
    headers = [
        ("id", identity_bytes),
        ("type", b"tick"),
        ("version", b"1"),
        ("correlation_id", identity_bytes),
        ("traceparent", f"00-{identity.hex}-{identity.int & 0xFFFFFFFFFFFFFFFF or 1:016x}-01".encode()),
    ]
    age_s = received_at.timestamp() - exchange_s
    return Encoded(str(token).encode(), value.encode(), headers, age_s)


def gap_event(instrument_token: int, since: datetime, until: datetime, reason: str) -> Envelope:
    """Ticks of this instrument may be missing between the two times."""
    identity = derive_at(until, "gap", instrument_token, since.isoformat())
    gap = Gap(instrument_token=instrument_token, since=since, until=until, reason=reason)
    return envelope.make(
        EventType.GAP, gap, id=identity, key=str(instrument_token), source=SOURCE, correlation_id=identity
    )


@lru_cache(maxsize=4096)
def _moment(epoch_s: int) -> tuple[datetime, str]:
    moment = from_epoch(epoch_s)
    return moment, utc_text(moment)


@lru_cache(maxsize=256)
def utc_text(moment: datetime) -> str:
    """An aware UTC time as our JSON writes it: `2026-11-22T10:00:00.123456Z`."""
    return moment.isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=16_384)  # prices come back all day
def _rupees(value: int, digits: int) -> str:
    sign, value = ("-", -value) if value < 0 else ("", value)
    whole, rest = divmod(value, 10**digits)
    return f"{sign}{whole}.{rest:0{digits}d}"


def _ohlc(open_: int, high: int, low: int, close: int, digits: int) -> str:
    return (
        f'{{"open":"{_rupees(open_, digits)}","high":"{_rupees(high, digits)}",'
        f'"low":"{_rupees(low, digits)}","close":"{_rupees(close, digits)}"}}'
    )


def _index(fields: tuple[int, ...], exchange_text: str, received_text: str) -> str:
    token, last, high, low, open_, close = fields[:6]
    digits = kite_wire.decimals(token)
    return (
        f'{{"instrument_token":{token},"last_price":"{_rupees(last, digits)}","exchange_ts":"{exchange_text}",'
        f'"received_at":"{received_text}","ohlc":{_ohlc(open_, high, low, close, digits)}}}'
    )


def _full(fields: tuple[int, ...], exchange_text: str, received_text: str) -> str:
    token, last, last_quantity, average, volume, buy, sell, open_, high, low, close, last_trade_s, oi = fields[:13]
    digits = kite_wire.decimals(token)
    last_trade = f'"{_moment(last_trade_s)[1]}"' if last_trade_s else "null"
    return (
        f'{{"instrument_token":{token},"last_price":"{_rupees(last, digits)}","exchange_ts":"{exchange_text}",'
        f'"received_at":"{received_text}","last_quantity":{last_quantity},"average_price":"{_rupees(average, digits)}",'
        f'"volume":{volume},"buy_quantity":{buy},"sell_quantity":{sell},'
        f'"ohlc":{_ohlc(open_, high, low, close, digits)},"last_trade_ts":{last_trade},"oi":{oi},'
        f'"bids":[{",".join(_levels(fields, _BIDS, digits))}],"asks":[{",".join(_levels(fields, _ASKS, digits))}]}}'
    )


def _levels(fields: tuple[int, ...], at: range, digits: int) -> Iterator[str]:
    for i in at:
        if fields[i]:
            yield f'{{"price":"{_rupees(fields[i + 1], digits)}","quantity":{fields[i]},"orders":{fields[i + 2]}}}'
