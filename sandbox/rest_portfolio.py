"""Routes of what the account owns: positions, holdings, margins. Read-only."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox import errors
from sandbox.app import Sandbox, endpoint
from sandbox.wire import success


async def positions(sandbox: Sandbox, request: Request) -> Response:
    if sandbox.views.empty("portfolio.positions"):
        return success({"net": [], "day": []})
    return success(sandbox.exchange.portfolio.positions())


async def holdings(sandbox: Sandbox, request: Request) -> Response:
    return success(sandbox.exchange.portfolio.holding_rows(sandbox.exchange.day))


async def margins(sandbox: Sandbox, request: Request) -> Response:
    every = sandbox.exchange.portfolio.margins()
    segment = request.path_params.get("segment")
    if segment is None:
        return success(every)
    if segment not in every:
        raise errors.invalid("segment")
    return success(every[segment])


routes = [
    Route("/portfolio/positions", endpoint(positions), methods=["GET"]),
    Route("/portfolio/holdings", endpoint(holdings), methods=["GET"]),
    Route("/user/margins", endpoint(margins), methods=["GET"]),
    Route("/user/margins/{segment}", endpoint(margins), methods=["GET"]),
]
