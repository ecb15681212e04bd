"""The sandbox as a service of ours: its settings from `.env`, its health in a file. The sandbox itself knows neither."""

from __future__ import annotations

import asyncio

from core.config import PROJECT_ROOT
from core.errors import StopTheStart
from core.service import ServiceContext
from sandbox.config import SandboxConfig
from sandbox.errors import SandboxStartError
from sandbox.server import serve

CONNECT_S = 0.1


def config(ctx: ServiceContext) -> SandboxConfig:
    settings = ctx.settings
    return SandboxConfig(
        host=settings.sandbox_host,
        port=settings.sandbox_port,
        data_dir=settings.var / "data" / "sandbox",
        seed=settings.sandbox_seed,
        api_key=settings.kite_api_key,
        api_secret=settings.kite_api_secret,
        user_id=settings.kite_user_id,
        redirect_url=f"http://127.0.0.1:{settings.kite_login_port}/",
        still=settings.sandbox_still,
        extra_instruments=settings.sandbox_extra_instruments,
        tick_interval=settings.sandbox_tick_interval,
        strict_limits=settings.sandbox_strict_limits,
        orders_per_second=settings.sandbox_orders_per_second,
        orders_per_minute=settings.sandbox_orders_per_minute,
        orders_per_day=settings.sandbox_orders_per_day,
        scenario=PROJECT_ROOT / settings.sandbox_scenario if settings.sandbox_scenario else None,
    )


async def _answers(host: str, port: int, server: asyncio.Task[None]) -> bool:
    """Wait until the port answers; False when the server ended first."""
    while not server.done():
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.wait({server}, timeout=CONNECT_S)
            continue
        writer.close()
        return True
    return False


async def main(ctx: ServiceContext) -> None:
    """Serve until asked to stop.

    Raises:
        StopTheStart: the port is taken, or another sandbox holds the data folder.
    """
    settings = config(ctx)
    server = asyncio.create_task(serve(settings), name="sandbox")
    if await _answers(settings.host, settings.port, server):
        ctx.health.started()
    try:
        await server
    except SandboxStartError as error:
        raise StopTheStart(str(error)) from error
    ctx.stop.set()  # the server hears the signal itself
