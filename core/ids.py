"""Identity. Everything with a cause gets an id derived from it, so that doing a step twice names the same thing twice.

A derived id is a UUIDv7: the timestamp bits of its cause, the other 74 bits from a hash of the cause and a discriminator.
Ids are identity, never order.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from uuid import UUID

import uuid_utils.compat

_SEPARATOR = "\x1f"

TAG_LENGTH = 20
"""Kite accepts at most 20 characters of [A-Za-z0-9] and rejects longer tags (kite.trade/docs/connect/v3/orders)."""


def new_id() -> UUID:
    """A fresh UUIDv7, for what has no cause (a process, a lease holder, a test)."""
    return uuid_utils.compat.uuid7()


def _v7(timestamp_ms: int, digest: bytes) -> UUID:
    value = (timestamp_ms & ((1 << 48) - 1)) << 80
    value |= int.from_bytes(digest[:10], "big")
    value &= ~(0xF << 76)
    value |= 0x7 << 76
    value &= ~(0x3 << 62)
    value |= 0x2 << 62
    return UUID(int=value)


def _digest(parts: tuple[object, ...]) -> bytes:
    return hashlib.sha256(_SEPARATOR.join(str(part) for part in parts).encode()).digest()


def derive(cause: UUID, *discriminator: object) -> UUID:
    """The id of what `cause` leads to: same cause and discriminator, same id."""
    return _v7(cause.int >> 80, _digest((cause, *discriminator)))


def derive_at(moment: datetime, *discriminator: object) -> UUID:
    """The id of a fact known by its time and content (a tick, a bar close), not by another id."""
    return _v7(int(moment.timestamp() * 1000), _digest((moment.isoformat(), *discriminator)))


def tick_id(instrument_token: int, exchange_ts: datetime, packet: bytes) -> UUID:
    """A tick is its instrument, its exchange time and its bytes: a second feed publishes it under the same id."""
    return derive_at(exchange_ts, "tick", instrument_token, hashlib.sha256(packet).hexdigest())


def order_tag(order_id: UUID, send_no: int) -> str:
    """The broker tag of one send: 20 characters of base32 (100 bits) of a hash of (order id, send number)."""
    digest = hashlib.sha256(f"{order_id}{_SEPARATOR}{send_no}".encode()).digest()
    return base64.b32encode(digest).decode()[:TAG_LENGTH]


def timestamp_ms(identifier: UUID) -> int:
    """The cause's time in an id, Unix milliseconds."""
    return identifier.int >> 80
