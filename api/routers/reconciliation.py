"""The last comparisons of the journal with each broker."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import needs
from api.deps import ReadsDep
from api.models import ReconciliationList
from api.problems import guarded
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
