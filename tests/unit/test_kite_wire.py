"""Kite's binary packets: Zerodha's published ones, any others against Zerodha's own decoder, and what is refused."""

from __future__ import annotations

import base64
import json
import struct
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kiteconnect import KiteTicker

from core.brokers.kite_wire import (
    FULL,
    INDEX,
    INDEX_FULL,
    LTP,
    QUOTE,
    GarbledFrame,
    LtpPacket,
    QuotePacket,
    decode,
    packets,
)
from core.events import envelope
from core.events.envelope import EventType
from core.ids import tick_id
from core.trading.ticks import Tick
from streams.feed_codec import encode_tick

DATA = Path(__file__).parents[1] / "data" / "kite"
RECEIVED = datetime(2026, 11, 23, 4, 0, 0, 250_000, tzinfo=UTC)
EXCHANGE_S = 1_795_406_400
INFY = 408065
NIFTY = 256265

paise = st.integers(0, 2**31 - 1)
units = st.integers(0, 2**32 - 1)
seconds = st.integers(1, 2**31 - 1)
tokens = st.builds(
    lambda head, segment: head << 8 | segment, st.integers(1, 2**23), st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12])
)
levels = st.tuples(units, paise, st.integers(0, 2**16 - 1))


def published(name: str) -> bytes:
    return base64.b64decode((DATA / name).read_text())


def full_packets() -> st.SearchStrategy[bytes]:
    head = st.tuples(tokens, paise, units, paise, units, units, units, paise, paise, paise, paise)
    tail = st.tuples(st.integers(0, 2**31 - 1), units, units, units, seconds)
    depth = st.lists(levels, min_size=10, max_size=10)
    return st.builds(
        lambda first, second, rows: FULL.pack(*first, *second, *(value for row in rows for value in row)),
        head,
        tail,
        depth,
    )


def index_packets() -> st.SearchStrategy[bytes]:
    token = st.builds(lambda head: head << 8 | 9, st.integers(1, 2**20))
    return st.builds(
        lambda token, values, at: INDEX_FULL.pack(token, *values, at), token, st.tuples(*[paise] * 6), seconds
    )


def sdk(packet: bytes) -> dict[str, Any]:
    """What Zerodha's own client makes of it."""
    frame = struct.pack(">HH", 1, len(packet)) + packet
    found = KiteTicker("key", "token")._parse_binary(frame)
    assert len(found) == 1
    row: dict[str, Any] = found[0]
    return row


def same(ours: Decimal, theirs: float) -> bool:
    return ours == pytest.approx(Decimal(repr(theirs)), rel=Decimal("1e-12"))


def test_the_published_quote_packet_decodes_to_its_published_values() -> None:
    expected = json.loads((DATA / "ticker_quote.json").read_text(), parse_float=Decimal)
    found = decode(published("ticker_quote.packet"), RECEIVED)
    assert isinstance(found, QuotePacket)
    assert found.instrument_token == expected["instrument_token"]
    assert found.last_price == expected["last_price"]
    assert found.last_quantity == expected["last_quantity"]
    assert found.average_price == expected["average_price"]
    assert found.volume == expected["volume"]
    assert (found.buy_quantity, found.sell_quantity) == (expected["buy_quantity"], expected["sell_quantity"])
    assert found.ohlc.model_dump() == {name: Decimal(value) for name, value in expected["ohlc"].items()}


def test_the_published_last_price_is_what_an_ltp_packet_says() -> None:
    expected = json.loads((DATA / "ticker_ltp.json").read_text(), parse_float=Decimal)
    packet = published("ticker_quote.packet")[:8]  # an ltp packet is a quote packet's first eight bytes
    assert decode(packet, RECEIVED) == LtpPacket(expected["instrument_token"], expected["last_price"])


@given(full_packets())
def test_full_packets_say_what_zerodhas_own_decoder_says(packet: bytes) -> None:
    found, theirs = decode(packet, RECEIVED), sdk(packet)
    assert isinstance(found, Tick)
    assert found.instrument_token == theirs["instrument_token"]
    assert same(found.last_price, theirs["last_price"])
    assert same(found.average_price, theirs["average_traded_price"])
    assert found.last_quantity == theirs["last_traded_quantity"]
    assert found.volume == theirs["volume_traded"]
    assert (found.buy_quantity, found.sell_quantity) == (theirs["total_buy_quantity"], theirs["total_sell_quantity"])
    assert found.oi == theirs["oi"]
    assert found.ohlc is not None
    assert all(same(getattr(found.ohlc, name), theirs["ohlc"][name]) for name in ("open", "high", "low", "close"))
    assert found.exchange_ts.timestamp() == theirs["exchange_timestamp"].timestamp()
    for ours, side in ((found.bids, "buy"), (found.asks, "sell")):
        real = [row for row in theirs["depth"][side] if row["quantity"]]
        assert [(level.quantity, level.orders) for level in ours] == [(row["quantity"], row["orders"]) for row in real]
        assert all(same(level.price, row["price"]) for level, row in zip(ours, real, strict=True))


