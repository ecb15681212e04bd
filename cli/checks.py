"""What must hold before anything of ours starts: a session where one is needed, no broker switched off with open business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.errors import SessionMissing, StopTheStart
from core.trading.types import Broker, KiteTarget

if TYPE_CHECKING:
    import asyncpg

    from core.config import Settings


def session(settings: Settings) -> None:
    """Needs no part of the stack: looked at before anything starts. `local` logs itself in.

    Raises:
        SessionMissing: no session file of this target that is still valid; names the command that gets one.
    """
    if settings.kite_target is KiteTarget.LOCAL:
        return
    from core.brokers.zerodha_session import read_session
    from core.clock import utc_now

    found = read_session(settings.session_file)
    if found is not None and found.valid_at(utc_now()):
        return
    state = f"has expired at {found.expires_at:%Y-%m-%d %H:%M} UTC" if found else "is missing"
    raise SessionMissing(
        f"The Zerodha session for KITE_TARGET={settings.kite_target} {state} ({settings.session_file}).\n"
        "Run `.venv/bin/alpha-panda login`, then the same command again. Nothing was started."
    )


async def _open_business(connection: asyncpg.Connection, schema: str) -> str:
    """What a broker's journal still has open, in words; empty when nothing."""
    if await connection.fetchval("SELECT to_regclass($1)", f'"{schema}".orders') is None:
        return ""
    orders = await connection.fetchval(f'SELECT count(*) FROM "{schema}".orders WHERE ended_at IS NULL')  # noqa: S608
    held = await connection.fetch(
        f'SELECT instrument, product, quantity FROM "{schema}".positions WHERE quantity <> 0 ORDER BY 1, 2'  # noqa: S608
    )
    words = [f"{orders} open orders"] if orders else []
    if held:
        shown = ", ".join(f"{row['quantity']} {row['instrument']} {row['product']}" for row in held[:5])
        words.append(f"{len(held)} positions ({shown}{', …' if len(held) > 5 else ''})")
    return " and ".join(words)


async def inactive_brokers(settings: Settings) -> None:
    """Needs PostgreSQL. A broker that is switched off would leave its orders and positions unwatched.

    Raises:
        StopTheStart: a broker not in ACTIVE_BROKERS has open orders or positions; names them and the way out.
    """
    from core import routing
    from core.storage.roles import connect_admin

    off = [broker for broker in Broker if broker not in settings.active_brokers]
    if not off:
        return
    connection = await connect_admin(settings, "postgres")
    try:
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", settings.postgres_database)
    finally:
        await connection.close()
    if not known:
        return
    connection = await connect_admin(settings)
    try:
        for broker in off:
            words = await _open_business(connection, routing.schema(broker))
            if words:
                raise StopTheStart(
                    f"ACTIVE_BROKERS={','.join(settings.active_brokers)} leaves out {broker}, which still has {words}.\n"
                    f"Put {broker} back into ACTIVE_BROKERS in .env, close these, then take it out again."
                )
    finally:
        await connection.close()
