"""Disasters: a second worker, a workflow reset by hand, Temporal's database or Kafka's log gone, the day over with orders in doubt.

Each ends with no second send: the sandbox's ledger and the paper exchange's book are the referee, and what was published stays as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import select, update

from core import failpoints, health
from core.clock import to_ist, trading_day, utc_now
from core.events import topics
from core.routing import broker_lease, order_workflow_id
from core.services import services
from core.storage.claims import LEASES
from core.storage.db import broker_engine
from core.storage.journal import ORDERS, SENDS
from core.trading.signals import Signal
from core.trading.types import Broker
from docker.native.layout import VENV_BIN, Layout
from docker.native.stack import NativeStack
from tests.e2e.crash_trades import PRICES, REST_AT, RESTS, TURNS, by_hand, order_of, publish, signal_of
from tests.e2e.published import on_log, publish_stored, stored
from tests.e2e.test_lost_parts import order_workflows
from tests.e2e.test_reconcile import run_of
from tests.e2e.trading import Market, open_orders, referee, running_workflows, unpublished
from tests.fixtures.system import COMMAND, System

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

ZERODHA = Broker.ZERODHA
SERVICE = f"broker-{ZERODHA}"
TICKS = 4 * 3 * len(PRICES)
LONG_S = 180
"""A bound, not a wait: a busy machine takes its time."""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    made = System.make("disasters", [by_hand()], DURATION_FACTOR="10", FAILPOINTS=failpoints.FROM_FILES)
    try:
        bring_up(made)
        yield made
    finally:
        made.end()


def bring_up(system: System) -> None:
    """On a busy machine one `make up` may not see all processes ready in its time: the next goes on waiting."""
    done = system.command("up", check=False)
    for _ in range(3):
        if done.returncode == 0 or "Not ready after" not in done.stdout + done.stderr:
            break
        done = system.command("up", check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@contextmanager
def quotes(system: System) -> Iterator[dict[str, Market]]:
    """Prices that stand still and tick; some ticks were sent already, so that no signal meets a stale one."""
    with ExitStack() as stack:
        markets = {name: stack.enter_context(Market(system, name, price)) for name, price in PRICES.items()}
        before = system.admin("status")["ticks_sent"]
        system.wait(lambda: system.admin("status")["ticks_sent"] >= before + TICKS, "ticks to flow", LONG_S)
        yield markets


def trade(system: System, *brokers: Broker, price: Decimal | None = None) -> dict[Broker, Signal]:
    """An entry at each broker: at the market, or resting at `price`."""
    instrument = TURNS[0] if price is None else RESTS
    signals = {broker: signal_of(broker, instrument, price=price) for broker in brokers}
    publish(system, {broker: [one] for broker, one in signals.items()})
    return signals


def await_status(system: System, signals: dict[Broker, Signal], status: str) -> dict[Broker, dict[str, Any]]:
    """The orders of these signals once each stands at `status`."""

    def seen() -> dict[Broker, dict[str, Any]]:
        return {broker: order_of(system, broker, one) for broker, one in signals.items()}

    def all_there() -> bool:
        return all(row.get("status") == status for row in seen().values())

    system.wait(
        all_there, f"{status}", LONG_S, lambda: {b: (r.get("status"), r.get("reason")) for b, r in seen().items()}
    )
    return seen()


def in_the_end(system: System) -> None:
    """Nothing is left open, unpublished or running, and each order is at its broker once."""
    system.wait(lambda: not open_orders(system), "every order to end", LONG_S, lambda: open_orders(system))
    system.wait(lambda: not unpublished(system), "every event to be out", LONG_S, lambda: unpublished(system))
    for broker in Broker:
        referee(system, broker)
    system.wait(
        lambda: not running_workflows(system), "every workflow to end", LONG_S, lambda: running_workflows(system)
    )


def sent(system: System, order: dict[str, Any]) -> list[dict[str, Any]]:
    """What the sandbox accepted of an order."""
    query = "SELECT tag FROM zerodha.sends WHERE order_id = :id"
    tags = {row["tag"] for row in system.sql(query, id=order["order_id"])}
    return [row for row in system.admin("ledger") if row["tag"] in tags]


def events(system: System, broker: Broker) -> set[tuple[Any, ...]]:
    """Every order event of the journal: id, place in its order, bytes."""
    rows = system.sql(f"SELECT event_id, order_id, order_seq, value FROM {broker}.outgoing_events")
    return {(row["event_id"], row["order_id"], row["order_seq"], bytes(row["value"])) for row in rows}


# a second worker ----------------------------------------------------------------------------------------------------


class Worker:
    """One more process for zerodha's account, started by hand."""

    def __init__(self, system: System, name: str) -> None:
        self._system = system
        self._log = system.settings.var / "log" / f"{name}.log"
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Worker:
        with self._log.open("wb") as log:
            environment = os.environ | {"ALPHA_PANDA_HOME": str(self._system.home)}
            command = [str(COMMAND), "service", SERVICE]
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()

    def die(self) -> None:
        self._process.kill()  # also ends a frozen one
        self._process.wait(30)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @property
    def frozen(self) -> bool:
        return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def said(self, event: str) -> list[dict[str, Any]]:
        """Lines of its log with this event."""
        rows = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [row for row in rows if event in row.get("event", "")]

    @property
    def epochs(self) -> list[int]:
        """Of every time it got the lease."""
        return [row["epoch"] for row in self.said("lease taken")]

    def found_out(self, epoch: int) -> bool:
        """It was told that its lease of this epoch is over: by its claim, or by its next renewal."""
        return any(row["epoch"] == epoch for row in self.said("claim refused") + self.said("lease lost"))

    def await_standby(self) -> None:
        def stands_by() -> bool:
            word = health.read_all(self._system.settings.run_dir).get(SERVICE)
            return word is not None and word.pid == self._process.pid and "standby" in word.reason and not word.ready

        self._system.wait(stands_by, "the second worker to say that it stands by", LONG_S)

    def await_lease(self, above: int = 0) -> int:
        """The epoch it got, newer than this one."""
        self._system.wait(lambda: self.epochs and self.epochs[-1] > above, "the lease to be taken", LONG_S)
        return self.epochs[-1]


