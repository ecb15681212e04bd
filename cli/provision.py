"""`alpha-panda provision` and `migrate`: make log, database and Temporal what the code expects. Idempotent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from core.errors import StopTheStart

if TYPE_CHECKING:
    from core.config import Settings


def _nothing(text: str) -> None:
    pass


async def _database(settings: Settings) -> str:
    """Roles, schema, grants, demo rows. Returns the schema's revision."""
    from core.storage import roles
    from core.storage.migrate import migrate
    from core.storage.seed import seed

    await roles.prepare(settings)
    revision = await migrate(settings)
    await roles.grant(settings)
    await seed(settings)
    return revision


async def provision(settings: Settings, say: Callable[[str], None] = _nothing) -> None:
    """Topics, users and rights; roles, schema, grants and demo strategies; namespace and search attributes.

    Raises:
        StopTheStart: a part refuses; the message says which and why.
    """
    from core import temporal_provision
    from core.messaging import provision as log

    async def kafka() -> None:
        created = await asyncio.to_thread(log.provision, settings)
        say(f"{len(created)} topics created" if created else "topics there")

    async def database() -> None:
        await _database(settings)
        say("schema migrated")

    async def temporal() -> None:
        await temporal_provision.provision(settings)
        say("namespace there")

    await asyncio.gather(kafka(), database(), temporal())
    await _same_log(settings)


async def _same_log(settings: Settings) -> None:
    """Offsets and published events in the database are about one log: note which, and refuse another.

    Raises:
        StopTheStart: Kafka's data was lost or is another's; names the command that makes it anew.
    """
    from core.messaging import rebuild
    from core.messaging.groups import REBUILD
    from core.storage import log_copy
    from core.storage.db import config_engine

    engine = config_engine(settings, pool_size=1)
    try:
        known, present = await log_copy.marked_log(engine), await asyncio.to_thread(rebuild.log_id, settings)
        if known is None:
            await log_copy.mark_log(engine, present)
        elif known != present:
            raise StopTheStart(
                f"Kafka's log is not the one this database knows (it is {present}, not {known}): its data was lost. `make down`, then "
                f"`{REBUILD}` shows what it can make anew from the journal, and with --yes does it. No service was started."
            )
    finally:
        await engine.dispose()


def register(app: typer.Typer) -> None:
    @app.command(name="provision")
    def provision_command() -> None:
        """Create topics, users, rights, schema, demo strategies and the Temporal namespace where missing."""
        from core.config import settings
        from docker.native import ready

        asyncio.run(ready.wait(settings()))
        asyncio.run(provision(settings(), print))
        os._exit(0)  # the Temporal SDK sometimes crashes an interpreter that ends the usual way

    @app.command()
    def migrate(as_json: bool = typer.Option(False, "--json", help="JSON instead of text.")) -> None:
        """Bring the database schema to this code's version."""
        from core.config import settings

        revision = asyncio.run(_database(settings()))
        print(json.dumps({"revision": revision}) if as_json else f"The schema is at this code's version: {revision}.")
