"""The control room's FastAPI app: reads only, refuses foreign Host headers, errors as problem+json.

Changes nothing anywhere; what it shows comes from the log's views and read models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import problems
from api.metrics import MetricsPage
from api.probes import Prober
from api.reads import Reads
from api.routers import health, orders, portfolio, reconciliation, strategies
from core.config import Settings

TEXT = """
What the system does and did, for people and programs. Every answer is read from the log's views; nothing here changes anything.

Money is rupees in decimal strings, times are UTC (ISO 8601), quantities are units. `simulated: true` marks prices of the
local sandbox.
"""


def create_app(settings: Settings) -> FastAPI:
    reads = Reads(settings)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await app.state.metrics.close()
        await reads.close()

    app = FastAPIOffline(  # /docs and /redoc with the page's own scripts: no other host is asked
        title="Alpha Panda",
        summary="Looking in",
        description=TEXT,
        version="0.1.0",
        lifespan=life,
        swagger_ui_parameters={"validatorUrl": None, "defaultModelsExpandDepth": -1},
    )
    app.state.reads = reads
    app.state.prober = Prober(settings, reads.engine, reads.redis)
    app.state.metrics = MetricsPage(reads)
    problems.install(app)
    for module in (health, orders, portfolio, reconciliation, strategies):
        app.include_router(module.router)
    app.add_middleware(problems.KnownHosts, allowed=settings.api_allowed_hosts)
    return app
