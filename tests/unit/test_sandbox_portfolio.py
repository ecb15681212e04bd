"""Positions, holdings and margins as a fold of fills: what must hold for any sequence of them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from core.trading.types import OrderType, Side, Validity
from sandbox.instruments import build
from sandbox.orders import OrderRequest
from sandbox.portfolio import Portfolio
from sandbox.prices import Market

DAY = date(2026, 1, 7)
INFY = next(row for row in build(DAY) if row.key == "NSE:INFY")
FILLS = st.lists(
    st.tuples(st.sampled_from(Side), st.integers(1, 500), st.integers(1, 4000).map(lambda n: n * 10)), max_size=25
)


def request(side: Side, product: str = "MIS") -> OrderRequest:
    return OrderRequest(
        "regular", "NSE", "INFY", INFY.token, side, OrderType.LIMIT, product, Validity.DAY, 1, 0, 0, 0, None, ()
    )


def make_portfolio() -> Portfolio:
    market = Market(INFY, 7, 0.0, still=True)
    return Portfolio(lambda token: market, Decimal(1_000_000))


@given(FILLS)
def test_a_position_is_the_sum_of_its_fills_and_its_pnl_is_cash_plus_worth(fills: list[tuple[Side, int, int]]) -> None:
    portfolio = make_portfolio()
    for side, quantity, paise in fills:
        portfolio.apply(request(side), quantity, paise)
    net = sum(side.sign * quantity for side, quantity, _ in fills)
    cash = sum(-side.sign * quantity * paise for side, quantity, paise in fills)
    for row in portfolio.positions()["net"]:
        assert row["quantity"] == net
        assert row["buy_quantity"] - row["sell_quantity"] == net
        assert row["pnl"] == float(Decimal(cash + net * INFY.base_paise) / 100)
    leg = next(iter(portfolio.legs.values()), None)
    if leg is not None and net == 0:
        assert leg.realised() == Decimal(cash) / 100
        assert portfolio.available() == 1_000_000 + Decimal(cash) / 100


@given(FILLS, FILLS)
def test_a_day_s_end_carries_the_position_and_books_the_cash(
    first: list[tuple[Side, int, int]], second: list[tuple[Side, int, int]]
) -> None:
    rolled, straight = make_portfolio(), make_portfolio()
    for side, quantity, paise in first:
        rolled.apply(request(side), quantity, paise)
        straight.apply(request(side), quantity, paise)
    rolled.roll(lambda token: True)
    for side, quantity, paise in second:
        rolled.apply(request(side), quantity, paise)
        straight.apply(request(side), quantity, paise)
    quantities = [sum(row["quantity"] for row in each.positions()["net"]) for each in (rolled, straight)]
    assert quantities[0] == quantities[1]


def test_deliveries_become_t1_holdings_then_settle() -> None:
    portfolio = make_portfolio()
    portfolio.apply(request(Side.BUY, "CNC"), 8, 150_000)
    portfolio.roll(lambda token: True)
    holding = portfolio.holdings[INFY.token]
    assert (holding.quantity, holding.t1_quantity, holding.average_price) == (0, 8, "1500.000000")
    assert portfolio.opening_balance == 1_000_000 - 8 * 1500
    assert portfolio.sellable(INFY.token) == 8
    portfolio.apply(request(Side.SELL, "CNC"), 3, 160_000)
    assert portfolio.sellable(INFY.token) == 5
    assert portfolio.holdings[INFY.token].used_quantity == 3
    portfolio.roll(lambda token: True)
    assert portfolio.holdings[INFY.token].quantity == 5
    assert portfolio.opening_balance == 1_000_000 - 8 * 1500 + 3 * 1600


def test_closing_needs_no_margin() -> None:
    portfolio = make_portfolio()
    assert portfolio.required(request(Side.BUY), 10, 150_000) == 3000
    portfolio.apply(request(Side.BUY), 10, 150_000)
    assert portfolio.required(request(Side.SELL), 10, 150_000) == 0
    assert portfolio.required(request(Side.SELL), 15, 150_000) == 5 * 300


def test_what_is_carried_survives_a_restart() -> None:
    portfolio = make_portfolio()
    portfolio.apply(request(Side.SELL), 7, 150_000)
    portfolio.roll(lambda token: True)
    other = make_portfolio()
    other.restore(portfolio.state())
    assert other.positions() == portfolio.positions()
    assert other.positions()["net"][0]["overnight_quantity"] == -7


POSITION_FIELDS = [
    "tradingsymbol",
    "exchange",
    "instrument_token",
    "product",
    "quantity",
    "overnight_quantity",
    "multiplier",
    "average_price",
    "close_price",
    "last_price",
    "value",
    "pnl",
    "m2m",
    "unrealised",
    "realised",
    "buy_quantity",
    "buy_price",
    "buy_value",
    "buy_m2m",
    "sell_quantity",
    "sell_price",
    "sell_value",
    "sell_m2m",
    "day_buy_quantity",
    "day_buy_price",
    "day_buy_value",
    "day_sell_quantity",
    "day_sell_price",
    "day_sell_value",
]
"""kite.trade/docs/connect/v3/portfolio, the example answer of GET /portfolio/positions."""


def test_a_position_has_the_published_fields() -> None:
    portfolio = make_portfolio()
    portfolio.apply(request(Side.BUY), 5, 150_000)
    shown = portfolio.positions()
    for row in (*shown["net"], *shown["day"]):
        assert list(row) == POSITION_FIELDS
        assert all(isinstance(row[name], str) for name in ("tradingsymbol", "exchange", "product"))
        assert all(isinstance(row[name], int | float) for name in POSITION_FIELDS[4:])