def arm(system: System, point: str, action: str) -> Path:
    """The next process of zerodha that passes this point acts; the file that says it did."""
    folder = failpoints.folder(system.settings, SERVICE)
    folder.mkdir(parents=True, exist_ok=True)
    hit = folder / (point + failpoints.HIT)
    hit.unlink(missing_ok=True)
    laid = folder / f"{point}.new"
    laid.write_text(action)
    laid.rename(folder / point)
    return hit


@contextmanager
def without_ours(system: System) -> Iterator[None]:
    """The supervisor's worker stopped meanwhile."""
    supervisor = NativeStack(system.settings, services(system.settings)).supervisor
    supervisor.stop_parts([SERVICE])
    try:
        yield
    finally:
        supervisor.start_parts([SERVICE])
        system.wait_ready(SERVICE, seconds=LONG_S)


def holder(*workers: Worker) -> Worker:
    """Whoever got the lease last: on a busy machine a living one may lose it too, and another goes on."""
    return max(workers, key=lambda worker: worker.epochs[-1] if worker.epochs else 0)


def test_a_second_worker_stands_by_and_takes_over_from_a_dead_and_from_a_frozen_one(system: System) -> None:
    """Two are frozen in turn just before their claims; each thaws after another got the lease, and cannot send: the claim names an
    epoch that is over, or is cancelled on its way because Temporal has given the call to another."""
    with quotes(system), without_ours(system), Worker(system, "worker-1") as first:
        first.await_lease()
        with Worker(system, "worker-2") as second, Worker(system, "worker-3") as third:
            second.await_standby()
            await_status(system, trade(system, ZERODHA), "FILLED")
            dead = holder(first, second, third)
            dead.die()
            left = [worker for worker in (first, second, third) if worker is not dead]
            system.wait(lambda: holder(*left, dead) is not dead, "a standby to take over", LONG_S)
            await_status(system, trade(system, ZERODHA), "FILLED")
            _freeze_both_before_their_claims(system, *left)
    in_the_end(system)


