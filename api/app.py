"""The control room's FastAPI app: every route names who may, refuses foreign Host headers, tells errors as problem+json.

Refuses to start with a route that names no role. What it shows comes from the log's views and read models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from api import problems
from api.auth import unguarded
from api.front import Bounded, KnownHosts, SafeHeaders, Tagged
from api.housekeeping import Housekeeping
from api.hub import EventHub
from api.metrics import MetricsPage
from api.pages.mount import mount
from api.probes import Prober
from api.reads import Reads
from api.routers import (
    alert_channels,
    auth,
    happenings,
    health,
    operations,
    order_commands,
    orders,
    people,
    portfolio,
    reconciliation,
    reports,
    strategies,
    strategy_changes,
)
from control.connections import Connections
from core.config import Settings

TEXT = """
What the system does and did, and what people and programs may ask of it. Log in at `/api/v1/auth/login`, or give a program an API key
(`alpha-panda keys add`); both go into `Authorization: Bearer …`.

Money is rupees in decimal strings, times are UTC (ISO 8601), quantities are units. `simulated: true` marks prices of the
local sandbox. Errors are problem details (RFC 9457) that name the field and what to do.
"""

V1 = "/api/v1"
V1_MODULES = (
    auth,
    people,
    orders,
    order_commands,
    portfolio,
    reconciliation,
    strategies,
    strategy_changes,
    operations,
    happenings,
    alert_channels,
    reports,
)


def create_app(settings: Settings) -> FastAPI:
    """The app.

    Raises:
        RuntimeError: a route names no role.
    """
    reads, links = Reads(settings), Connections(settings, "api")
    prober = Prober(settings, reads.engine, reads.redis)
    hub, housekeeping = EventHub(settings, prober), Housekeeping(reads)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        hub.start()
        housekeeping.start()
        yield
        await housekeeping.close()
        await live.close()
        await hub.close()
        await app.state.metrics.close()
        await links.close()
        await reads.close()

    app = FastAPIOffline(  # /docs and /redoc with the page's own scripts: no other host is asked
        title="Alpha Panda",
        summary="Looking and acting",
        description=TEXT,
        version="0.1.0",
        lifespan=life,
        swagger_ui_parameters={"validatorUrl": None, "defaultModelsExpandDepth": -1},
    )
    app.openapi = lambda: _documented(app)  # type: ignore[method-assign]
    app.state.settings = settings
    app.state.reads = reads
    app.state.links = links
    app.state.prober = prober
    app.state.hub = hub
    app.state.metrics = MetricsPage(reads)
    app.state.own_guards = frozenset()  # mounts whose pages guard themselves
    problems.install(app)
    v1 = APIRouter(prefix=V1)
    for module in V1_MODULES:
        v1.include_router(module.router)
    app.include_router(health.router)
    app.include_router(v1)
    live = mount(app, settings, reads, links, prober, hub)
    app.add_middleware(Tagged)
    app.add_middleware(Bounded)
    app.add_middleware(KnownHosts, allowed=settings.api_allowed_hosts)
    app.add_middleware(SafeHeaders)
    if wrong := unguarded(app):
        raise RuntimeError(f"these routes name no role: {', '.join(wrong)}")
    return app


def _documented(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document with examples, made once."""
    if app.openapi_schema is None:
        from api.examples import put_in

        app.openapi_schema = put_in(FastAPI.openapi(app))
    return app.openapi_schema
