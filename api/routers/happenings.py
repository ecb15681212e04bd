"""What happens: events as they come, alerts, signals with what risk made of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.responses import StreamingResponse

from api.auth import Viewer, actor_of, needs
from api.deps import HubDep, ReadsDep
from api.hub import EventHub, Full, Listener, wire
from api.models import Answer
from api.problems import guarded
from api.routers.orders import Moment
from core.errors import NotLoggedIn
from core.events.payloads import Denial, Signal
from core.people.roles import Role
from core.storage import views
from core.storage.views import Cursor, DecisionFilter, StoredEvent
from core.trading.types import Broker

router = APIRouter(tags=["events"])

KEEP_ALIVE_S = 15.0
CHECK_S = 30.0
"""How often a stream asks whether its session still goes on."""


SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events. `event` is the type (`order.filled`, `pnl.snapshot`, `alert`, `health`, …), `data` the "
        "event as the log has it, `id` its id. Sent back as Last-Event-ID, what came after is sent first; seconds of it may come "
        "twice: know events by their id. `resync` says that too much was missed: read everything anew.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/events", summary="Events as they happen", response_class=StreamingResponse, responses=SSE | guarded())
async def events(
    request: Request,
    actor: Viewer,
    hub: HubDep,
    types: Annotated[
        list[str] | None, Query(max_length=20, description="Prefixes of types, e.g. `order.`; all without.")
    ] = None,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> StreamingResponse:
    """Orders, fills, positions with PnL, decisions, changes, reconciliations, alerts and health."""
    opened = _opened(hub, tuple(types or ()), last_event_id)
    try:
        first = await anext(opened)
    except Full as error:
        raise HTTPException(503, str(error)) from None
    return StreamingResponse(
        _stream(request, opened, first), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _opened(hub: EventHub, types: tuple[str, ...], last_id: str | None) -> AsyncIterator[Listener]:
    with hub.listening(types, last_id) as listener:
        yield listener


async def _stream(request: Request, opened: AsyncIterator[Listener], listener: Listener) -> AsyncIterator[bytes]:
    """Until the listener goes, or may no longer listen."""
    checked = asyncio.get_running_loop().time()
    try:
        async for lines in wire(listener, KEEP_ALIVE_S):
            now = asyncio.get_running_loop().time()
            if now - checked >= CHECK_S:
                checked = now
                try:
                    await actor_of(request)
                except NotLoggedIn:
                    return
            yield lines
    finally:
        await opened.aclose()  # type: ignore[attr-defined]


class AlertList(Answer):
    """Newest first, each as the log has it."""

    alerts: list[dict[str, Any]]


@router.get("/alerts", summary="Alerts", dependencies=[needs(Role.VIEWER)], responses=guarded())
async def alerts(
    hub: HubDep,
    kind: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> AlertList:
    """The last 500 there were. 503 until the log was read."""
    if not hub.following:
        raise HTTPException(503, "The log is not followed yet: look at /health/ready, then ask again.")
    rows = [json.loads(event.data) for event in hub.alerts()]
    return AlertList(alerts=[row for row in rows if kind in (None, row["data"]["kind"])][:limit])


class DecidedSignal(Answer):
    """A signal and what risk made of it: its order, or every code it failed."""

    broker: Broker
    signal: Signal
    accepted: bool
    order_id: UUID | None
    denials: list[Denial]
    decided_at: datetime
    simulated: bool

    @staticmethod
    def of(broker: Broker, event: StoredEvent, *, simulated: bool) -> DecidedSignal:
        data = event.data
        return DecidedSignal(
            broker=broker,
            signal=Signal.model_validate(data["signal"]),
            accepted=event.type == "signal.validated",
            order_id=data.get("order_id"),
            denials=data.get("denials", []),
            decided_at=data["decided_at"],
            simulated=simulated,
        )


class SignalPage(Answer):
    """Newest first. `next` is the cursor of the following page, None on the last one."""

    signals: list[DecidedSignal]
    next: str | None


@router.get("/signals", summary="Signals with their decisions", dependencies=[needs(Role.VIEWER)], responses=guarded())
async def signals(
    reads: ReadsDep,
    broker: Annotated[Broker | None, Query(description="One broker; all active ones without it.")] = None,
    accepted: Annotated[bool | None, Query(description="Only accepted, or only rejected ones.")] = None,
    strategy: Annotated[str | None, Query(max_length=64)] = None,
    instrument: Annotated[str | None, Query(max_length=64)] = None,
    since: Annotated[Moment | None, Query(description="Decided at or after, with a time zone.")] = None,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> SignalPage:
    """What strategies and people wanted, and every code that stood against it."""
    after = Cursor.decode(cursor) if cursor is not None else None
    wanted = DecisionFilter(accepted, strategy, instrument, since)
    rows: list[tuple[StoredEvent, Broker]] = []
    for one in reads.brokers(broker):
        found = await views.list_decisions(reads.views(one), wanted, after=after, limit=limit + 1)
        rows += [(event, one) for event in found]
    rows.sort(key=lambda row: (row[0].ts, row[0].event_id), reverse=True)
    page = rows[:limit]
    following = Cursor(page[-1][0].ts, page[-1][0].event_id).encode() if len(rows) > limit else None
    simulated = reads.settings.simulated
    return SignalPage(
        signals=[DecidedSignal.of(one, event, simulated=simulated) for event, one in page], next=following
    )


@router.get("/signals/{signal_id}", summary="One signal", dependencies=[needs(Role.VIEWER)], responses=guarded(404))
async def signal(signal_id: UUID, reads: ReadsDep) -> DecidedSignal:
    """With risk's decision. 404 until there is one."""
    for one in reads.brokers(None):
        found = await views.decision_of(reads.views(one), signal_id)
        if found is not None:
            return DecidedSignal.of(one, found, simulated=reads.settings.simulated)
    raise HTTPException(404, f"No decision on signal {signal_id} is on the log.")
