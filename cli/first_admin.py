"""The first login of a new deployment: `make setup` makes its password and shows it once; the first start makes the user.

Between the two only the password's hash is kept, in a file that its owner alone may read; it goes with the first start.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from cli.acting import here
from core.config import Settings
from docker.native.layout import write_private

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

FILE = "first-admin"


def prepare(var: Path) -> str:
    """A new password for the first admin, to be shown; its hash is kept under `var` for the first start."""
    from core.people import passwords

    password = passwords.generate()
    var.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(var / FILE, asyncio.run(passwords.hash_of(password)))
    return password


def make(settings: Settings) -> str | None:
    """Where there is no user yet: make the admin. Returns its password where that was generated now and must be shown; else None."""
    from cli.users import with_engine
    from core.people import passwords
    from core.storage import users

    kept = settings.var / FILE
    password = None if kept.exists() else passwords.generate()

    async def work(engine: AsyncEngine) -> bool:
        hashed = kept.read_text() if password is None else await passwords.hash_of(password)
        return await users.first_admin(engine, here(), hashed)

    made = asyncio.run(with_engine(settings, work))
    kept.unlink(missing_ok=True)
    return password if made else None
