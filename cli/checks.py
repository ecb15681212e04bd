"""What must hold before anything of ours starts: a session where one is needed, and no open business that would be left alone:
of a broker switched off, or of another account or target.

Only looks; changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import SessionMissing, StopTheStart
from core.trading.types import Broker, KiteTarget

if TYPE_CHECKING:
    import asyncpg

    from core.config import Settings


def session(settings: Settings) -> None:
    """Needs no part of the stack: looked at before anything starts. `local` logs itself in.

    Raises:
        SessionMissing: no session file of this target and user that is still valid; names the command that gets one.
    """
    if settings.kite_target is KiteTarget.LOCAL:
        return
    from core.brokers.zerodha_session import read_session
    from core.clock import utc_now

    found = read_session(settings.session_file)
    if found is None:
        state = "is missing"
    elif not found.is_for(settings):
        state = f"is of user {found.user_id}, or of another app: KITE_USER_ID is {settings.kite_user_id}"
    elif not found.valid_at(utc_now()):
        state = f"has expired at {found.expires_at:%Y-%m-%d %H:%M} UTC"
    else:
        return
    raise SessionMissing(
        f"The Zerodha session for KITE_TARGET={settings.kite_target} {state} ({settings.session_file}).\n"
        "Run `.venv/bin/alpha-panda login`, then the same command again. Nothing was started."
    )


async def _has_journal(connection: asyncpg.Connection, schema: str) -> bool:
    return await connection.fetchval("SELECT to_regclass($1)", f'"{schema}".orders') is not None


async def _none_of_a_broker_off(connection: asyncpg.Connection, settings: Settings, broker: Broker) -> None:
    from core import routing

    schema = routing.schema(broker)
    if not await _has_journal(connection, schema):
        return
    orders = await connection.fetchval(f'SELECT count(*) FROM "{schema}".orders WHERE ended_at IS NULL')  # noqa: S608
    held = await connection.fetch(
        f'SELECT instrument, product, quantity FROM "{schema}".positions WHERE quantity <> 0 ORDER BY 1, 2'  # noqa: S608
    )
    words = _in_words(orders, held)
    if words:
        raise StopTheStart(
            f"ACTIVE_BROKERS={','.join(settings.active_brokers)} leaves out {broker}, which still has {words}.\n"
            f"Put {broker} back into ACTIVE_BROKERS in .env, close these, then take it out again."
        )


async def _none_elsewhere(connection: asyncpg.Connection, settings: Settings, broker: Broker) -> None:
    """Orders of another account or target would never be sent nor followed, and their positions never closed."""
    from core import routing

    schema, account, target = (
        routing.schema(broker),
        routing.account(settings, broker),
        routing.target(settings, broker),
    )
    if not await _has_journal(connection, schema):
        return
    for owner, where in await connection.fetch(_ELSEWHERE.format(schema=schema), account, target):
        count = f'SELECT count(*) FROM "{schema}".orders WHERE ended_at IS NULL AND (account, target) = ($1, $2)'  # noqa: S608
        orders = await connection.fetchval(count, owner, where)
        held = await connection.fetch(_HELD.format(schema=schema), owner, where)
        raise StopTheStart(
            f"{broker} is to run as account {account} on {target}, but account {owner} on {where} still has "
            f"{_in_words(orders, held)}: nobody would follow or close them.\n"
            f"Put KITE_TARGET={where} and KITE_USER_ID={owner} back in .env, `make up`, close these "
            f"(`alpha-panda kill on --broker {broker}` cancels and exits all), then change the settings again. No service was started."
        )


_HELD_OF = """
    SELECT latest.account, latest.target, p.instrument, p.product, p.quantity FROM "{schema}".positions p
    CROSS JOIN LATERAL (
        SELECT o.account, o.target FROM "{schema}".fills f JOIN "{schema}".orders o USING (order_id)
        WHERE (f.instance, f.instrument_token, f.product) = (p.instance, p.instrument_token, p.product)
        ORDER BY f.filled_at DESC, f.trade_id DESC LIMIT 1
    ) latest WHERE p.quantity <> 0"""
"""Open positions, each of the account and target of its last fill: it was flat whenever these changed."""

_HELD = f"SELECT instrument, product, quantity FROM ({_HELD_OF}) held WHERE (account, target) = ($1, $2) ORDER BY 1, 2"  # noqa: S608

_ELSEWHERE = f"""
    SELECT account, target FROM "{{schema}}".orders WHERE ended_at IS NULL AND (account, target) <> ($1, $2)
    UNION SELECT account, target FROM ({_HELD_OF}) held WHERE (account, target) <> ($1, $2)
    ORDER BY 1, 2 LIMIT 1"""  # noqa: S608


def _in_words(orders: int, held: Sequence[Mapping[str, Any]]) -> str:
    """Open business in words; empty when there is none."""
    words = [f"{orders} open orders"] if orders else []
    if held:
        shown = ", ".join(f"{row['quantity']} {row['instrument']} {row['product']}" for row in held[:5])
        words.append(f"{len(held)} positions ({shown}{', …' if len(held) > 5 else ''})")
    return " and ".join(words)


async def nothing_left_alone(settings: Settings) -> None:
    """Needs PostgreSQL. What is open must stay watched: by a broker that is on, under the account and target it was decided for.

    Raises:
        StopTheStart: a broker not in ACTIVE_BROKERS has open orders or positions, or an active one has some of another account or
            target than the settings name; names them and the way out.
    """
    from core.storage.roles import connect_admin

    connection = await connect_admin(settings, "postgres")
    try:
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", settings.postgres_database)
    finally:
        await connection.close()
    if not known:
        return
    connection = await connect_admin(settings)
    try:
        for broker in Broker:
            if broker in settings.active_brokers:
                await _none_elsewhere(connection, settings, broker)
            else:
                await _none_of_a_broker_off(connection, settings, broker)
    finally:
        await connection.close()
