"""flatten --direct against the sandbox as a process of its own: no stack, killed in the middle, and nothing is sent twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from kiteconnect import KiteConnect

from cli.setup import ensure_env
from core.brokers.kite_http import exchange_token
from core.brokers.zerodha_session import write_session
from core.config import Settings, load_settings
from core.flatten_file import Outcome, read_sends
from tests.integration.sandbox_support import (
    API_KEY,
    API_SECRET,
    USER_ID,
    SandboxProcess,
    market_order,
    place,
    wait_status,
)

COMMAND = Path(sys.executable).with_name("alpha-panda")


class Desk:
    """A home folder without a stack, a sandbox, and somebody who trades in its app."""

    def __init__(self, home: Path, sandbox: SandboxProcess, settings: Settings, kite: KiteConnect) -> None:
        self.home, self.sandbox, self.settings, self.kite = home, sandbox, settings, kite

    def run(self, typed: str = USER_ID, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(COMMAND), "flatten", "--direct", "--broker", "zerodha"],
            input=f"{typed}\n",
            env=os.environ | {"ALPHA_PANDA_HOME": str(self.home), "COLUMNS": "200"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def open_business(self) -> None:
        """A long, a short, and an order that rests."""
        wait_status(self.kite, market_order(self.kite, quantity=10), "COMPLETE")
        short = market_order(self.kite, tradingsymbol="SBIN", transaction_type="SELL", quantity=4)
        wait_status(self.kite, short, "COMPLETE")
        self.resting = place(self.kite, price=1470.0, quantity=3, tag="MYOWN")
        wait_status(self.kite, self.resting, "OPEN")

    def net(self) -> dict[str, int]:
        rows = self.kite.positions()["net"]
        return {row["tradingsymbol"]: row["quantity"] for row in rows if row["quantity"]}

    def sent(self) -> list[dict[str, Any]]:
        """Every order of the ledger that carries a tag of the file."""
        return [row for send in read_sends(self.home) for row in self.sandbox.ledger(send.line.tag)]


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(home))
    with SandboxProcess(tmp_path / "sandbox", "--still") as sandbox:
        ensure_env(home, {"SANDBOX_PORT": str(sandbox.port)})
        with (home / ".env").open("a") as env:
            env.write(
                f"KITE_API_KEY={API_KEY}\nKITE_API_SECRET={API_SECRET}\nKITE_USER_ID={USER_ID}\nDURATION_FACTOR=60\n"
            )
        settings = load_settings()
        token = sandbox.admin("POST", "request-token")["request_token"]
        session = await exchange_token(settings, token)
        write_session(settings, session)
        kite = KiteConnect(API_KEY, root=sandbox.root)
        kite.set_access_token(session.access_token)
        for name, price in (("NSE:INFY", 1500.0), ("NSE:SBIN", 830.0)):
            book = {"bids": [[price - 0.1, 1000]], "asks": [[price + 0.1, 1000]]}
            sandbox.set_price(name, price, **book)
        yield Desk(home, sandbox, settings, kite)


async def test_it_lists_cancels_closes_and_says_what_it_did(desk: Desk) -> None:
    desk.open_business()
    done = desk.run()
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (USER_ID, "position +10 NSE:INFY", "position -4 NSE:SBIN", "MYOWN", "SIMULATED", "is flat"):
        assert words in done.stdout, words
    assert desk.net() == {}
    assert wait_status(desk.kite, desk.resting, "CANCELLED")
    sends = read_sends(desk.home)
    assert [(send.line.side.value, send.line.quantity, send.outcome, send.filled_quantity) for send in sends] == [
        ("SELL", 10, Outcome.ENDED, 10),
        ("BUY", 4, Outcome.ENDED, 4),
    ]
    assert len(desk.sent()) == 2
    again = desk.run()
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout


async def test_anything_but_the_user_id_does_nothing(desk: Desk) -> None:
    desk.open_business()
    done = desk.run("yes")
    assert done.returncode == 1
    assert "nothing was done" in done.stderr
    assert desk.net() == {"INFY": 10, "SBIN": -4}
    assert read_sends(desk.home) == []


@pytest.mark.parametrize("point", ["flatten.before_line", "flatten.after_line", "flatten.after_send"])
async def test_killed_in_the_middle_and_run_again_it_sends_no_line_twice(desk: Desk, point: str) -> None:
    desk.open_business()
    died = desk.run(FAILPOINTS=f"{point}=kill:1")
    assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    left = {"flatten.before_line": 0, "flatten.after_line": 0, "flatten.after_send": 1}[point]
    assert len(desk.sent()) == left
    done = desk.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert desk.net() == {}
    sent = desk.sent()
    assert len(sent) == 2, "one accepted order a position"
    assert len({row["tag"] for row in sent}) == 2


async def test_an_answer_lost_after_accepting_is_found_by_the_tag(desk: Desk) -> None:
    desk.open_business()
    desk.sandbox.fault("answer_lost", nth=1)
    done = desk.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "looked up in the book" in done.stdout
    assert (desk.net(), len(desk.sent())) == ({}, 2)


async def test_without_a_session_it_says_how_to_get_one(desk: Desk) -> None:
    desk.settings.session_file.unlink()
    done = desk.run()
    assert done.returncode == 1
    assert "alpha-panda login" in done.stderr


def test_paper_has_none_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(COMMAND), "flatten", "--direct", "--broker", "paper"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "kill on --broker paper" in done.stderr


def test_its_help_says_that_it_is_the_one_exception_to_the_claim() -> None:
    done = subprocess.run([str(COMMAND), "flatten", "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert "one exception to the claim" in " ".join(done.stdout.split())
