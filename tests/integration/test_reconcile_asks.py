"""Who asks for a round of reconciliation, and how people see the last ones: real log, database and Temporal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete
from temporalio.client import Client

from api.reads import Reads
from core import ids
from core.clock import trading_day, utc_now
from core.config import Settings
from core.events import topics
from core.events.envelope import Envelope, EventType, make
from core.events.payloads import OrderUpdate, ReconciledLine, Reconciliation
from core.ids import order_tag
from core.messaging.producer import EventProducer
from core.messaging.records import Record
from core.reconcile_start import ask_now
from core.routing import reconcile_workflow_id
from core.storage import view_rounds
from core.storage.db import broker_engine, view_engine
from core.storage.view_rounds import ROUNDS
from core.temporal import connect
from core.trading.types import Broker, Exchange, Product
from streams.feed_texts import reconnected
from streams.order_updates import OrderUpdates
from streams.order_views import main
from tests.integration.portfolio_support import eventually, running
from tests.journal_world import JournalWorld

pytestmark = [pytest.mark.stack]
ZERODHA = Broker.ZERODHA


@pytest.fixture
async def client(stack: Settings) -> AsyncIterator[Client]:
    """A Temporal whose reconcile workflow waits for a worker; ended afterwards."""
    client = await connect(stack)
    yield client
    await client.get_workflow_handle(reconcile_workflow_id(ZERODHA)).terminate()


async def asked(client: Client) -> list[str]:
    """Reasons of the rounds asked of the running workflow."""
    history = await client.get_workflow_handle(reconcile_workflow_id(ZERODHA)).fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes for event in history.events]
    return [str(signal.input.payloads[0].data.decode()) for signal in signals if signal.signal_name]


async def test_asking_starts_the_workflow_once_and_then_asks_it(stack: Settings, client: Client) -> None:
    request = uuid4()
    await ask_now(client, stack, ZERODHA, "first")
    first = (await client.get_workflow_handle(reconcile_workflow_id(ZERODHA)).describe()).run_id
    await ask_now(client, stack, ZERODHA, "second", request)
    reasons = await asked(client)
    assert [("first" in one, "second" in one) for one in reasons] == [(True, False), (False, True)]
    assert str(request) in reasons[1]
    assert (await client.get_workflow_handle(reconcile_workflow_id(ZERODHA)).describe()).run_id == first


async def test_updates_that_were_interrupted_lead_to_a_round(stack: Settings, client: Client) -> None:
    engine = broker_engine(stack, ZERODHA)
    event = reconnected(utc_now() - timedelta(seconds=9), utc_now(), "silent")
    try:
        handle = OrderUpdates(client, {ZERODHA: engine}, stack).handle
        await handle(_record(topics.orders_updates(ZERODHA), event))
    finally:
        await engine.dispose()
    assert "updates were interrupted" in (await asked(client))[0]


async def test_a_hint_about_a_send_that_was_given_up_leads_to_a_round_at_once(stack: Settings, client: Client) -> None:
    """It may be working at the broker: the round adopts and cancels it. What its own workflow follows does not ask for one."""
    engine = broker_engine(stack, ZERODHA)
    journal = await JournalWorld.make(engine, ZERODHA)
    handle = OrderUpdates(client, {ZERODHA: engine}, stack).handle

    async def hint(order_id: UUID) -> None:
        update = OrderUpdate(
            broker_order_id="S1", tag=order_tag(order_id, 1), status="OPEN", source="test", received_at=utc_now()
        )
        event = make(
            EventType.ORDER_UPDATE,
            update,
            id=ids.new_id(),
            key="S1",
            source="test",
            correlation_id=order_id,
            broker=ZERODHA,
        )
        await handle(_record(topics.orders_updates(ZERODHA), event))

    try:
        lost, followed = await journal.order(), await journal.order()
        await journal.claim(lost)
        await journal.journal.unknown(lost, 1, "read timeout")
        await journal.journal.absent(lost, 1, "3 books without it")
        await journal.claim(followed)
        await ask_now(client, stack, ZERODHA, "the test begins")
        await hint(followed)
        assert len(await asked(client)) == 1
        await hint(lost)
        assert "given up turned up" in (await asked(client))[1]
    finally:
        await engine.dispose()


def _record(topic: str, event: Envelope) -> Record:
    return Record(topic, 0, 0, event.key.encode(), event.encode(), dict(event.headers()), 0)


def make_round(account: str, request_id: UUID | None = None, age_s: float = 0, **changes: object) -> Reconciliation:
    at = utc_now() - timedelta(seconds=age_s)
    line = ReconciledLine(
        exchange=Exchange.NSE, tradingsymbol="INFY", product=Product.MIS, broker=15, ours=10, foreign=4, drift=1
    )
    given = {
        "round_id": ids.new_id(),
        "account": account,
        "trading_day": trading_day(at),
        "began_at": at,
        "finished_at": at,
        "reasons": ("a test",),
        "requests": () if request_id is None else (request_id,),
        "judged": True,
        "lines": (line,),
    }
    return Reconciliation.model_validate(given | changes)


async def test_the_log_tells_people_the_last_rounds(stack: Settings, tmp_path: Path) -> None:
    producer = EventProducer(stack, client_id="test")
    await producer.start()
    engine, reads, request = view_engine(stack, ZERODHA), Reads(stack), uuid4()
    account = f"A{request}"  # rounds of other accounts may lie on the log
    async with engine.begin() as connection:
        await connection.execute(delete(ROUNDS))
    older, newer = make_round(account, age_s=60), make_round(account, request)
    try:
        async with running("order-views", main, stack, tmp_path):
            for found in (newer, older, newer):
                event = make(
                    EventType.RECONCILIATION,
                    found,
                    id=ids.derive(found.round_id, "event"),
                    key=found.account,
                    source="test",
                    correlation_id=found.round_id,
                    broker=ZERODHA,
                )
                await producer.send(topics.reconciliations(ZERODHA), event)
            await eventually(
                lambda: view_rounds.last_rounds(engine, view_rounds.KEPT),
                lambda rows: [row for row in rows if row.account == account] == [newer, older],
                within_s=90,
            )
        answer = await reads.reconciliations(broker=ZERODHA)
        assert [(row.round_id, row.broker, row.lines[0].drift) for row in answer.rounds] == [
            (newer.round_id, ZERODHA, 1)
        ]
        mine = await reads.round_of_request(ZERODHA, request)
        assert mine is not None
        assert mine.round_id == newer.round_id
        assert await reads.round_of_request(ZERODHA, uuid4()) is None
    finally:
        await reads.close()
        await producer.stop()
        await engine.dispose()


async def test_only_the_last_rounds_are_kept(stack: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_rounds, "KEPT", 3)
    engine = view_engine(stack, Broker.PAPER)
    rounds = [make_round("ACC", age_s=10 - n) for n in range(6)]
    try:
        for found in rounds:
            await view_rounds.store(engine, found)
        kept = await view_rounds.last_rounds(engine, 10)
    finally:
        await engine.dispose()
    assert kept == rounds[:2:-1]
