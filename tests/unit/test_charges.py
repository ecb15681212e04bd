"""Charges by the dated table, checked against sums done by hand from zerodha.com/charges."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.trading.charge_rates import RATES, Segment
from core.trading.charges import charges_for_fill, check_chargeable
from core.trading.types import Exchange, Product, Side

D = Decimal
TODAY = date(2026, 10, 7)


def make_charges(**changes: Any) -> Any:
    row: dict[str, Any] = {
        "exchange": Exchange.NSE,
        "instrument_type": "EQ",
        "product": Product.MIS,
        "side": Side.BUY,
        "quantity": 50,
        "price": D(1500),
        "on": TODAY,
    }
    return charges_for_fill(**{**row, **changes})


@pytest.mark.parametrize(
    ("changes", "brokerage", "stt", "exchange_txn", "sebi", "stamp", "gst", "total"),
    [
        # turnover 75,000; 0.03 % is 22.50, so the cap holds
        ({}, "20", "0", "2.3025", "0.075", "2.25", "4.0280", "28.6555"),
        ({"side": Side.SELL}, "20", "18.75", "2.3025", "0.075", "0", "4.0280", "45.1555"),
        ({"quantity": 10}, "4.5", "0", "0.4605", "0.015", "0.45", "0.8956", "6.3211"),
        ({"product": Product.CNC}, "0", "75", "2.3025", "0.075", "11.25", "0.4280", "89.0555"),
        ({"product": Product.CNC, "side": Side.SELL}, "0", "75", "2.3025", "0.075", "0", "0.4280", "77.8055"),
        ({"exchange": Exchange.BSE}, "20", "0", "2.8125", "0.075", "2.25", "4.1198", "29.2573"),
        (
            {"exchange": Exchange.NFO, "instrument_type": "FUT", "product": Product.NRML, "side": Side.SELL},
            "20", "37.5", "1.3725", "0.075", "0", "3.8606", "62.8081",
        ),
        (
            {"exchange": Exchange.NFO, "instrument_type": "CE", "side": Side.SELL, "price": D(100)},
            "20", "7.5", "1.7765", "0.005", "0", "3.9207", "33.2022",
        ),
        ({"on": date(2026, 2, 28)}, "20", "0", "2.2275", "0.075", "2.25", "4.0144", "28.5669"),
    ],
)  # fmt: skip
def test_a_fill_costs_what_the_table_says(
    changes: dict[str, Any], brokerage: str, stt: str, exchange_txn: str, sebi: str, stamp: str, gst: str, total: str
) -> None:
    got = make_charges(**changes)
    assert (got.brokerage, got.stt, got.exchange_txn) == (D(brokerage), D(stt), D(exchange_txn))
    assert (got.sebi, got.stamp, got.gst, got.total) == (D(sebi), D(stamp), D(gst), D(total))


def test_stt_on_futures_rose_in_april_2026() -> None:
    sell = {"exchange": Exchange.NFO, "instrument_type": "FUT", "side": Side.SELL}
    assert make_charges(**sell, on=date(2026, 3, 31)).stt == D(15)
    assert make_charges(**sell, on=date(2026, 4, 1)).stt == D("37.5")


def test_an_option_order_pays_its_flat_brokerage_once() -> None:
    option = {"exchange": Exchange.NFO, "instrument_type": "PE", "price": D(10)}
    assert make_charges(**option).brokerage == 20
    assert make_charges(**option, order_turnover_before=D(500)).brokerage == 0


@given(st.lists(st.tuples(st.integers(1, 5000), st.decimals(D("0.05"), D(5000), places=2)), min_size=1, max_size=20))
def test_the_fills_of_an_order_pay_the_brokerage_of_the_whole_order(rows: list[tuple[int, Decimal]]) -> None:
    before, paid = D(0), D(0)
    for quantity, price in rows:
        got = make_charges(quantity=quantity, price=price, order_turnover_before=before)
        paid += got.brokerage
        before += quantity * price
    assert paid == min(before * D("0.0003"), D(20)).quantize(D("0.0001"))


@given(
    st.sampled_from(Side),
    st.integers(1, 100_000),
    st.decimals(D("0.05"), D(100_000), places=2),
    st.sampled_from(Product),
)
def test_the_total_is_the_sum_of_its_parts_and_never_negative(
    side: Side, quantity: int, price: Decimal, product: Product
) -> None:
    got = make_charges(side=side, quantity=quantity, price=price, product=product)
    parts = (got.brokerage, got.stt, got.exchange_txn, got.sebi, got.stamp, got.gst)
    assert got.total == sum(parts)
    assert min(parts) >= 0


@pytest.mark.parametrize(
    ("exchange", "instrument_type", "on", "words"),
    [
        (Exchange.MCX, "FUT", TODAY, "exchange MCX"),
        (Exchange.NSE, "BOND", TODAY, "instrument type 'BOND'"),
        (Exchange.NSE, "EQ", date(2020, 1, 1), "begins later"),
    ],
)
def test_what_the_table_does_not_know_is_said_before_trading(
    exchange: Exchange, instrument_type: str, on: date, words: str
) -> None:
    assert words in (check_chargeable(exchange, instrument_type, on) or "")
    assert check_chargeable(Exchange.NSE, "EQ", TODAY) is None
    with pytest.raises(ValueError, match="no charges are known"):
        make_charges(exchange=exchange, instrument_type=instrument_type, on=on)


def test_every_row_names_its_source_and_dates_grow() -> None:
    for segment in Segment:
        rows = [row for row in RATES if row.segment is segment]
        assert [row.since for row in rows] == sorted({row.since for row in rows})
        assert all(row.source for row in rows)
