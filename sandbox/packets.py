"""The binary ticker's packets, encoded as Kite lays them out (kite.trade/docs/connect/v3/websocket). Pure bytes, no sockets."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Protocol

HEARTBEAT = b"\x00"
LTP, QUOTE, FULL = "ltp", "quote", "full"
MODES = frozenset({LTP, QUOTE, FULL})

_LTP = struct.Struct(">2I")
_INDEX_QUOTE = struct.Struct(">7I")
_INDEX_FULL = struct.Struct(">8I")
_QUOTE = struct.Struct(">11I")
_FULL = struct.Struct(">16I" + "IIH2x" * 10)
_COUNT = struct.Struct(">H")
_EMPTY_LEVEL = (0, 0, 0)

Level = tuple[int, int, int]
"""price in paise, quantity in units, number of orders"""


class TickSource(Protocol):
    """What a packet shows. Prices in paise, times in whole seconds since the epoch."""

    token: int
    is_index: bool
    last: int
    last_quantity: int
    volume: int
    open: int
    high: int
    low: int
    close: int
    oi: int
    oi_high: int
    oi_low: int
    last_trade_s: int
    bids: Sequence[Level]
    asks: Sequence[Level]

    @property
    def average(self) -> int: ...

    @property
    def exchange_s(self) -> int: ...


def encode(tick: TickSource, mode: str) -> bytes:
    """One packet body: 8, 28, 32, 44 or 184 bytes by mode and kind of instrument."""
    if mode == LTP:
        return _LTP.pack(tick.token, tick.last)
    if tick.is_index:
        head = (tick.token, tick.last, tick.high, tick.low, tick.open, tick.close, abs(tick.last - tick.close))
        return _INDEX_QUOTE.pack(*head) if mode == QUOTE else _INDEX_FULL.pack(*head, tick.exchange_s)
    bids, asks = tick.bids, tick.asks
    head44 = (
        tick.token, tick.last, tick.last_quantity, tick.average, tick.volume,
        sum(level[1] for level in bids), sum(level[1] for level in asks),
        tick.open, tick.high, tick.low, tick.close,
    )  # fmt: skip
    if mode == QUOTE:
        return _QUOTE.pack(*head44)
    depth: list[int] = []
    for side in (bids, asks):
        for i in range(5):
            price, quantity, orders = side[i] if i < len(side) else _EMPTY_LEVEL
            depth += (quantity, price, orders)
    return _FULL.pack(*head44, tick.last_trade_s, tick.oi, tick.oi_high, tick.oi_low, tick.exchange_s, *depth)


def frame(packets: Sequence[bytes]) -> bytes:
    """One binary WebSocket frame of packets."""
    parts = [_COUNT.pack(len(packets))]
    for packet in packets:
        parts.append(_COUNT.pack(len(packet)))
        parts.append(packet)
    return b"".join(parts)
