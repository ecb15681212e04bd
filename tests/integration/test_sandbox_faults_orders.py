"""Faults of orders, of their updates and of the ticker's sockets, over the wire: SDK, raw WebSocket, a postback receiver."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kiteconnect import KiteConnect
from kiteconnect.exceptions import GeneralException
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.integration.sandbox_support import (
    API_KEY,
    SandboxProcess,
    free_port,
    market_order,
    place,
    row,
    wait_for,
    wait_status,
)

INFY = 408065


class Postbacks:
    """An address that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", free_port()), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def of(self, order_id: str) -> list[str]:
        return [each["status"] for each in self.bodies if each["order_id"] == order_id]

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Socket:
    """A raw WebSocket of the ticker, read by a thread."""

    def __init__(self, sandbox: SandboxProcess, kite: KiteConnect) -> None:
        address = f"ws://127.0.0.1:{sandbox.port}/?api_key={API_KEY}&access_token={kite.access_token}"
        self.open = ExitStack()
        self.connection: ClientConnection = self.open.enter_context(connect(address, compression=None))
        self.orders: list[dict[str, Any]] = []
        self.binary: list[bytes] = []
        self.ended: Exception | None = None
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            for frame in self.connection:
                if isinstance(frame, bytes):
                    self.binary.append(frame)
                elif json.loads(frame)["type"] == "order":
                    self.orders.append(json.loads(frame)["data"])
        except ConnectionClosed as error:
            self.ended = error

    def of(self, order_id: str) -> list[str]:
        return [each["status"] for each in self.orders if each["order_id"] == order_id]

    def close(self) -> None:
        self.open.close()
        self.thread.join(5)


@pytest.fixture(scope="module")
def postbacks() -> Iterator[Postbacks]:
    receiver = Postbacks()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, postbacks: Postbacks) -> Iterator[SandboxProcess]:
    flags = ("--still", "--heartbeat-interval", "0.1", "--tick-interval", "0.1")
    url = f"http://127.0.0.1:{postbacks.server.server_port}/"
    with SandboxProcess(tmp_path_factory.mktemp("sandbox"), *flags, "--postback-url", url) as process:
        yield process


@pytest.fixture
def sandbox(process: SandboxProcess) -> Iterator[SandboxProcess]:
    yield process
    process.admin("DELETE", "faults")
    process.set_price("NSE:INFY", 1500.0)


@pytest.fixture
def kite(sandbox: SandboxProcess) -> KiteConnect:
    return sandbox.login()


@pytest.fixture
def socket(sandbox: SandboxProcess, kite: KiteConnect) -> Iterator[Socket]:
    opened = Socket(sandbox, kite)
    yield opened
    opened.close()


def ledger_of(sandbox: SandboxProcess, order_id: str) -> dict[str, Any]:
    return next(each for each in sandbox.admin("GET", "ledger") if each["order_id"] == order_id)


# Orders -------------------------------------------------------------------------------------------------------


def test_a_late_order_is_in_the_ledger_at_once_and_in_the_book_later(
    sandbox: SandboxProcess, kite: KiteConnect
) -> None:
    sandbox.fault("late_in_book", tag="late1", delay_s=2, delay_max_s=2.5)
    began = time.monotonic()
    order_id = market_order(kite, tag="late1")
    wait_for(lambda: ledger_of(sandbox, order_id)["status"] == "COMPLETE", "the fill nobody sees")
    assert order_id not in {each["order_id"] for each in kite.orders() + kite.trades()}
    with pytest.raises(GeneralException, match="Couldn't find"):
        kite.order_history(order_id)
    wait_for(lambda: order_id in {each["order_id"] for each in kite.orders()}, "the late order")
    assert time.monotonic() - began >= 2
    assert kite.order_trades(order_id)


