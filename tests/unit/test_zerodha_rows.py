"""What a read of Zerodha's order book becomes: the same rows whether the SDK parsed their dates or left them as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kiteconnect import KiteConnect

from core.brokers import zerodha_rows as rows
from core.brokers.kite_http import kite_client
from core.clock import parse_kite_time
from tests.strategy_world import make_settings

BOOK = Path(__file__).parent.parent / "data" / "kite" / "orders.json"


def published() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(BOOK.read_text())["data"]
    return found


def orders_by(kite: KiteConnect, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kite._get = lambda *_route, **_more: found
    read: list[dict[str, Any]] = kite.orders()
    return read


def test_our_client_reads_the_published_book_as_the_sdk_does() -> None:
    account = str(published()[0]["placed_by"])
    ours = rows.book_rows(orders_by(kite_client(make_settings()), published()), account)
    theirs = rows.book_rows(orders_by(KiteConnect("key"), published()), account)
    assert ours
    assert all(row.order_at is not None for row in ours)
    assert [(row.broker_order_id, row.order_at, row.filled_quantity) for row in ours] == [
        (row.broker_order_id, row.order_at, row.filled_quantity) for row in theirs
    ]


def test_only_the_wanted_rows_are_read() -> None:
    account = str(published()[0]["placed_by"])
    wanted = str(published()[-1]["order_id"])
    assert {row.broker_order_id for row in rows.book_rows(published(), account, {wanted})} == {wanted}
    assert rows.book_rows(published(), account, {"none of them"}) == ()


@pytest.mark.parametrize(
    "text", ["2026-11-23T09:15:00", "2026-11-23", "2026-11-23 25:00:00", "", "2026-11-23 09:15:00+05:30"]
)
def test_a_time_that_kite_never_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"as Kite writes it|hour must be"):
        parse_kite_time(text)
