"""Backup and restore by the two commands of docs/security.md: after every store was lost, nothing is sent twice and nothing hidden."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.people.roles import Role
from core.trading.signals import Signal
from core.trading.types import Broker, Intent, SendState
from docker.native.layout import Layout
from docker.native.stack import NativeStack
from tests.e2e.crash_trades import QUANTITY, REST_AT, RESTS, TURNS, by_hand, denied, held, order_of, publish, signal_of
from tests.e2e.test_disasters import LONG_S, await_status, bring_up, quotes, trade
from tests.e2e.trading import open_orders, unpublished
from tests.fixtures.people import make_user
from tests.fixtures.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ZERODHA = Broker.ZERODHA
STORES = ("postgres", "kafka", "temporal", "valkey")
"""All that a deployment keeps, below var/data. The sandbox is no part of it: it is the broker, and remembers everything."""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    made = System.make("backup", [by_hand()], DURATION_FACTOR="10")
    try:
        bring_up(made)
        yield made
    finally:
        made.end()


def meant(system: System) -> dict[Intent, Signal]:
    """An exit and an entry at zerodha that are decided and not sent: the process that talks to the broker is away."""
    NativeStack(system.settings).supervisor.stop_parts([f"broker-{ZERODHA}"])
    wanted = {
        Intent.EXIT: signal_of(ZERODHA, TURNS[0], intent=Intent.EXIT),
        Intent.ENTRY: signal_of(ZERODHA, TURNS[1]),
    }
    publish(system, {ZERODHA: list(wanted.values())})

    def states() -> list[str]:
        query = (
            "SELECT s.state FROM zerodha.sends s JOIN zerodha.orders o USING (order_id) WHERE o.signal_id = ANY(:ids)"
        )
        return [row["state"] for row in system.sql(query, ids=[one.signal_id for one in wanted.values()])]

    system.wait(lambda: states() == [SendState.INTENT] * 2, "both to be decided", LONG_S, states)
    return wanted


def log_in(system: System, name: str, password: str) -> httpx.Response:
    url = f"http://127.0.0.1:{system.settings.api_port}/api/v1/auth/login"
    return httpx.post(url, json={"name": name, "password": password}, timeout=30)


def lose_everything(system: System) -> None:
    system.down()
    for name in STORES:
        shutil.rmtree(Layout.of(system.settings).data / name)
    shutil.rmtree(system.settings.var / "session")


def ledger(system: System) -> dict[str, str]:
    """Tag → broker order id of all that the broker ever accepted."""
    rows = system.admin("ledger")
    assert len({row["tag"] for row in rows}) == len(rows)
    return {row["tag"]: row["order_id"] for row in rows}


def standing(system: System) -> list[dict[str, Any]]:
    """What differs or is others' at zerodha, by a round of now."""
    system.command("reconcile", "--broker", ZERODHA.value, check=False)
    last = next(row for row in system.api("/reconciliation")["rounds"] if row["broker"] == ZERODHA)
    names = ("tradingsymbol", "foreign", "drift")
    found = [{name: line[name] for name in names} for line in last["lines"] if line["drift"] or line["foreign"]]
    return found if last["judged"] else [{"not judged": last["why_not"]}]


def test_a_deployment_comes_back_from_its_backup_and_sends_nothing_twice(system: System, tmp_path: Path) -> None:
    file = tmp_path / "evening.backup"
    name, password = asyncio.run(make_user(system.settings, Role.TRADER))
    token = log_in(system, name, password).json()["access_token"]
    with quotes(system):
        before = trade(system, *Broker)
        await_status(system, before, "FILLED")
        resting = trade(system, *Broker, price=REST_AT)
        await_status(system, resting, "ACKED")
        decided = meant(system)
        said = system.command("backup", str(file)).stdout
        assert str(file) in said
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        NativeStack(system.settings).supervisor.start_parts([f"broker-{ZERODHA}"])
        for one in decided.values():
            await_status(system, {ZERODHA: one}, "FILLED")
        after = trade(system, *Broker)  # of which the backup knows nothing
        await_status(system, after, "FILLED")
        sent = ledger(system)
    running = system.command("restore", str(file), check=False)
    assert (running.returncode, "make down" in running.stderr) == (1, True), running.stderr
    system.down()
    full = system.command("restore", str(file), check=False)
    assert (full.returncode, "not empty" in full.stderr) == (1, True), full.stderr

    lose_everything(system)
    told = system.command("restore", str(file)).stdout
    assert "3 orders were open, 2 of them may have been sent since" in told, told
    bring_up(system)
    with quotes(system) as markets:
        for one in (before[ZERODHA], *decided.values()):
            await_status(system, {ZERODHA: one}, "FILLED")
        await_status(system, resting, "ACKED")
        assert order_of(system, Broker.PAPER, before[Broker.PAPER])["status"] == "FILLED"
        assert ledger(system) == sent
        assert not any(order_of(system, broker, one) for broker, one in after.items())
        assert [held(system, ZERODHA, name) for name in TURNS] == [0, QUANTITY]
        unexplained = [{"tradingsymbol": "INFY", "foreign": QUANTITY, "drift": 0}]
        system.wait(
            lambda: standing(system) == unexplained,
            "what was traded since to be told as FOREIGN",
            LONG_S,
            lambda: standing(system),
        )
        real_money_is_off(system)
        markets[RESTS].price = REST_AT - 10
        await_status(system, resting, "FILLED")
        await_status(system, trade(system, *Broker), "FILLED")
        assert set(ledger(system)) > set(sent)
        assert len(ledger(system)) == len(sent) + 1
    assert open_orders(system) == []
    system.wait(lambda: not unpublished(system), "every event to be out", LONG_S, lambda: unpublished(system))
    assert log_in(system, name, password).status_code == 200
    me = f"http://127.0.0.1:{system.settings.api_port}/api/v1/auth/me"
    assert httpx.get(me, headers={"Authorization": f"Bearer {token}"}, timeout=30).status_code == 401


def real_money_is_off(system: System) -> None:
    """Until an admin gives the opt-in again and lifts the flag."""
    by = ("--yes", "--by", "a test", "--reason", "looked at the account")
    (first,) = [row for row in system.api("/strategies")["strategies"] if row["strategy_id"] == by_hand().strategy_id]
    assert [row["active"] for row in first["instances"] if row["broker"] == ZERODHA] in ([], [False])
    system.command("strategies", "opt-in", by_hand().strategy_id, "--target", "local", *by)

    def codes() -> str:
        one = trade(system, ZERODHA)[ZERODHA]
        return str(system.wait(lambda: denied(system, ZERODHA, one), "an entry to be refused", LONG_S))

    system.wait(lambda: codes() == "KILL", "nothing but the kill switch to stand against it", LONG_S)
    system.command("kill", "off", "--broker", ZERODHA.value, *by)