def _freeze_both_before_their_claims(system: System, *workers: Worker) -> None:
    hit = arm(system, "place.before_claim", "freeze")
    signals = trade(system, ZERODHA)
    system.wait(lambda: hit.exists() and any(worker.frozen for worker in workers), "the holder to freeze", LONG_S)
    one, other = sorted(workers, key=lambda worker: not worker.frozen)
    old = one.epochs[-1]
    hit = arm(system, "place.before_claim", "freeze")
    newer = other.await_lease(old)
    system.wait(lambda: hit.exists() and other.frozen, "its successor to freeze as well", LONG_S)
    one.thaw()
    system.wait(lambda: one.found_out(old), "the thawed worker to find out", LONG_S)
    order = await_status(system, signals, "FILLED")[ZERODHA]  # by the first, which got the lease once more
    other.thaw()
    system.wait(lambda: other.found_out(other.epochs[-1]), "the other to find out", LONG_S)
    (send,) = system.sql("SELECT * FROM zerodha.sends WHERE order_id = :id", id=order["order_id"])
    assert send["lease_epoch"] in one.epochs
    assert send["lease_epoch"] > newer > old
    assert len(sent(system, order)) == 1


def test_a_claim_under_an_epoch_that_is_over_is_refused(system: System) -> None:
    """The lease is taken, as by another process, between the decision to send and the claim."""
    log = system.settings.var / "log" / f"{SERVICE}.log"
    with quotes(system):
        hit = arm(system, "place.before_claim", "sleep-2")
        signals = trade(system, ZERODHA)
        system.wait(hit.exists, "the worker to be about to claim", LONG_S)
        taken = asyncio.run(_take_the_lease(system))
        order = await_status(system, signals, "FILLED")[ZERODHA]
    said = [json.loads(line) for line in log.read_text().splitlines() if "claim refused" in line]
    assert said[-1]["epoch"] == taken - 1
    (send,) = system.sql("SELECT lease_epoch FROM zerodha.sends WHERE order_id = :id", id=order["order_id"])
    assert send["lease_epoch"] > taken, "sent only once the lease was its own again"
    assert len(sent(system, order)) == 1
    in_the_end(system)


async def _take_the_lease(system: System) -> int:
    """The epoch of a holder that takes over and dies at once."""
    engine = broker_engine(system.settings, ZERODHA)
    statement = update(LEASES).where(LEASES.c.name == broker_lease(ZERODHA)).returning(LEASES.c.epoch)
    async with engine.begin() as connection:
        epoch = await connection.scalar(statement.values(holder="another", epoch=LEASES.c.epoch + 1))
    await engine.dispose()
    assert epoch is not None
    return int(epoch)


# a workflow reset ---------------------------------------------------------------------------------------------------


