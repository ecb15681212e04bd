"""Names to tokens: what is missing is named, what does not fit is named, what we hold comes first."""

from __future__ import annotations

from decimal import Decimal

import pytest

from core.errors import StopTheStart
from core.trading.instruments import Instrument, InstrumentBook
from core.trading.types import Exchange
from streams.feed_needs import Need, check_start, resolve
from streams.feed_socket import MAX_TOKENS


def share(number: int) -> Instrument:
    return Instrument(
        instrument_token=number << 8 | 1,
        exchange_token=number,
        tradingsymbol=f"S{number}",
        name=f"SHARE {number}",
        exchange=Exchange.NSE,
        segment="NSE",
        instrument_type="EQ",
        tick_size=Decimal("0.05"),
        lot_size=1,
    )


BOOK = InstrumentBook(share(number) for number in range(1, MAX_TOKENS + 102))


def needs(who: str, *numbers: int, by_strategy: bool = True) -> list[Need]:
    return [Need(f"NSE:S{number}", who, by_strategy) for number in numbers]


def test_an_instrument_two_parts_need_is_subscribed_once() -> None:
    wanted = resolve([*needs("positions of paper", 1, by_strategy=False), *needs("strategy a", 1, 2)], BOOK)
    assert wanted.tokens == {share(1).instrument_token, share(2).instrument_token}
    check_start(wanted)


def test_a_strategys_unknown_instrument_stops_the_start_by_name() -> None:
    wanted = resolve([*needs("strategy a", 1), Need("NSE:TYPO", "strategy b", True)], BOOK)
    with pytest.raises(StopTheStart, match="strategy b: NSE:TYPO") as stopped:
        check_start(wanted)
    assert "strategy a" not in str(stopped.value)


def test_a_held_instrument_that_left_the_exchange_does_not_stop_the_start() -> None:
    wanted = resolve([Need("NFO:EXPIRED", "positions of zerodha", False)], BOOK)
    check_start(wanted)
    assert [need.instrument for need in wanted.missing] == ["NFO:EXPIRED"]


def test_what_we_hold_is_never_crowded_out_and_the_rest_stops_the_start() -> None:
    held = needs("positions of paper", MAX_TOKENS + 100, by_strategy=False)
    wanted = resolve([*held, *needs("strategy greedy", *range(1, MAX_TOKENS + 10))], BOOK)
    assert len(wanted.tokens) == MAX_TOKENS
    assert share(MAX_TOKENS + 100).instrument_token in wanted.tokens
    with pytest.raises(StopTheStart, match=r"3010 instruments are needed.*strategy greedy"):
        check_start(wanted)


def test_exactly_as_many_as_fit_are_fine() -> None:
    check_start(resolve(needs("strategy full", *range(1, MAX_TOKENS + 1)), BOOK))
