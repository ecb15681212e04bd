"""Alerts never block or fail what raised them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from core import alerts
from core.alerts import Alerts
from core.errors import Transient
from core.events.envelope import Envelope
from core.events.payloads import Alert
from core.messaging.producer import EventProducer


class FakeProducer:
    def __init__(self, error: Exception | None = None, hang: bool = False) -> None:
        self.sent: list[tuple[str, Envelope]] = []
        self._error, self._hang = error, hang

    async def send(self, topic: str, event: Envelope) -> None:
        if self._hang:
            await asyncio.Event().wait()
        if self._error is not None:
            raise self._error
        self.sent.append((topic, event))


def make_alerts(**options: Any) -> tuple[Alerts, FakeProducer]:
    producer = FakeProducer(**options)
    return Alerts(cast(EventProducer, producer), "risk-manager"), producer


async def test_an_alert_goes_to_the_log_under_its_kind() -> None:
    raiser, producer = make_alerts()
    await raiser.raise_(
        "order.unresolved", "order 7", "evidence ran out", "decide: `alpha-panda order`", broker_order_id="1"
    )
    await raiser.drain()
    ((topic, event),) = producer.sent
    assert (topic, event.key, event.source) == ("alerts", "order.unresolved", "risk-manager")
    assert isinstance(event.data, Alert)
    assert event.data.details == {"broker_order_id": "1"}


async def test_a_log_that_is_away_is_logged_not_raised() -> None:
    raiser, _ = make_alerts(error=Transient("Kafka is away"))
    await raiser.raise_("kind", "subject", "message", "action")
    await raiser.drain()


async def test_a_log_that_hangs_neither_blocks_nor_piles_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "MAX_OPEN", 5)
    raiser, _ = make_alerts(hang=True)
    async with asyncio.timeout(5):
        for number in range(50):
            await raiser.raise_("kind", str(number), "message", "action")
        await raiser.drain(0.01)
    assert len(raiser._open) == 5
    for task in raiser._open:
        task.cancel()
