"""Failed logins, by name and by address: after a few, nothing is checked for a while that doubles. Survives every restart.

Never tells whether a name exists: unknown names are counted like known ones.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from core.clock import utc_now
from core.errors import LockedOut
from core.storage.db import transient
from core.storage.models import table_of
from core.storage.models_access import LoginGuardRow

GUARDS = table_of(LoginGuardRow)

FREE_BY_NAME, FREE_BY_ADDRESS = 5, 20
"""Failures before the first wait."""
FIRST_WAIT = timedelta(seconds=10)
LONGEST_WAIT = timedelta(minutes=15)
FORGOTTEN_AFTER = timedelta(hours=24)


def wait_after(failures: int, free: int) -> timedelta:
    """How long nothing is checked after that many failures in a row. Pure."""
    if failures < free:
        return timedelta()
    doublings = min(failures - free, 16)
    return min(timedelta(seconds=FIRST_WAIT.total_seconds() * 2**doublings), LONGEST_WAIT)


def guards(name: str, address: str) -> dict[str, int]:
    """The two counters of a login, with how many failures are free."""
    return {f"name:{name.lower()[:64]}": FREE_BY_NAME, f"address:{_whose(address)[:64]}": FREE_BY_ADDRESS}


def _whose(address: str) -> str:
    """The network an IPv6 address lies in (/64): whoever has one address there has all of them (RFC 4291). Others as they are."""
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found.packed, 64), strict=False))


async def check_and_count(engine: AsyncEngine, name: str, address: str) -> None:
    """Count a try as failed before it is checked, so that many at once are all counted; `forget` takes it back on success.

    Raises:
        LockedOut: too many failed before; this one is neither checked nor counted.
        Transient: the database is away.
    """
    now = utc_now()
    wanted = guards(name, address)
    async with transient("counting logins"), engine.begin() as connection:
        await connection.execute(delete(GUARDS).where(GUARDS.c.last_at < now - FORGOTTEN_AFTER))
        for guard in sorted(wanted):  # one order for everybody: no deadlock
            blank = {"guard": guard, "failures": 0, "last_at": now}
            await connection.execute(insert(GUARDS).values(blank).on_conflict_do_nothing())
        query = select(GUARDS).where(GUARDS.c.guard.in_(wanted)).order_by(GUARDS.c.guard).with_for_update()
        rows = (await connection.execute(query)).mappings().all()
        until = max((row["locked_until"] for row in rows if row["locked_until"]), default=now)
        if until > now:
            seconds = math.ceil((until - now).total_seconds())
            raise LockedOut(f"Too many failed logins: wait {seconds} s.", retry_after_s=seconds)
        for row in rows:
            failures = row["failures"] + 1
            until_then = _until(now, failures, wanted[row["guard"]])
            changed = {"failures": failures, "last_at": now, "locked_until": until_then}
            await connection.execute(update(GUARDS).where(GUARDS.c.guard == row["guard"]).values(changed))


def _until(now: datetime, failures: int, free: int) -> datetime | None:
    wait = wait_after(failures, free)
    return now + wait if wait else None


async def forget(engine: AsyncEngine, name: str, address: str | None = None) -> None:
    """The name's failures are over: it logged in, or its password was set anew. The address keeps all but this one."""
    keys = guards(name, address or "")
    by_name = next(key for key in keys if key.startswith("name:"))
    async with transient("counting logins"), engine.begin() as connection:
        await connection.execute(delete(GUARDS).where(GUARDS.c.guard == by_name))
        if address is not None:
            by_address = next(key for key in keys if key.startswith("address:"))
            less = {"failures": func.greatest(GUARDS.c.failures - 1, 0), "locked_until": None}
            await connection.execute(update(GUARDS).where(GUARDS.c.guard == by_address).values(less))