def reset(system: System, broker: Broker, order: dict[str, Any]) -> None:
    """As a person would: back to the workflow's beginning, by Temporal's own command. Returns once the new run is there."""
    name = order_workflow_id(broker, order["order_id"])
    before = run_of(system, name)
    command = [str(VENV_BIN / "temporal"), "workflow", "reset", "--workflow-id", name, "--type", "FirstWorkflowTask"]
    command += ["--address", system.settings.temporal_address, "--namespace", system.settings.temporal_namespace]
    done = subprocess.run([*command, "--reason", "a test"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    system.wait(lambda: run_of(system, name) != before, "the new run", LONG_S)


def test_a_workflow_reset_after_the_end_sends_and_publishes_nothing(system: System) -> None:
    with quotes(system):
        orders = await_status(system, trade(system, *Broker), "FILLED")
        in_the_end(system)
        before = {broker: events(system, broker) for broker in Broker}
        for broker, order in orders.items():
            reset(system, broker, order)
        in_the_end(system)
    assert {broker: events(system, broker) for broker in Broker} == before


def test_a_workflow_reset_in_the_middle_follows_its_order_to_the_end(system: System) -> None:
    """Once while an order rests, once between the broker's answer and its record."""
    with quotes(system) as markets:
        resting = trade(system, *Broker, price=REST_AT)
        orders = await_status(system, resting, "ACKED")
        for broker, order in orders.items():
            reset(system, broker, order)
        hit = arm(system, "place.after_send", "hang")
        answered = trade(system, ZERODHA)
        system.wait(hit.exists, "an order to be at the broker and not on record", LONG_S)
        reset(system, ZERODHA, order_of(system, ZERODHA, answered[ZERODHA]))
        order = await_status(system, answered, "FILLED")[ZERODHA]
        assert len(sent(system, order)) == 1
        markets[RESTS].price = REST_AT - 10
        await_status(system, resting, "FILLED")
        in_the_end(system)


# Temporal's database ------------------------------------------------------------------------------------------------


def test_temporals_database_lost_with_orders_open(system: System) -> None:
    """The workflows of open orders start again; a signal of before that is delivered again starts no second order."""
    with quotes(system) as markets:
        ended = trade(system, *Broker)
        await_status(system, ended, "FILLED")
        resting = trade(system, *Broker, price=REST_AT)
        orders = await_status(system, resting, "ACKED")
        before = {broker: events(system, broker) for broker in Broker}
        system.down()
        shutil.rmtree(Layout.of(system.settings).data / "temporal")
        bring_up(system)
        wanted = {order_workflow_id(broker, order["order_id"]) for broker, order in orders.items()}
        system.wait(
            lambda: set(running_workflows(system)) == wanted,
            "open orders' workflows",
            LONG_S,
            lambda: running_workflows(system),
        )
        publish(system, {broker: [ended[broker], resting[broker]] for broker in Broker})
        publish_stored(system, [topics.signals_validated(broker) for broker in Broker])
        every = {
            order_workflow_id(broker, row["order_id"])
            for broker in Broker
            for row in system.sql(f"SELECT order_id FROM {broker}.orders")
        }
        system.wait(lambda: set(order_workflows(system)) == every, "every signal to come again", LONG_S)
        system.wait(lambda: set(running_workflows(system)) == wanted, "ended orders' workflows to end", LONG_S)
        assert {broker: events(system, broker) for broker in Broker} == before
        markets[RESTS].price = REST_AT - 10
        await_status(system, resting, "FILLED")
        in_the_end(system)


# Kafka's log --------------------------------------------------------------------------------------------------------


def test_the_log_lost_and_made_anew_from_the_journal(system: System) -> None:
    """Same ids, bytes and headers; a signal of before starts nothing; without the command `make up` refuses and names it."""
    with quotes(system) as markets:
        ended = trade(system, *Broker)
        await_status(system, ended, "FILLED")
        resting = trade(system, *Broker, price=REST_AT)
        await_status(system, resting, "ACKED")
        system.wait(lambda: not unpublished(system), "every event to be out", LONG_S)
        before = {broker: events(system, broker) for broker in Broker}
        running = system.command("rebuild-log", "--yes", check=False)
        assert (running.returncode, "make down" in running.stderr) == (1, True), running.stderr
        system.down()
        shutil.rmtree(Layout.of(system.settings).data / "kafka")
        refused = system.command("up", check=False)
        assert refused.returncode == 1
        assert "alpha-panda rebuild-log" in refused.stdout + refused.stderr
        system.down()
        _rebuild(system)
        bring_up(system)
        assert on_log(system) == stored(system)
        publish(system, {broker: [ended[broker]] for broker in Broker})
        again = trade(system, *Broker)
        await_status(system, again, "FILLED")
        for broker, order in await_status(system, ended, "FILLED").items():
            assert before[broker] <= events(system, broker)
            assert broker is not ZERODHA or len(sent(system, order)) == 1
        markets[RESTS].price = REST_AT - 10
        await_status(system, resting, "FILLED")
        in_the_end(system)
    assert system.command("rebuild-portfolio").returncode == 0


def _rebuild(system: System) -> None:
    """Told first, done second, and then there is nothing left to do."""
    for words, done, left in (((), False, True), (("--yes",), True, True), (("--yes",), True, False)):
        said = system.json("rebuild-log", *words)
        lacking = {topic: row["lacking"] for topic, row in said["events"].items()}
        assert said["done"] is done
        assert lacking == {topic: row["stored"] * left for topic, row in said["events"].items()}
        assert said["checkpoints"] == (["strategy-runner"] if left else [])
        assert (said["log"]["known"] == said["log"]["present"]) is not left
    assert lacking.keys() >= {topics.signals_validated(broker) for broker in Broker}


# the day ------------------------------------------------------------------------------------------------------------


def test_the_day_rolls_over_while_orders_are_unknown_and_a_person_decides(system: System) -> None:
    """One never arrived, one did and filled; the book shows neither before it is emptied. The host's day cannot be turned: the
    sends are dated to the day before instead, which is all that our side knows of it."""
    gone, filled = TURNS
    with quotes(system):
        faults = [
            {"kind": "request_lost", "symbol": gone, "count": 1},
            {"kind": "answer_lost", "symbol": filled, "count": 1},
            {"kind": "empty_book"},
        ]
        system.admin("faults", {"rules": faults})
        signals = {name: signal_of(ZERODHA, name) for name in TURNS}
        publish(system, {ZERODHA: list(signals.values())})
        for one in signals.values():
            await_status(system, {ZERODHA: one}, "UNKNOWN")
        system.admin("roll-day", {})
        asyncio.run(_date_to_yesterday(system, list(signals.values())))
        httpx.delete(f"http://127.0.0.1:{system.settings.sandbox_port}/admin/faults", timeout=30).raise_for_status()
        orders = {name: await_status(system, {ZERODHA: one}, "UNRESOLVED")[ZERODHA] for name, one in signals.items()}
        assert "is over without proof" in orders[gone]["reason"]
        assert not sent(system, orders[gone])
        (row,) = sent(system, orders[filled])
        typed = ("--reason", "looked at in Kite", "--yes")
        system.command("resolve", str(orders[gone]["order_id"]), "never-placed", *typed)
        fill = ("--broker-order-id", row["order_id"], "--quantity", str(row["filled_quantity"]))
        fill += ("--price", str(row["average_price"]), "--trade-id", "T1")
        at = f"{to_ist(utc_now()):%Y-%m-%d %H:%M:%S}"
        system.command("resolve", str(orders[filled]["order_id"]), "book-fill", *fill, "--filled-at", at, *typed)
        await_status(system, {ZERODHA: signals[gone]}, "EXPIRED")
        await_status(system, {ZERODHA: signals[filled]}, "FILLED")
        in_the_end(system)
    assert (len(sent(system, orders[gone])), len(sent(system, orders[filled]))) == (0, 1)


async def _date_to_yesterday(system: System, signals: list[Signal]) -> None:
    engine = broker_engine(system.settings, ZERODHA)
    ours = select(ORDERS.c.order_id).where(ORDERS.c.signal_id.in_([one.signal_id for one in signals]))
    day = trading_day(utc_now()) - timedelta(days=1)
    async with engine.begin() as connection:
        await connection.execute(update(SENDS).where(SENDS.c.order_id.in_(ours)).values(trading_day=day))
    await engine.dispose()
