"""An order of flatten --direct that closed ours and somebody else's position at once is told apart, unit by unit."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

from activities.reconcile_book import _Look
from core.brokers.port import Book, BookRow, Trade
from core.clock import trading_day, utc_now
from core.storage.reconcile import OurSend
from core.trading.reconcile import Held, LineKey, compare
from core.trading.types import Exchange, OrderStatus, OrderType, Product, SendState, Side

KEY = LineKey(Exchange.NSE, "INFY", Product.MIS)


def look(*quantities: int, shared: int) -> _Look:
    now, total = utc_now(), sum(quantities)
    row = BookRow(
        "B1", ("TAG",), "COMPLETE", None, Exchange.NSE, "INFY", 1, Side.SELL, Product.MIS, OrderType.MARKET, total, total,
        0, None, None, None, now,
    )  # fmt: skip
    trades = tuple(
        Trade(
            f"T{n}",
            "B1",
            Exchange.NSE,
            "INFY",
            1,
            Side.SELL,
            Product.MIS,
            quantity,
            Decimal(100),
            now + timedelta(seconds=n),
        )
        for n, quantity in enumerate(quantities)
    )
    send = OurSend(uuid4(), 1, "TAG", SendState.SENT, "B1", OrderStatus.FILLED, True)
    return _Look(
        Book("A", trading_day(now), now, now, (row,)), {"B1": trades}, {"B1": send}, {"B1": shared} if shared else {}
    )


def test_what_was_not_ours_is_foreign_and_leaves_no_drift() -> None:
    """Ours held 6, somebody else 4; flatten sold 10."""
    trades = look(7, 3, shared=4).day_trades()
    assert [(one.quantity, one.order_id is None) for one in trades] == [(6, False), (1, True), (3, True)]
    ours = {KEY: Held(0, 0)}
    found = compare(net={}, trades=trades, held=ours, openings={KEY: 4}, moving=(), delivers=True)
    assert all(line.drift == 0 for line in found.lines), found.lines


def test_an_order_that_was_all_ours_stays_ours() -> None:
    assert [one.quantity for one in look(7, 3, shared=0).day_trades() if one.order_id is None] == []
