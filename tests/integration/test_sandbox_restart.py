"""The sandbox forgets nothing: kill -9, SIGTERM, a new start on the same folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kiteconnect import KiteConnect
from kiteconnect.exceptions import NetworkException

from tests.integration.sandbox_support import (
    API_KEY,
    ROOT,
    SandboxProcess,
    market_order,
    place,
    row,
    wait_for,
    wait_status,
)


def test_a_kill_right_after_the_answer_forgets_no_order(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still", "--step-latency", "0.05") as process:
        kite = process.login()
        placed = []
        for n in range(5):
            placed.append(market_order(kite, quantity=1, tag=f"kill{n}"))
            process.kill()
            process.start()
        for order_id in placed:  # the token lives on, and each order goes on where it stood
            wait_status(kite, order_id, "COMPLETE")
        ledger = process.admin("GET", "ledger")
        assert [(entry["order_id"], entry["tag"]) for entry in ledger] == [
            (o, f"kill{n}") for n, o in enumerate(placed)
        ]
        assert len(kite.trades()) == 5
        assert len({trade["trade_id"] for trade in kite.trades()}) == 5
        (position,) = kite.positions()["net"]
        assert position["quantity"] == 5


def test_a_restart_keeps_book_trades_positions_prices_and_admin_state(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still") as process:
        kite = process.login()
        process.set_price("NSE:INFY", 1500.0, bids=[[1499.9, 5]], asks=[[1500.0, 4]])
        part = place(kite, quantity=6, price=1500.0, tag="part1")
        wait_for(lambda: row(kite, part)["filled_quantity"] == 4, "a partial fill")
        stop = place(kite, order_type="SL", trigger_price=1510.0, price=1511.0)
        wait_status(kite, stop, "TRIGGER PENDING")
        process.admin("POST", "pause")
        before = (kite.orders(), kite.trades(), kite.positions(), kite.margins(), kite.quote("NSE:INFY"))
        histories = [kite.order_history(order_id) for order_id in (part, stop)]
        process.stop()
        assert process.process.returncode == 0
        process.start()
        assert (kite.orders(), kite.trades(), kite.positions(), kite.margins(), kite.quote("NSE:INFY")) == before
        assert [kite.order_history(order_id) for order_id in (part, stop)] == histories
        assert process.admin("GET", "status")["paused"]
        process.admin("POST", "resume")
        process.set_price("NSE:INFY", 1510.0, bids=[[1509.9, 50]], asks=[[1510.0, 50]])
        assert wait_status(kite, stop, "COMPLETE")["average_price"] == 1510
        process.set_price("NSE:INFY", 1499.9)
        assert wait_status(kite, part, "COMPLETE")["filled_quantity"] == 6


def test_a_walking_price_goes_on_where_it_stood(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--tick-interval", "0.02") as process:
        kite = process.login()
        order_id = place(kite, price=1390.0)  # a working order keeps its market moving
        wait_status(kite, order_id, "OPEN")
        wait_for(lambda: kite.quote("NSE:INFY")["NSE:INFY"]["volume"] > 200, "some ticks")
        process.stop()
        process.start()
        stopped = kite.quote("NSE:INFY")["NSE:INFY"]
        assert stopped["volume"] > 200
        assert abs(stopped["net_change"]) < 150


def test_a_second_sandbox_on_the_folder_or_the_port_is_refused_with_one_line(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path / "one") as process:
        for flags, words in (
            (["--data-dir", str(tmp_path / "one"), "--port", "0"], "another sandbox"),
            (["--data-dir", str(tmp_path / "two"), "--port", str(process.port)], "is taken"),
        ):
            command = [sys.executable, "-m", "sandbox", "--api-key", "k", "--api-secret", "s", *flags]
            ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
            assert ended.returncode == 1
            assert words in ended.stderr
            assert "Traceback" not in ended.stderr


def test_strict_limits_answer_429(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still", "--strict-limits") as process:
        kite = process.login()

        def ask(call: Callable[[], object]) -> NetworkException | None:
            try:
                call()
            except NetworkException as error:
                return error
            return None

        answers = [ask(lambda: place(kite, price=1400.0, quantity=1)) for _ in range(40)]
        refused = [answer for answer in answers if answer is not None]
        assert refused
        assert {(error.code, str(error)) for error in refused} == {(429, "Too many requests")}
        assert len(process.admin("GET", "ledger")) == 40 - len(refused)
        assert any(ask(lambda: kite.ltp("NSE:INFY")) for _ in range(5))


def test_unknown_api_keys_get_no_session(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still") as process:
        token = process.login().access_token
        stranger = KiteConnect(API_KEY + "x", access_token=token, root=process.root)
        with pytest.raises(Exception, match="Incorrect `api_key`"):
            stranger.orders()
