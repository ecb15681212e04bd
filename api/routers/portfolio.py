"""Positions and PnL, as the portfolio service folds them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import needs
from api.deps import ReadsDep
from api.models import PnlReport, PositionList
from api.problems import guarded
from core.people.roles import Role
from core.trading.types import Broker

router = APIRouter(tags=["portfolio"], dependencies=[needs(Role.VIEWER)])

OneBroker = Annotated[Broker | None, Query(description="One broker; all active ones without it.")]
Instance = Annotated[str | None, Query(description="One strategy instance.", examples=["momentum-demo@paper"])]


@router.get("/positions", summary="Positions marked to market", responses=guarded())
async def positions(
    reads: ReadsDep,
    broker: OneBroker = None,
    instance: Instance = None,
    open: Annotated[bool, Query(description="Leave out flat positions.")] = False,
) -> PositionList:
    """By strategy instance, instrument and product. 503 while Redis is away: the read model lives there."""
    return await reads.positions(broker=broker, instance=instance, open_only=open)


@router.get("/pnl", summary="PnL by broker and strategy instance", responses=guarded())
async def pnl(reads: ReadsDep, broker: OneBroker = None, instance: Instance = None) -> PnlReport:
    """Realised, unrealised, gross, charges and net: of the trading day and since the first fill."""
    return await reads.pnl(broker=broker, instance=instance)