@given(index_packets())
def test_index_packets_say_what_zerodhas_own_decoder_says(packet: bytes) -> None:
    found, theirs = decode(packet, RECEIVED), sdk(packet)
    assert isinstance(found, Tick)
    assert found.instrument_token == theirs["instrument_token"]
    assert same(found.last_price, theirs["last_price"])
    assert found.ohlc is not None
    assert all(same(getattr(found.ohlc, name), theirs["ohlc"][name]) for name in ("open", "high", "low", "close"))
    assert found.exchange_ts.timestamp() == theirs["exchange_timestamp"].timestamp()
    assert (found.bids, found.asks) == ((), ())


@given(st.one_of(full_packets(), index_packets()))
def test_the_published_event_is_the_decoded_tick(packet: bytes) -> None:
    encoded = encode_tick(packet, RECEIVED)
    tick = decode(packet, RECEIVED)
    assert encoded is not None
    assert isinstance(tick, Tick)
    event = envelope.decode(encoded.value)
    assert event.type is EventType.TICK
    assert event.data == tick
    assert event.id == event.correlation_id == tick_id(tick.instrument_token, tick.exchange_ts, packet)
    assert event.ts == RECEIVED
    assert (event.key, encoded.key) == (str(tick.instrument_token), str(tick.instrument_token).encode())
    assert event.broker is None
    assert encoded.headers == event.headers()
    assert encoded.age_s == pytest.approx((RECEIVED - tick.exchange_ts).total_seconds())


@given(full_packets())
def test_a_feed_that_sees_a_packet_again_names_it_the_same(packet: bytes) -> None:
    first, again = encode_tick(packet, RECEIVED), encode_tick(packet, RECEIVED.replace(hour=9))
    assert first is not None
    assert again is not None
    assert envelope.decode(first.value).id == envelope.decode(again.value).id


def test_two_packets_of_one_second_are_two_ticks() -> None:
    one, two = (FULL.pack(INFY, last, *[0] * 13, EXCHANGE_S, *[0] * 30) for last in (150_000, 150_005))
    first, second = encode_tick(one, RECEIVED), encode_tick(two, RECEIVED)
    assert first is not None
    assert second is not None
    assert envelope.decode(first.value).id != envelope.decode(second.value).id


def test_a_packet_without_an_exchange_timestamp_is_no_tick() -> None:
    full = FULL.pack(INFY, 150_000, *[0] * 13, 0, *[0] * 30)
    index = INDEX_FULL.pack(NIFTY, 2_541_235, *[0] * 5, 0)
    for packet in (full, index):
        assert isinstance(decode(packet, RECEIVED), QuotePacket)
        assert encode_tick(packet, RECEIVED) is None


@pytest.mark.parametrize(
    ("token", "value", "expected"),
    [
        (INFY, 157_315, "1573.15"),
        (1594 << 8 | 3, 835_012_500, "83.5012500"),  # CDS: 1/10,000,000
        (1594 << 8 | 6, 835_012, "83.5012"),  # BCD: 1/10,000
        (1594 << 8 | 12, 835_012, "83.5012"),  # NCO
        (1594 << 8 | 7, -3_763, "-37.63"),  # MCX crude oil, April 2020
    ],
)
def test_the_segment_says_where_the_point_is(token: int, value: int, expected: str) -> None:
    found = decode(LTP.pack(token, value), RECEIVED)
    assert found == LtpPacket(token, Decimal(expected))
    full = encode_tick(FULL.pack(token, value, *[0] * 13, EXCHANGE_S, *[0] * 30), RECEIVED)
    assert full is not None
    assert json.loads(full.value)["data"]["last_price"] == expected


def test_index_quotes_have_high_and_low_before_open() -> None:
    found = decode(INDEX.pack(NIFTY, 500, 900, 100, 200, 300, 0), RECEIVED)
    assert isinstance(found, QuotePacket)
    assert found.ohlc.model_dump() == {
        "open": Decimal(2), "high": Decimal(9), "low": Decimal(1), "close": Decimal(3)
    }  # fmt: skip


def test_a_frame_is_its_packets() -> None:
    bodies = [LTP.pack(INFY, 1), QUOTE.pack(INFY, *[0] * 10), INDEX.pack(NIFTY, *[0] * 6)]
    frame = struct.pack(">H", 3) + b"".join(struct.pack(">H", len(body)) + body for body in bodies)
    assert list(packets(frame)) == bodies


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x00\x00"])
def test_a_heartbeat_has_no_packets(frame: bytes) -> None:
    assert list(packets(frame)) == []


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_any_bytes_are_packets_or_garbled(frame: bytes) -> None:
    try:
        for packet in packets(frame):
            decode(packet, RECEIVED)
    except GarbledFrame:
        return


def test_a_truncated_frame_gives_its_whole_packets_and_then_says_so() -> None:
    body = LTP.pack(INFY, 1)
    frame = struct.pack(">HH", 2, 8) + body + struct.pack(">H", 8) + body[:5]
    found = packets(frame)
    assert next(found) == body
    with pytest.raises(GarbledFrame, match="ends inside"):
        next(found)


def test_an_unknown_length_is_refused() -> None:
    with pytest.raises(GarbledFrame, match="9 bytes"):
        decode(bytes(9), RECEIVED)
