"""Starts the sandbox as the process it is in real life, and talks to it as a trader and as its admin."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from kiteconnect import KiteConnect

API_KEY, API_SECRET, USER_ID = "sandboxkey", "sandboxsecret", "AP0001"
ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 20.0) -> T:
    """The first truthy answer of `look`; fails loudly when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.01)


class SandboxProcess:
    """One sandbox subprocess on a free port; `with` stops it."""

    def __init__(self, data_dir: Path, *flags: str, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.flags = flags
        self.port = port or free_port()
        self.root = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start (again) on the same port and data folder."""
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "sandbox", "--port", str(self.port), "--data-dir", str(self.data_dir),
                "--api-key", API_KEY, "--api-secret", API_SECRET, "--user-id", USER_ID, *self.flags,
            ],
            cwd=ROOT,
        )  # fmt: skip
        try:
            wait_for(self._answers, "the sandbox to answer", 60)
        except BaseException:  # nobody holds this object yet who could stop it
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the sandbox ended with {self.process.returncode}"
        try:
            return httpx.get(f"{self.root}/admin/status").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM. Raises TimeoutExpired when it is not gone ten seconds later."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)

    def __enter__(self) -> SandboxProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def fault(self, kind: str, **rule: Any) -> dict[str, Any]:
        """Put one rule to work; as the sandbox keeps it."""
        (kept,) = self.admin("POST", "faults", kind=kind, **rule)
        return dict(kept)

    def fired(self, rule: dict[str, Any]) -> list[dict[str, Any]]:
        """What this rule did so far."""
        return [each for each in self.admin("GET", "faults?log=5000")["log"] if each["rule"] == rule["id"]]

    def ledger(self, tag: str) -> list[dict[str, Any]]:
        return list(self.admin("GET", f"ledger?tag={tag}"))

    def admin(self, method: str, path: str, **body: Any) -> Any:
        answer = httpx.request(method, f"{self.root}/admin/{path}", json=body if method == "POST" else None)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def set_price(self, instrument: str, last: float, **book: list[list[float]]) -> None:
        self.admin("POST", "price", instrument=instrument, last_price=last, **book)

    def login(self) -> KiteConnect:
        """A signed-in client; any earlier session ends."""
        kite = KiteConnect(API_KEY, root=self.root)
        kite.generate_session(self.admin("POST", "request-token")["request_token"], API_SECRET)
        return kite


def place(kite: KiteConnect, **changes: Any) -> str:
    """Place a small LIMIT order, changed as the test needs; a None leaves the field out."""
    fields: dict[str, Any] = {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": "INFY",
        "transaction_type": "BUY",
        "quantity": 10,
        "product": "MIS",
        "order_type": "LIMIT",
        "price": 1500.0,
        **changes,
    }
    return str(kite.place_order(**{name: value for name, value in fields.items() if value is not None}))


def market_order(kite: KiteConnect, **changes: Any) -> str:
    return place(kite, **{"order_type": "MARKET", "price": None, "market_protection": -1, **changes})


def row(kite: KiteConnect, order_id: str) -> dict[str, Any]:
    return next(order for order in kite.orders() if order["order_id"] == order_id)


def wait_status(kite: KiteConnect, order_id: str, *statuses: str) -> dict[str, Any]:
    """The book row once its status is one of these."""

    def look() -> dict[str, Any] | None:
        found = row(kite, order_id)
        return found if found["status"] in statuses else None

    return wait_for(look, f"order {order_id} to be {' or '.join(statuses)}")
