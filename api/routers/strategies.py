"""Strategies: what is configured, what runs, and why the rest does not."""

from __future__ import annotations

from fastapi import APIRouter

from api.auth import needs
from api.deps import ReadsDep
from api.models import StrategyList
from api.problems import guarded
from core.people.roles import Role

router = APIRouter(tags=["strategies"], dependencies=[needs(Role.VIEWER)])


@router.get("/strategies", summary="Strategies with their instances", responses=guarded())
async def strategies(reads: ReadsDep) -> StrategyList:
    """Rows of the configuration with each instance: its target, whether it trades or why not, and its runtime state."""
    return await reads.strategies()
