"""An order's way through the sandbox at known prices: states, fills, refusals, positions, to the paisa."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kiteconnect import KiteConnect
from kiteconnect.exceptions import GeneralException, InputException, KiteException, OrderException

from tests.integration.sandbox_support import SandboxProcess, market_order, place, row, wait_for, wait_status

BIDS = [[1499.9, 10, 1], [1499.8, 20, 2]]
ASKS = [[1500.0, 10, 1], [1500.1, 20, 2]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SandboxProcess, KiteConnect]]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox"), "--still", "--step-latency", "0.005") as process:
        yield process, process.login()


@pytest.fixture
def sandbox(running: tuple[SandboxProcess, KiteConnect]) -> SandboxProcess:
    """A fresh day with INFY at 1500.0 and 30 shares a side."""
    process = running[0]
    process.admin("POST", "resume")
    process.admin("POST", "roll-day")
    process.set_price("NSE:INFY", 1500.0, bids=BIDS, asks=ASKS)
    return process


@pytest.fixture
def kite(running: tuple[SandboxProcess, KiteConnect], sandbox: SandboxProcess) -> KiteConnect:
    return running[1]


def statuses(kite: KiteConnect, order_id: str) -> list[str]:
    return [each["status"] for each in kite.order_history(order_id)]


ACCEPTED = ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING"]


def test_a_market_order_becomes_a_limit_walks_the_book_and_rests(kite: KiteConnect) -> None:
    order_id = market_order(kite, quantity=50, market_protection=1, tag="walk1")
    found = wait_for(lambda: (r := row(kite, order_id))["filled_quantity"] and r, "fills")
    assert (found["status"], found["order_type"], found["price"]) == ("OPEN", "LIMIT", 1515.0)
    assert (found["filled_quantity"], found["pending_quantity"]) == (30, 20)
    assert found["average_price"] == 1500.066667  # 10 at 1500.00 and 20 at 1500.10
    assert found["tags"] == ["walk1", "mktp", "mktp:1.00"]
    assert [(t["average_price"], t["quantity"]) for t in kite.order_trades(order_id)] == [(1500, 10), (1500.1, 20)]
    assert statuses(kite, order_id) == [*ACCEPTED, "OPEN", "OPEN"]


def test_the_rest_of_a_market_order_fills_when_the_book_comes_back(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = market_order(kite, quantity=50)
    wait_for(lambda: row(kite, order_id)["filled_quantity"] == 30, "the visible depth")
    sandbox.set_price("NSE:INFY", 1501.0, bids=[[1500.9, 50]], asks=[[1501.0, 100]])
    done = wait_status(kite, order_id, "COMPLETE")
    assert (done["filled_quantity"], done["pending_quantity"]) == (50, 0)
    assert statuses(kite, order_id)[-1] == "COMPLETE"


def test_a_limit_rests_until_the_price_comes(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, price=1495.0)
    wait_status(kite, order_id, "OPEN")
    sandbox.set_price("NSE:INFY", 1495.2, bids=[[1495.1, 50]], asks=[[1495.2, 50]])
    assert row(kite, order_id)["filled_quantity"] == 0
    sandbox.set_price("NSE:INFY", 1494.0, bids=[[1493.9, 50]], asks=[[1494.0, 50]])
    assert wait_status(kite, order_id, "COMPLETE")["average_price"] == 1494
    assert statuses(kite, order_id) == [*ACCEPTED, "OPEN", "COMPLETE"]


def test_a_stop_waits_for_its_trigger(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, order_type="SL", trigger_price=1505.0, price=1506.0)
    assert wait_status(kite, order_id, "TRIGGER PENDING")["filled_quantity"] == 0
    sandbox.set_price("NSE:INFY", 1505.0, bids=[[1504.9, 50]], asks=[[1505.1, 50]])
    assert wait_status(kite, order_id, "COMPLETE")["average_price"] == 1505.1
    assert statuses(kite, order_id) == [*ACCEPTED, "TRIGGER PENDING", "OPEN", "COMPLETE"]


def test_a_stop_market_order_needs_protection_and_becomes_a_stop_limit(
    sandbox: SandboxProcess, kite: KiteConnect
) -> None:
    stop = {"order_type": "SL-M", "price": None, "trigger_price": 1490.0, "transaction_type": "SELL"}
    with pytest.raises(InputException, match="without market protection"):
        place(kite, **stop)
    order_id = place(kite, **stop, market_protection=1)
    assert wait_status(kite, order_id, "TRIGGER PENDING")["price"] == 1475.1
    sandbox.set_price("NSE:INFY", 1489.0, bids=[[1488.9, 50]], asks=[[1489.0, 50]])
    assert wait_status(kite, order_id, "COMPLETE")["average_price"] == 1488.9


def test_ioc_cancels_what_does_not_fill_at_once(kite: KiteConnect) -> None:
    partly = wait_status(kite, place(kite, quantity=25, price=1500.0, validity="IOC"), "CANCELLED")
    assert (partly["filled_quantity"], partly["cancelled_quantity"]) == (10, 15)
    nothing = wait_status(kite, place(kite, price=1400.0, validity="IOC"), "CANCELLED")
    assert nothing["filled_quantity"] == 0


def test_a_paused_market_takes_orders_and_fills_none(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.admin("POST", "pause")
    order_id = market_order(kite)
    wait_status(kite, order_id, "OPEN")
    sandbox.set_price("NSE:INFY", 1500.0, bids=BIDS, asks=ASKS)
    assert row(kite, order_id)["filled_quantity"] == 0
    sandbox.admin("POST", "resume")
    wait_status(kite, order_id, "COMPLETE")


def test_the_admin_makes_the_next_fill_partial(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.admin("POST", "next-fill", quantity=3, instrument="NSE:INFY")
    order_id = place(kite, quantity=10, price=1500.0)
    wait_for(lambda: row(kite, order_id)["filled_quantity"] == 3, "a fill of three")
    sandbox.set_price("NSE:INFY", 1500.0, bids=BIDS, asks=ASKS)
    wait_status(kite, order_id, "COMPLETE")
    assert [trade["quantity"] for trade in kite.order_trades(order_id)] == [3, 7]


def test_modify_goes_through_its_states_and_binds(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, price=1450.0)
    wait_status(kite, order_id, "OPEN")
    kite.modify_order("regular", order_id, price=1500.0, quantity=5)
    done = wait_status(kite, order_id, "COMPLETE")
    assert (done["quantity"], done["average_price"], done["modified"]) == (5, 1500, True)
    seen = statuses(kite, order_id)
    assert seen == [
        *ACCEPTED, "OPEN", "MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED", "OPEN", "COMPLETE",
    ]  # fmt: skip
    with pytest.raises(OrderException) as caught:
        kite.modify_order("regular", order_id, price=1501.0)
    assert caught.value.code == 400
    assert statuses(kite, order_id) == seen  # no row for what came too late


def test_the_twenty_sixth_modification_is_refused(kite: KiteConnect) -> None:
    order_id = place(kite, price=1400.0)
    for n in range(25):
        wait_status(kite, order_id, "OPEN")
        kite.modify_order("regular", order_id, price=1401.0 + n)
    wait_status(kite, order_id, "OPEN")
    with pytest.raises(OrderException, match="Maximum allowed order modifications exceeded"):
        kite.modify_order("regular", order_id, price=1450.0)


def test_cancel_goes_through_its_states(kite: KiteConnect) -> None:
    order_id = place(kite, price=1450.0)
    wait_status(kite, order_id, "OPEN")
    kite.cancel_order("regular", order_id)
    done = wait_status(kite, order_id, "CANCELLED")
    assert (done["cancelled_quantity"], done["filled_quantity"]) == (10, 0)
    assert statuses(kite, order_id) == [*ACCEPTED, "OPEN", "CANCEL PENDING", "CANCELLED"]
    with pytest.raises(OrderException, match="cannot be cancelled"):
        kite.cancel_order("regular", order_id)


def test_an_order_still_on_its_way_cannot_be_cancelled(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still", "--step-latency", "0.2") as process:
        kite = process.login()
        order_id = place(kite, price=1450.0)
        with pytest.raises(OrderException, match=r"being processed\. Try later"):
            kite.cancel_order("regular", order_id)


REFUSALS: list[tuple[dict[str, Any], type[KiteException], int, str]] = [
    ({"price": 1500.05}, InputException, 400, r"Tick size for this script is 0\.10"),
    ({"price": None}, InputException, 400, "`price`"),
    ({"quantity": 0}, InputException, 400, "`quantity`"),
    ({"quantity": -5}, InputException, 400, "`quantity`"),
    ({"tradingsymbol": "NOSUCH"}, InputException, 400, "expired or does not exist"),
    ({"tradingsymbol": "NIFTY 50"}, InputException, 400, "expired or does not exist"),
    ({"exchange": "XYZ"}, InputException, 400, "`exchange`"),
    ({"transaction_type": "HOLD"}, InputException, 400, "`transaction_type`"),
    ({"product": "NRML"}, InputException, 400, "`product`"),
    ({"order_type": "SL", "price": 1500.0}, InputException, 400, "`trigger_price`"),
    ({"order_type": "SL", "price": 1500.0, "trigger_price": 1501.0}, InputException, 400, "less than or equal"),
    ({"order_type": "MARKET", "price": None}, InputException, 400, "without market protection are not allowed"),
    (
        {"order_type": "MARKET", "price": None, "market_protection": 0},
        InputException,
        400,
        "without market protection are not allowed",
    ),
    ({"order_type": "MARKET", "market_protection": 101}, InputException, 400, "`market_protection`"),
    ({"tag": "a" * 21}, InputException, 400, "`tag`"),
    ({"validity": "TTL", "validity_ttl": 2}, InputException, 400, "TTL"),
    ({"variety": "bo"}, GeneralException, 405, "Requested method not allowed"),
    ({"variety": "amo"}, InputException, 400, "amo"),
    ({"product": "CNC", "transaction_type": "SELL"}, GeneralException, 400, "Insufficient holdings"),
]


@pytest.mark.parametrize(("changes", "error", "code", "words"), REFUSALS)
def test_a_bad_order_is_refused_in_kite_s_words_and_leaves_no_row(
    kite: KiteConnect, changes: dict[str, Any], error: type[KiteException], code: int, words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        place(kite, **changes)
    assert caught.value.code == code
    assert kite.orders() == []


def test_a_lot_that_is_no_lot_is_refused(kite: KiteConnect) -> None:
    future = next(each for each in kite.instruments("NFO") if each["instrument_type"] == "FUT")
    with pytest.raises(InputException, match=f"multiples of {future['lot_size']}"):
        place(kite, exchange="NFO", tradingsymbol=future["tradingsymbol"], product="NRML", quantity=1)


def test_what_the_risk_system_refuses_is_a_rejected_row(kite: KiteConnect) -> None:
    broke = wait_status(kite, place(kite, quantity=900_000), "REJECTED")
    assert "Insufficient funds. Required margin is 270000000.00" in broke["status_message"]
    assert broke["exchange_order_id"] is None
    assert broke["exchange_timestamp"] is None
    low = wait_status(kite, place(kite, price=1.0), "REJECTED")
    assert "lower circuit limit" in low["status_message"]


def test_positions_and_margins_follow_the_fills_to_the_paisa(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still") as process:
        kite = process.login()
        process.set_price("NSE:INFY", 1500.0)
        wait_status(kite, place(kite, quantity=10, price=1500.1), "COMPLETE")
        process.set_price("NSE:INFY", 1510.0, bids=[[1510.0, 100]], asks=[[1510.1, 100]])
        selling = {"transaction_type": "SELL", "price": 1510.0}
        wait_status(kite, place(kite, quantity=4, **selling), "COMPLETE")
        (position,) = kite.positions()["net"]
        assert (position["quantity"], position["average_price"]) == (6, 1500.1)
        assert position["pnl"] == 99  # 4 × 9.90 realised, 6 × 9.90 open
        assert kite.margins("equity")["utilised"]["debits"] == 6 * 1500.1 * 0.2 - 4 * 9.9
        wait_status(kite, place(kite, quantity=6, **selling), "COMPLETE")
        (flat,) = kite.positions()["day"]
        assert (flat["quantity"], flat["pnl"], flat["day_buy_quantity"], flat["day_sell_value"]) == (0, 99, 10, 15100)


def test_a_delivery_is_a_holding_the_next_day_and_can_be_sold(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    wait_status(kite, market_order(kite, tradingsymbol="WIPRO", product="CNC", quantity=8), "COMPLETE")
    sandbox.admin("POST", "roll-day")
    assert kite.orders() == []
    assert kite.trades() == []
    assert "WIPRO" not in {position["tradingsymbol"] for position in kite.positions()["net"]}
    selling = {"tradingsymbol": "WIPRO", "product": "CNC", "transaction_type": "SELL", "market_protection": -1}
    wait_status(kite, market_order(kite, quantity=5, **selling), "COMPLETE")
    with pytest.raises(GeneralException, match="Insufficient holdings"):
        market_order(kite, quantity=4, **selling)
    holding = next(each for each in kite.holdings() if each["tradingsymbol"] == "WIPRO")
    assert (holding["t1_quantity"], holding["used_quantity"]) == (8, 5)


def test_the_day_s_end_cancels_open_orders_and_keeps_the_ledger(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, price=1400.0, tag="endofday1")
    wait_status(kite, order_id, "OPEN")
    (live,) = sandbox.admin("GET", "ledger?tag=endofday1")
    before = [each for each in sandbox.admin("GET", "ledger") if each != live]
    sandbox.admin("POST", "roll-day")
    assert kite.orders() == []
    assert [each for each in sandbox.admin("GET", "ledger") if each["tag"] != "endofday1"] == before
    (entry,) = sandbox.admin("GET", "ledger?tag=endofday1")
    assert (live["status"], entry["status"], entry["cancelled_quantity"]) == ("OPEN", "CANCELLED", 10)
    assert (entry["order_id"], entry["tradingsymbol"], entry["transaction_type"]) == (order_id, "INFY", "BUY")
    assert (entry["quantity"], entry["tag"]) == (10, "endofday1")


def test_two_orders_do_not_share_one_level(kite: KiteConnect) -> None:
    first, second = (place(kite, quantity=8, price=1500.0) for _ in range(2))
    wait_status(kite, first, "COMPLETE")
    found = wait_for(lambda: (r := row(kite, second))["filled_quantity"] and r, "the rest of the level")
    assert (found["status"], found["filled_quantity"]) == ("OPEN", 2)


def test_a_book_of_hundreds_is_whole(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    placed = [place(kite, tradingsymbol="NTPC", price=320.0, quantity=1, tag=f"load{n}") for n in range(200)]
    wait_status(kite, placed[-1], "OPEN")
    assert [order["order_id"] for order in kite.orders()] == placed
    assert len({order["exchange_order_id"] for order in kite.orders()}) == 200
    assert [entry["order_id"] for entry in sandbox.admin("GET", "ledger")][-200:] == placed
