"""Orders and their timelines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query
from pydantic import AfterValidator

from api.auth import needs
from api.deps import ReadsDep
from api.models import OrderDetail, OrderPage
from api.problems import guarded
from core.people.roles import Role
from core.storage.views import OrderFilter
from core.trading.types import Broker, OrderStatus

router = APIRouter(tags=["orders"], dependencies=[needs(Role.VIEWER)])


def _with_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("give the time a zone, for example 2026-10-07T09:15:00+05:30 or …Z")
    return moment


Moment = Annotated[datetime, AfterValidator(_with_zone)]


@router.get("/orders", summary="Orders, newest first", responses=guarded())
async def orders(
    reads: ReadsDep,
    broker: Annotated[Broker | None, Query(description="One broker; all active ones without it.")] = None,
    status: Annotated[list[OrderStatus] | None, Query(description="May be given several times.")] = None,
    strategy: Annotated[str | None, Query(examples=["momentum-demo"])] = None,
    instrument: Annotated[str | None, Query(examples=["NSE:INFY"])] = None,
    since: Annotated[Moment | None, Query(description="Created at or after, with a time zone.")] = None,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> OrderPage:
    """A page of orders as the log tells of them."""
    wanted = OrderFilter(statuses=status or (), strategy_id=strategy, instrument=instrument, since=since)
    return await reads.orders(wanted, broker=broker, cursor=cursor, limit=limit)


@router.get("/orders/{order_id}", summary="An order's whole timeline", responses=guarded(404))
async def order(reads: ReadsDep, order_id: UUID) -> OrderDetail:
    """Signal, decision, sends with the broker's answers, fills, every event in words, and the link to Temporal UI."""
    found = await reads.order(order_id)
    if found is None:
        raise HTTPException(404, f"No broker's log knows order {order_id}.")
    return found
