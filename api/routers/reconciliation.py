"""The last comparisons of the journal with each broker, and the one that answers a request. Runs none itself."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query

from api.auth import needs
from api.deps import ReadsDep
from api.models import ReconciliationList, Round
from api.problems import guarded
from control.reconciliation import ASK_EVERY_S
from core.people.roles import Role
from core.trading.types import Broker

router = APIRouter(tags=["portfolio"], dependencies=[needs(Role.VIEWER)])


@router.get("/reconciliation", summary="Broker against journal", responses=guarded())
async def reconciliation(
    reads: ReadsDep,
    broker: Annotated[Broker | None, Query(description="One broker; all active ones without it.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="Rounds a broker, newest first.")] = 1,
) -> ReconciliationList:
    """Book, trades and positions of the broker against what was booked here: FOREIGN and drift by instrument, and what was mended."""
    return await reads.reconciliations(broker=broker, limit=limit)


@router.get("/reconciliation/{broker}/{request_id}", summary="The round that answers a request", responses=guarded(404))
async def round_of_request(
    broker: Broker,
    request_id: UUID,
    reads: ReadsDep,
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for it.")] = 0.0,
) -> Round:
    """As `/reconciliation/run` was answered its `request_id`. 404 until the log tells of the round."""
    until = asyncio.get_running_loop().time() + wait
    while True:
        found = await reads.round_of_request(broker, request_id)
        if found is not None:
            return found
        if asyncio.get_running_loop().time() >= until:
            raise HTTPException(404, f"No round of {broker} for request {request_id} is on the log yet.")
        await asyncio.sleep(ASK_EVERY_S)
