"""KiteTicker, unchanged, on the sandbox's WebSocket; postbacks to a listening app."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import websockets
from kiteconnect import KiteConnect

from tests.integration.sandbox_support import (
    API_KEY,
    API_SECRET,
    ROOT,
    SandboxProcess,
    market_order,
    place,
    wait_for,
    wait_status,
)

INFY, NIFTY = 408065, 256265
DATA = Path(__file__).resolve().parents[1] / "data" / "kite"


class Heard:
    """What one KiteTicker process printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = process
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))

    def next(self, kind: str, seconds: float = 30.0) -> Any:
        """The next thing heard of this kind; others are skipped."""

        def look() -> list[Any] | None:
            while not self._lines.empty():
                said = self._lines.get()
                if said["kind"] == kind:
                    return [said["value"]]
            return None

        return wait_for(look, f"a {kind} from KiteTicker", seconds)[0]

    def next_order(self, status: str) -> dict[str, Any]:
        while True:
            update = self.next("order")
            if update["status"] == status:
                return dict(update)


@contextmanager
def kite_ticker(sandbox: SandboxProcess, token: str, mode: str, *tokens: int) -> Iterator[Heard]:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "tests.integration.sandbox_ticker_client", f"ws://127.0.0.1:{sandbox.port}",
            API_KEY, token, mode, *map(str, tokens),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "TZ": "Asia/Kolkata"},
    )  # fmt: skip
    try:
        yield Heard(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox"), "--still", "--heartbeat-interval", "0.3") as process:
        yield process


@pytest.fixture
def kite(sandbox: SandboxProcess) -> KiteConnect:
    return sandbox.login()


def published_postback() -> dict[str, Any]:
    return dict(json.loads((DATA / "postback.json").read_text()))


def test_full_ticks_agree_with_the_quote_route(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.set_price("NSE:INFY", 1500.0, bids=[[1499.9, 7, 3]], asks=[[1500.1, 9, 4], [1500.3, 2]])
    with kite_ticker(sandbox, kite.access_token, "full", INFY) as heard:
        tick = heard.next("tick")
        while tick["mode"] != "full":
            tick = heard.next("tick")
        quote = kite.quote("NSE:INFY")["NSE:INFY"]
        assert (tick["instrument_token"], tick["last_price"], tick["tradable"]) == (INFY, 1500.0, True)
        assert tick["depth"] == quote["depth"]
        assert tick["ohlc"] == quote["ohlc"]
        assert tick["volume_traded"] == quote["volume"]
        assert tick["exchange_timestamp"] == str(quote["timestamp"])  # read as IST wall clock, both
        sandbox.set_price("NSE:INFY", 1501.0)
        later = heard.next("tick")
        assert later["last_price"] == 1501.0
        assert later["volume_traded"] > tick["volume_traded"]


@pytest.mark.parametrize(("mode", "has", "has_not"), [("ltp", "last_price", "ohlc"), ("quote", "ohlc", "depth")])
def test_the_other_modes_carry_less(
    sandbox: SandboxProcess, kite: KiteConnect, mode: str, has: str, has_not: str
) -> None:
    with kite_ticker(sandbox, kite.access_token, mode, INFY) as heard:
        tick = heard.next("tick")
        while tick["mode"] != mode:
            tick = heard.next("tick")
        assert has in tick
        assert has_not not in tick


def test_indices_are_not_tradable_and_carry_a_timestamp(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.set_price("NSE:NIFTY 50", 25000.05)
    with kite_ticker(sandbox, kite.access_token, "full", NIFTY) as heard:
        tick = heard.next("tick")
        while tick["mode"] != "full":
            tick = heard.next("tick")
        assert (tick["tradable"], tick["last_price"]) == (False, 25000.05)
        assert tick["exchange_timestamp"]
        assert "depth" not in tick


def test_an_idle_socket_hears_one_byte_heartbeats(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    with kite_ticker(sandbox, kite.access_token, "full") as heard:
        assert [heard.next("frame") for _ in range(3)] == [[1, True]] * 3


def test_order_updates_reach_every_socket_of_the_user(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.set_price("NSE:INFY", 1500.0, bids=[[1499.9, 5]], asks=[[1500.0, 4]])
    with (
        kite_ticker(sandbox, kite.access_token, "full", INFY) as one,
        kite_ticker(sandbox, kite.access_token, "ltp", NIFTY) as two,
    ):
        one.next("connect")
        two.next("connect")
        wait_for(lambda: len(sandbox.admin("GET", "connections")) >= 2, "both sockets")
        order_id = market_order(kite, quantity=6, tag="frames1")
        for heard in (one, two):
            partial = heard.next_order("UPDATE")
            assert (partial["order_id"], partial["filled_quantity"], partial["unfilled_quantity"]) == (order_id, 4, 2)
        sandbox.set_price("NSE:INFY", 1500.0, bids=[[1499.9, 5]], asks=[[1500.0, 4]])
        for heard in (one, two):
            done = heard.next_order("COMPLETE")
            assert (done["order_id"], done["filled_quantity"], done["tag"]) == (order_id, 6, "frames1")
            assert set(done) == set(published_postback())
            assert done["checksum"] == ""


def test_a_bad_token_is_refused_at_the_handshake(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    with kite_ticker(sandbox, "wrong", "full", INFY) as heard:
        code, reason = heard.next("close")
        assert code == 1006
        assert "403" in reason


def test_a_dead_token_closes_its_sockets(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    with kite_ticker(sandbox, kite.access_token, "full", INFY) as heard:
        heard.next("connect")
        sandbox.admin("POST", "expire-token")
        heard.next("close")


async def test_more_than_three_thousand_tokens_are_refused_by_a_text_frame(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--still", "--extra-instruments", "3100") as process:
        kite = process.login()
        tokens = [row["instrument_token"] for row in kite.instruments()]
        url = f"ws://127.0.0.1:{process.port}/?api_key={API_KEY}&access_token={kite.access_token}"
        async with websockets.connect(url, compression=None, max_size=None) as socket:
            await socket.send(json.dumps({"a": "subscribe", "v": tokens}))
            message = await socket.recv()
            assert isinstance(message, str)
            assert json.loads(message)["type"] == "error"
            assert process.admin("GET", "connections")[0]["tokens"] == 3000


def test_a_moving_market_ticks_and_its_packets_differ(tmp_path: Path) -> None:
    with SandboxProcess(tmp_path, "--tick-interval", "0.05") as process:
        kite = process.login()
        with kite_ticker(process, kite.access_token, "full", INFY) as heard:
            ticks = [heard.next("tick") for _ in range(20)]
        volumes = [tick["volume_traded"] for tick in ticks if tick["mode"] == "full"]
        assert sorted(set(volumes)) == volumes or len(set(volumes)) >= len(volumes) - 1  # mode answers with a snapshot
        assert all(tick["depth"]["buy"][0]["price"] <= tick["last_price"] for tick in ticks if tick["mode"] == "full")
        order_id = market_order(kite, quantity=2500)  # more than a book shows: filled over several ticks
        done = wait_status(kite, order_id, "COMPLETE", "OPEN")
        assert done["filled_quantity"] > 0


def test_postbacks_carry_the_checksum(tmp_path: Path) -> None:
    received: queue.Queue[dict[str, Any]] = queue.Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/postback"
        with SandboxProcess(tmp_path, "--still", "--postback-url", url) as process:
            kite = process.login()
            order_id = place(kite, price=1400.0)
            wait_status(kite, order_id, "OPEN")
            assert received.empty()  # Kite says nothing of a mere placement
            kite.cancel_order("regular", order_id)
            update = received.get(timeout=20)
        assert (update["order_id"], update["status"]) == (order_id, "CANCELLED")
        assert set(update) == set(published_postback())
        text = f"{order_id}{update['order_timestamp']}{API_SECRET}"
        assert update["checksum"] == hashlib.sha256(text.encode()).hexdigest()
    finally:
        server.shutdown()
        server.server_close()
