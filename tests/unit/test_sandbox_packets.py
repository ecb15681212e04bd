"""The ticker's bytes: the published packet, and whatever we encode, as KiteTicker itself reads it."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kiteconnect import KiteTicker

from sandbox.packets import FULL, LTP, QUOTE, Level, encode, frame

DATA = Path(__file__).resolve().parents[1] / "data" / "kite"
INFY, NIFTY = 408065, 256265


@dataclass
class Tick:
    """Published INFY figures unless told otherwise."""

    token: int = INFY
    is_index: bool = False
    last: int = 157315
    last_quantity: int = 1
    average: int = 157033
    volume: int = 1175986
    open: int = 156915
    high: int = 157500
    low: int = 156105
    close: int = 156780
    oi: int = 0
    oi_high: int = 0
    oi_low: int = 0
    last_trade_s: int = 1_767_600_000
    exchange_s: int = 1_767_600_001
    bids: tuple[Level, ...] = ((157310, 256511, 3),)
    asks: tuple[Level, ...] = ((157320, 360503, 4),)


def read(*packets: bytes) -> list[dict[str, Any]]:
    ticks: list[dict[str, Any]] = KiteTicker("key", "token")._parse_binary(frame(packets))
    return ticks


def published(name: str) -> dict[str, Any]:
    return dict(json.loads((DATA / f"{name}.json").read_text()))


def renamed(tick: dict[str, Any]) -> dict[str, Any]:
    """The published values carry the names of an older SDK."""
    names = {
        "last_traded_quantity": "last_quantity",
        "average_traded_price": "average_price",
        "volume_traded": "volume",
        "total_buy_quantity": "buy_quantity",
        "total_sell_quantity": "sell_quantity",
    }
    return {names.get(key, key): value for key, value in tick.items()}


def test_the_published_quote_packet_decodes_to_its_published_values() -> None:
    (tick,) = read(base64.b64decode((DATA / "ticker_quote.packet").read_text()))
    ours, theirs = renamed(tick), published("ticker_quote")
    # The packet holds no change: the SDK computes percent now, and the published 5.9 fits neither percent nor rupees.
    assert ours.pop("change") == pytest.approx(100 * (1573.15 - 1567.8) / 1567.8)
    del theirs["change"]
    assert ours == theirs


def test_our_encoder_writes_the_published_packet_byte_for_byte() -> None:
    assert encode(Tick(), QUOTE) == base64.b64decode((DATA / "ticker_quote.packet").read_text())


def test_an_ltp_packet_decodes_to_the_published_values() -> None:
    assert read(encode(Tick(), LTP)) == [published("ticker_ltp")]


@pytest.mark.parametrize(("mode", "length"), [(LTP, 8), (QUOTE, 44), (FULL, 184)])
def test_packets_of_instruments_have_kite_s_lengths(mode: str, length: int) -> None:
    assert len(encode(Tick(), mode)) == length


@pytest.mark.parametrize(("mode", "length"), [(LTP, 8), (QUOTE, 28), (FULL, 32)])
def test_packets_of_indices_have_kite_s_lengths(mode: str, length: int) -> None:
    assert len(encode(Tick(token=NIFTY, is_index=True, bids=(), asks=()), mode)) == length


def test_an_index_is_not_tradable_and_tells_its_time() -> None:
    (tick,) = read(encode(Tick(token=NIFTY, is_index=True), FULL))
    assert tick["tradable"] is False
    assert tick["ohlc"] == {"open": 1569.15, "high": 1575.0, "low": 1561.05, "close": 1567.8}
    assert tick["exchange_timestamp"] == datetime.fromtimestamp(1_767_600_001)  # noqa: DTZ006  the SDK's local time


u32 = st.integers(0, 2**31)
sides = st.lists(st.tuples(u32, u32.map(lambda n: n // 10), st.integers(0, 65535)), max_size=5).map(tuple)


@given(last=u32, volume=u32, oi=u32, bids=sides, asks=sides, stamps=st.tuples(st.integers(1, 2**31 - 1), u32))
def test_what_we_encode_kite_ticker_reads_back(
    last: int, volume: int, oi: int, bids: tuple[Level, ...], asks: tuple[Level, ...], stamps: tuple[int, int]
) -> None:
    tick = Tick(last=last, volume=volume, oi=oi, bids=bids, asks=asks, exchange_s=stamps[0])
    (full,) = read(encode(tick, FULL))
    assert (full["mode"], full["last_price"], full["volume_traded"], full["oi"]) == (FULL, last / 100, volume, oi)
    assert full["exchange_timestamp"] == datetime.fromtimestamp(stamps[0])  # noqa: DTZ006
    for name, side in (("buy", bids), ("sell", asks)):
        shown = [{"quantity": q, "price": p / 100, "orders": o} for p, q, o in side]
        assert full["depth"][name] == shown + [{"quantity": 0, "price": 0.0, "orders": 0}] * (5 - len(side))


def test_a_frame_holds_many_packets() -> None:
    modes = [tick["mode"] for tick in read(*(encode(Tick(), mode) for mode in (LTP, QUOTE, FULL)))]
    assert modes == [LTP, QUOTE, FULL]
    assert struct.unpack(">H", frame([]))[0] == 0
