"""Asking for a comparison of the journal with a broker, and waiting for what it found. Changes nothing itself."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from control.acts import Act
from control.connections import Connections
from core.errors import Transient
from core.events.payloads import Reconciliation
from core.reconcile_start import ask_now
from core.storage import view_rounds
from core.trading.types import Broker

ASK_EVERY_S = 0.3


async def ask(links: Connections, act: Act, broker: Broker) -> UUID:
    """Ask the broker's workflow for a round. Returns the id the round will carry. Raises Transient while Temporal is away."""
    links.journal(broker)
    request_id = act.derived("reconcile", broker)
    await act.note(links.config, "reconcile", broker.value)
    await ask_now(await links.temporal(), links.settings, broker, act.reason or f"asked by {act.by}", request_id)
    return request_id


async def answer(links: Connections, broker: Broker, request_id: UUID, *, within_s: float) -> Reconciliation:
    """The round, once the log tells of it.

    Raises:
        Transient: none came in time; it says what to look at.
    """
    until = time.monotonic() + within_s
    while True:
        found = await view_rounds.round_of_request(links.views(broker), request_id)
        if found is not None:
            return found
        if time.monotonic() >= until:
            raise Transient(
                f"no round of {broker} came within {within_s:.0f} s; it was asked for and will come: look at "
                f"`alpha-panda status` for orders-{broker}, broker-{broker} and order-views, then `alpha-panda reconcile --last`"
            )
        await asyncio.sleep(ASK_EVERY_S)
