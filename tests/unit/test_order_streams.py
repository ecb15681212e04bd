"""The gateway and the update consumer against a Temporal that answers as each test says; nothing real behind them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.service import RPCError, RPCStatusCode

from activities.orders_worker import _until_stopped
from core.errors import Transient
from core.trading.types import Broker
from streams import order_gateway
from streams.order_gateway import Gateway


class _Refusing:
    def __init__(self, status: RPCStatusCode) -> None:
        self._status = status

    async def start_workflow(self, *_: Any, **__: Any) -> None:
        raise RPCError("words of Temporal", self._status, b"")


@pytest.mark.parametrize(
    "status", [RPCStatusCode.UNAVAILABLE, RPCStatusCode.NOT_FOUND, RPCStatusCode.PERMISSION_DENIED]
)
async def test_a_decided_order_waits_while_temporal_starts_no_workflows(
    status: RPCStatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A namespace that is not there (yet) must not send decided orders to the DLQ."""
    gateway = Gateway.__new__(Gateway)
    refusing: Any = _Refusing(status)
    gateway._client = refusing
    monkeypatch.setattr(order_gateway, "start_order", lambda client, order: client.start_workflow(order))
    monkeypatch.setattr(Gateway, "_input", lambda *_: None)
    monkeypatch.setattr(order_gateway, "decode", lambda _: _Envelope())
    monkeypatch.setattr(order_gateway, "SignalValidated", _Decided)
    monkeypatch.setattr(order_gateway.topics, "broker_of", lambda _: Broker.PAPER)
    with pytest.raises(Transient):
        await gateway.handle(_Record())  # type: ignore[arg-type]


class _Decided:
    order_id = "an order"


class _Envelope:
    data = _Decided()
    correlation_id = "a tick"
    type = "signal.validated"


class _Record:
    topic = "any"
    value = b""


async def test_publishing_that_dies_ends_the_order_worker() -> None:
    async def dies() -> None:
        raise KeyError("a bug")

    with pytest.raises(RuntimeError, match="publishing ended"):
        await asyncio.wait_for(_until_stopped(asyncio.Event(), asyncio.create_task(dies())), 5)


async def test_a_stop_ends_the_wait() -> None:
    stop = asyncio.Event()
    stop.set()
    publishing = asyncio.create_task(asyncio.Event().wait())
    await asyncio.wait_for(_until_stopped(stop, publishing), 5)  # type: ignore[arg-type]
    publishing.cancel()