def test_a_late_order_stays_late_over_a_restart(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still") as process:
        kite = process.login()
        process.fault("late_in_book", delay_s=30)
        order_id = place(kite, price=1400.0)
        process.kill()
        process.start()
        assert kite.orders() == []
        assert ledger_of(process, order_id)["order_id"] == order_id


def test_a_stuck_order_waits_in_received(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("stuck_received", tag="stuck1", delay_s=1.5)
    began = time.monotonic()
    order_id = market_order(kite, tag="stuck1")
    assert row(kite, order_id)["status"] == "PUT ORDER REQ RECEIVED"
    wait_status(kite, order_id, "COMPLETE")
    assert time.monotonic() - began >= 1.5


def test_an_order_is_rejected_after_it_was_open(sandbox: SandboxProcess, kite: KiteConnect, socket: Socket) -> None:
    rule = sandbox.fault("reject_after_open", tag="rejected1", delay_s=1)
    order_id = market_order(kite, tag="rejected1")
    wait_status(kite, order_id, "OPEN")  # it could fill at once, and must not
    assert wait_status(kite, order_id, "REJECTED")["filled_quantity"] == 0
    assert "OPEN" in [each["status"] for each in kite.order_history(order_id)]
    wait_for(lambda: socket.of(order_id) == ["REJECTED"], "its update")
    assert [each["order_id"] for each in sandbox.fired(rule)] == [order_id]


def test_a_part_fills_and_the_rest_is_cancelled(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("partial_then_cancel", tag="part1", delay_s=1)
    order_id = market_order(kite, tag="part1", quantity=10)
    wait_for(lambda: row(kite, order_id)["filled_quantity"] == 5, "the partial fill")
    assert row(kite, order_id)["status"] == "OPEN"
    ended = wait_status(kite, order_id, "CANCELLED")
    assert (ended["filled_quantity"], ended["cancelled_quantity"]) == (5, 5)
    assert sum(trade["quantity"] for trade in kite.order_trades(order_id)) == 5


def test_a_fill_beats_a_cancel(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    rule = sandbox.fault("fill_races_cancel", tag="race1")
    order_id = place(kite, price=1400.0, tag="race1")
    wait_status(kite, order_id, "OPEN")
    kite.cancel_order("regular", order_id)
    ended = wait_status(kite, order_id, "COMPLETE", "CANCELLED")
    assert (ended["status"], ended["filled_quantity"], ended["average_price"]) == ("COMPLETE", 10, 1400)
    assert len(sandbox.fired(rule)) == 1


def test_a_part_can_fill_before_the_cancel(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("fill_races_cancel", tag="race2", quantity=4)
    order_id = place(kite, price=1400.0, tag="race2")
    wait_status(kite, order_id, "OPEN")
    kite.cancel_order("regular", order_id)
    ended = wait_status(kite, order_id, "CANCELLED")
    assert (ended["filled_quantity"], ended["cancelled_quantity"]) == (4, 6)


def test_a_fill_is_booked_after_cancelled(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("fill_after_cancelled", tag="zombie1", delay_s=1, quantity=3)
    order_id = place(kite, price=1400.0, tag="zombie1")
    wait_status(kite, order_id, "OPEN")
    kite.cancel_order("regular", order_id)
    assert wait_status(kite, order_id, "CANCELLED")["filled_quantity"] == 0
    wait_for(lambda: row(kite, order_id)["filled_quantity"] == 3, "the fill after the end")
    assert row(kite, order_id)["status"] == "CANCELLED"
    assert [trade["quantity"] for trade in kite.order_trades(order_id)] == [3]
    entry = ledger_of(sandbox, order_id)
    assert (entry["status"], entry["filled_quantity"], entry["cancelled_quantity"]) == ("CANCELLED", 3, 7)


def test_a_fill_after_cancelled_can_be_asked_for_now(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    order_id = place(kite, price=1400.0)
    wait_status(kite, order_id, "OPEN")
    kite.cancel_order("regular", order_id)
    wait_status(kite, order_id, "CANCELLED")
    sandbox.fault("fill_after_cancelled", order_id=order_id, now=True, delay_s=0, quantity=1)
    wait_for(lambda: row(kite, order_id)["filled_quantity"] == 1, "the fill after the end")


def test_trades_lag_behind_filled_quantity(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("trades_lag", tag="lag1", delay_s=1.5)
    order_id = market_order(kite, tag="lag1")
    wait_for(lambda: row(kite, order_id)["filled_quantity"] == 10, "the fill")
    assert kite.order_trades(order_id) == []
    assert order_id not in {trade["order_id"] for trade in kite.trades()}
    wait_for(lambda: kite.order_trades(order_id), "the late trade")


def test_the_app_modifies_and_cancels_an_order(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("modified_in_app", tag="app1", delay_s=0.1, price=1390, quantity=7)
    order_id = place(kite, price=1400.0, tag="app1")
    wait_for(lambda: row(kite, order_id)["modified"], "the modification")
    changed = wait_status(kite, order_id, "OPEN")
    assert (changed["price"], changed["quantity"]) == (1390, 7)
    rule = sandbox.fault("cancelled_in_app", order_id=order_id, now=True, delay_s=0)
    wait_status(kite, order_id, "CANCELLED")
    assert [each["order_id"] for each in sandbox.fired(rule)] == [order_id]


def test_orders_that_are_not_ours_come_without_tag_and_postback(
    sandbox: SandboxProcess, kite: KiteConnect, socket: Socket, postbacks: Postbacks
) -> None:
    before = {each["order_id"] for each in kite.orders()}
    sandbox.fault("foreign_order", symbol="NSE:SBIN", now=True, side="SELL", quantity=9, product="MIS")

    def foreign() -> dict[str, Any] | None:
        return next((each for each in kite.orders() if each["order_id"] not in before), None)

    order_id = wait_for(foreign, "the order from the app")["order_id"]
    shown = wait_status(kite, order_id, "COMPLETE")
    assert (shown["tag"], shown["transaction_type"], shown["filled_quantity"]) == (None, "SELL", 9)
    wait_for(lambda: socket.of(order_id) == ["COMPLETE"], "its frame")
    mine = market_order(kite)
    wait_for(lambda: postbacks.of(mine), "a postback of ours")
    assert postbacks.of(order_id) == []
    assert ledger_of(sandbox, order_id)["source"] == "app"


def test_foreign_orders_come_beside_ours_at_a_rate(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    rule = sandbox.fault("foreign_order", tag="beside*", nth=2, price=1300, quantity=2)
    for n in range(3):
        place(kite, price=1400.0, tag=f"beside{n}")
    (fired,) = wait_for(lambda: sandbox.fired(rule), "the foreign order")
    assert fired["tag"] == "beside1"


def test_the_risk_desk_squares_off(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    wait_status(kite, market_order(kite, tradingsymbol="WIPRO", quantity=6), "COMPLETE")
    sandbox.fault("rms_square_off", symbol="NSE:WIPRO", now=True)

    def flat() -> bool:
        (position,) = (each for each in kite.positions()["net"] if each["tradingsymbol"] == "WIPRO")
        return bool(position["quantity"] == 0)

    wait_for(flat, "a flat position")
    desk = kite.orders()[-1]
    assert (desk["placed_by"], desk["tag"], desk["transaction_type"]) == ("ADMINSQF", None, "SELL")
    assert desk["account_id"] == "AP0001"


# Updates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["frame", "postback"])
def test_updates_are_lost_doubled_and_delayed_on_one_channel(
    sandbox: SandboxProcess, kite: KiteConnect, socket: Socket, postbacks: Postbacks, channel: str
) -> None:
    here, there = (socket, postbacks) if channel == "frame" else (postbacks, socket)
    sandbox.fault("update_lost", channel=channel, tag="lost")
    sandbox.fault("update_duplicated", channel=channel, tag="twice", copies=2)
    sandbox.fault("update_delayed", channel=channel, tag="delayed", delay_s=2)
    ids = {tag: market_order(kite, tag=tag) for tag in ("lost", "twice", "delayed", "plain")}
    for order_id in ids.values():
        wait_for(lambda order_id=order_id: there.of(order_id) == ["COMPLETE"], "the other channel's update")  # type: ignore[misc]
    wait_for(lambda: here.of(ids["plain"]), "a plain update")
    assert (here.of(ids["lost"]), here.of(ids["delayed"])) == ([], [])
    wait_for(lambda: here.of(ids["twice"]) == ["COMPLETE"] * 3, "the doubled update")
    wait_for(lambda: here.of(ids["delayed"]) == ["COMPLETE"], "the delayed update")
    assert here.of(ids["lost"]) == []


def test_a_partial_update_comes_after_complete(
    sandbox: SandboxProcess, kite: KiteConnect, socket: Socket, postbacks: Postbacks
) -> None:
    sandbox.fault("update_reordered", tag="order1", nth=1, channel="frame", delay_s=30)
    sandbox.fault("update_reordered", tag="order1", nth=1, channel="postback", delay_s=30)
    sandbox.set_price("NSE:INFY", 1500.0, bids=[[1499.9, 5]], asks=[[1500.0, 4]])
    order_id = place(kite, price=1500.0, quantity=6, tag="order1")
    wait_for(lambda: row(kite, order_id)["filled_quantity"] == 4, "a partial fill")
    sandbox.set_price("NSE:INFY", 1500.0, bids=[[1499.9, 5]], asks=[[1500.0, 4]])
    wait_status(kite, order_id, "COMPLETE")
    for channel in (socket, postbacks):
        wait_for(lambda channel=channel: channel.of(order_id) == ["COMPLETE", "UPDATE"], "both")  # type: ignore[misc]


# Sockets ------------------------------------------------------------------------------------------------------


def test_a_mute_socket_is_open_and_says_nothing(sandbox: SandboxProcess, kite: KiteConnect, socket: Socket) -> None:
    wait_for(lambda: socket.binary, "a heartbeat")
    rule = sandbox.fault("socket_mute", count=1, delay_s=2)
    wait_for(lambda: sandbox.fired(rule), "silence")
    order_id = market_order(kite)
    wait_status(kite, order_id, "COMPLETE")
    heard = len(socket.binary)
    quiet_until = time.monotonic() + 0.3
    wait_for(lambda: time.monotonic() > quiet_until, "three heartbeats that do not come")
    assert len(socket.binary) <= heard + 1  # one may have been on its way
    assert socket.ended is None
    wait_for(lambda: len(socket.binary) > heard + 2, "the socket to speak again")
    assert socket.of(order_id) == []  # what was said meanwhile is lost


def test_a_socket_ends_in_a_reset(sandbox: SandboxProcess, kite: KiteConnect, socket: Socket) -> None:
    sandbox.fault("socket_reset", count=1)
    socket.connection.send(json.dumps({"a": "mode", "v": ["full", [INFY]]}))
    ended = wait_for(lambda: socket.ended, "the end")
    assert "no close frame received" in str(ended)


def test_a_handshake_is_refused_with_a_good_token(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.fault("socket_refused", count=1)
    with pytest.raises(InvalidStatus) as refused:
        Socket(sandbox, kite)
    assert refused.value.response.status_code == 403
    Socket(sandbox, kite).close()


def test_frames_are_cut_and_clocks_are_off(sandbox: SandboxProcess, kite: KiteConnect, socket: Socket) -> None:
    def next_tick() -> bytes:
        seen = len(socket.binary)
        sandbox.set_price("NSE:INFY", 1500.0)
        return wait_for(lambda: next((each for each in socket.binary[seen:] if len(each) > 1), None), "a tick")

    def age(frame: bytes) -> float:
        return time.time() - int.from_bytes(frame[4 + 60 : 4 + 64])

    socket.connection.send(json.dumps({"a": "mode", "v": ["full", [INFY]]}))
    wait_for(lambda: [each for each in socket.binary if len(each) == 188], "the first tick")
    sandbox.fault("socket_garbled", count=1)
    assert len(next_tick()) == 188 - 7
    sandbox.fault("clock_skew", count=1, skew_s=-90)
    assert 89 < age(next_tick()) < 93
    assert -1 < age(next_tick()) < 3
