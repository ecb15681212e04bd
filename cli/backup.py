"""`alpha-panda backup | restore`: what cannot be made again in one private file, and back from it into an empty deployment.

Never overwrites: neither a file nor a deployment that holds data. After a restore, nothing that was decided before it is sent by itself.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer

from cli.backup_file import DUMP, Contents, Manifest, pack, unpack
from cli.progress import console, step
from core.errors import StopTheStart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.config import Settings
    from core.storage.restored import Doubted
    from core.trading.types import Broker

FOLDERS = ("session", "flatten")
"""Below var/: the day's session at the broker, and what `flatten --direct` sent."""

LONGEST_S = 3600
"""A dump or its way back that takes longer hangs."""


def register(app: typer.Typer) -> None:
    @app.command()
    def backup(
        file: Path = typer.Argument(
            metavar="FILE", help="Where to; it must not be there yet. Keep it on another machine."
        ),
    ) -> None:
        """Write database, .env and session into one file that only you can read. Everything may go on running meanwhile."""
        from core.config import settings

        found = _backup(settings(), file)
        size = file.stat().st_size / 2**20
        _say(f"{file}: {size:.1f} MiB, schema {found.revision}, as of {found.at()} UTC.")
        _say("It holds every secret of this deployment: keep it as you keep `.env`.")

    @app.command()
    def restore(
        file: Path = typer.Argument(metavar="FILE", help="What `alpha-panda backup` wrote."),
    ) -> None:
        """Fill an empty deployment from a backup; then `make up`. Refuses where anything is there or runs."""
        done = _restore(file)
        for broker, doubted in done.items():
            _say(
                f"{broker}: {doubted.orders} orders were open, {doubted.maybe_sent} of them may have been sent since; "
                f"{doubted.commands} commands and {doubted.kills} kill switches are ended. Entries are bound until "
                f"`alpha-panda kill off --broker {broker}`."
            )
        _say("No strategy is opted in to real money any more, and everybody has to log in again.")
        _say("Now `make up`; then docs/security.md, After a restore.")
        sys.stdout.flush()
        os._exit(0)  # the Temporal SDK and the log's admin client may keep threads


def _say(words: str) -> None:
    """One line however long it is, and as it is: a path may hold anything."""
    console.print(f"  {words}", soft_wrap=True, markup=False)


# PostgreSQL's own programs ------------------------------------------------------------------------------------------------


def _program(settings: Settings, kind: str, name: str) -> tuple[list[str], Mapping[str, str]]:
    """`pg_dump` or `pg_restore` of the server's own version as the database's owner: the wheel's, or the container's."""
    from cli import compose
    from core.storage.roles import ADMIN
    from docker.native import postgres

    if kind == "docker":
        words = compose.words(settings, "exec", "-T", "postgres", name, "--username", ADMIN)
        return words, compose.environment(settings)
    where = ["--host", settings.postgres_host, "--port", str(settings.postgres_port), "--username", ADMIN]
    password = settings.postgres_admin_password.get_secret_value()
    return [str(postgres.programs() / name), *where], os.environ | {"PGPASSWORD": password}


def _dump(settings: Settings, kind: str, to: Path) -> None:
    """One snapshot of the whole database, whatever goes on in it.

    Raises:
        StopTheStart: with PostgreSQL's own words.
    """
    words, environment = _program(settings, kind, "pg_dump")
    words += ["--format=custom", "--no-owner", "--no-privileges", settings.postgres_database]
    with to.open("wb") as file:
        done = subprocess.run(
            words, stdout=file, stderr=subprocess.PIPE, env=environment, check=False, timeout=LONGEST_S
        )
    if done.returncode != 0:
        raise StopTheStart(f"PostgreSQL could not be read: {done.stderr.decode(errors='replace').strip()}")


def _load(settings: Settings, kind: str, dump: Path) -> None:
    """All of it, or nothing.

    Raises:
        StopTheStart: with PostgreSQL's own words.
    """
    words, environment = _program(settings, kind, "pg_restore")
    words += ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    words += ["--dbname", settings.postgres_database]
    with dump.open("rb") as file:
        done = subprocess.run(words, stdin=file, capture_output=True, env=environment, check=False, timeout=LONGEST_S)
    if done.returncode != 0:
        raise StopTheStart(f"PostgreSQL did not take the backup: {done.stderr.decode(errors='replace').strip()}")


# backup --------------------------------------------------------------------------------------------------------------------


def _backup(settings: Settings, file: Path) -> Manifest:
    """Raises StopTheStart: the file is there, or PostgreSQL is not."""
    from cli.stack import running_stack

    kind = running_stack(settings)
    if not kind:
        raise StopTheStart("Nothing runs here, so PostgreSQL cannot be asked: `make up`, then this.")
    if file.exists():
        raise StopTheStart(f"{file} is there already: give another name. Nothing was written.")
    files = {f"{name}/{path.name}": path for name in FOLDERS for path in sorted((settings.var / name).glob("*"))}
    with TemporaryDirectory(dir=file.resolve().parent, prefix=".alpha-panda-") as folder:
        with step("Database") as shown:
            dump = Path(folder) / DUMP
            manifest = Manifest.now(settings, asyncio.run(_revision(settings)))  # before the snapshot: never too late
            _dump(settings, kind, dump)
            shown.say(f"{dump.stat().st_size / 2**20:.1f} MiB")
        held = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
        return pack(file, Contents(manifest, dump, (settings.home / ".env").read_text(), held))


async def _revision(settings: Settings) -> str:
    from core.routing import CONFIG_SCHEMA
    from core.storage.roles import connect_admin

    try:
        connection = await connect_admin(settings)
    except OSError as error:
        raise StopTheStart(f"PostgreSQL does not answer: {error}. `make status` says why.") from error
    try:
        return str(await connection.fetchval(f'SELECT version_num FROM "{CONFIG_SCHEMA}".alembic_version'))  # noqa: S608
    finally:
        await connection.close()


# restore -------------------------------------------------------------------------------------------------------------------


def _restore(file: Path) -> dict[Broker, Doubted]:
    """Raises StopTheStart: the file is none of ours or damaged, something runs or is there, or a part refuses."""
    from cli import rebuild_log, record
    from cli.stack import running_stack, stack_of
    from core.config import home, load_settings
    from core.storage.restored import known_revisions

    with TemporaryDirectory(prefix="alpha-panda-") as folder:
        with step("Backup") as shown:
            contents = unpack(file, Path(folder))
            manifest = contents.manifest
            shown.say(f"of {manifest.at()} UTC, schema {manifest.revision}")
        if manifest.revision not in known_revisions():
            raise StopTheStart(
                f"{file} is of a newer version (schema {manifest.revision}): install that one. Nothing was changed."
            )
        new_env = _put_env(home(), contents.env)
        settings = load_settings()
        manifest.refuse_other_account(settings)
        if running_stack(settings):
            raise StopTheStart("Something runs here: `make down` first, then this. Nothing was changed.")
        with record.alone(settings.run_dir), _stack(settings, kind := stack_of(settings)):
            asyncio.run(_refuse_what_is_there(settings))
            with step("Database") as shown:
                done = _fill_database(settings, kind, contents)
                shown.say("filled; what may have happened since is a question now")
            with step("Log") as shown:
                rebuild_log.fill_from_database(settings)
                shown.say("filled from the database")
        _say(f".env {'is the one of the backup' if new_env else 'stays as it is here'}.")
        return done


def _put_env(folder: Path, text: str) -> bool:
    """The backup's `.env` where there is none. One that is there decides: ports and passwords may be others here."""
    from docker.native.layout import write_private

    path = folder / ".env"
    if path.exists():
        return False
    if (folder / "var" / "data" / "postgres").exists():
        raise StopTheStart(f"{folder / 'var' / 'data'} holds data: restore into an empty folder. Nothing was changed.")
    folder.mkdir(parents=True, exist_ok=True)
    write_private(path, text)
    return True


def _put_files(settings: Settings, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        path = settings.var / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)


@contextmanager
def _stack(settings: Settings, kind: str) -> Iterator[None]:
    """What is not ours, started for this and stopped after it."""
    from cli import compose
    from core.services import services
    from docker.native.stack import INFRA, NativeStack

    if kind == "docker":
        compose.start_parts(settings)
        try:
            yield
        finally:
            compose.down(settings)
        return
    stack = NativeStack(settings, services(settings))
    with step("Stack") as shown:
        stack.start_infra()
        shown.say(f"{', '.join(INFRA)} answer")
    try:
        yield
    finally:
        with step("Stopping the stack"):
            stack.stop()


async def _refuse_what_is_there(settings: Settings) -> None:
    """Raises StopTheStart: a part holds data of ours, which a restore would contradict."""
    from core.events.topics import all_topics
    from core.messaging.provision import TIMEOUT_S, admin_client
    from core.storage.redis import connect
    from core.storage.roles import connect_admin
    from core.temporal_provision import has_namespace

    there = []
    connection = await connect_admin(settings, "postgres")
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", settings.postgres_database):
            there.append(f"PostgreSQL (database {settings.postgres_database})")
    finally:
        await connection.close()
    on_log = (await asyncio.to_thread(admin_client(settings).list_topics, timeout=TIMEOUT_S)).topics
    if ours := {row.name for row in all_topics(settings.kafka_partitions)} & set(on_log):
        there.append(f"Kafka ({len(ours)} topics)")
    if await has_namespace(settings):
        there.append(f"Temporal (namespace {settings.temporal_namespace})")
    client = await connect(settings)
    try:
        if count := await client.dbsize():
            there.append(f"Redis ({count} keys)")
    finally:
        await client.aclose()
    if there:
        raise StopTheStart(
            f"This deployment is not empty: {', '.join(there)} hold data. A restore begins with none: move it away "
            "(`make down`, then the folders below var/data, or the volumes), or restore elsewhere. Nothing was changed."
        )


def _fill_database(settings: Settings, kind: str, contents: Contents) -> dict[Broker, Doubted]:
    """Under another name until all is done, doubts too: whoever dies on the way leaves no database that anything starts on."""
    from cli import provision

    name = settings.postgres_database
    half = settings.model_copy(update={"postgres_database": f"{name}_restoring"})
    drop = f'DROP DATABASE IF EXISTS "{half.postgres_database}" WITH (FORCE)'
    asyncio.run(_execute(settings, drop, f'CREATE DATABASE "{half.postgres_database}"'))
    _load(half, kind, contents.dump)
    asyncio.run(provision._database(half))
    done = asyncio.run(_doubt(half, contents.manifest))
    _put_files(settings, contents.files)
    asyncio.run(_execute(settings, f'ALTER DATABASE "{half.postgres_database}" RENAME TO "{name}"'))
    return done


async def _execute(settings: Settings, *statements: str) -> None:
    from core.storage.roles import connect_admin

    connection = await connect_admin(settings, "postgres")
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def _doubt(settings: Settings, manifest: Manifest) -> dict[Broker, Doubted]:
    """Of every broker whose book did not come back with the backup. Then the audit says who restored what."""
    from cli.acting import here
    from core.routing import account
    from core.storage import audit
    from core.storage.db import broker_engine, config_engine
    from core.storage.restored import doubt, end_sessions, take_opt_ins
    from core.trading.types import Broker

    why = f"restored from the backup of {manifest.at()} UTC"
    done: dict[Broker, Doubted] = {}
    for broker in (one for one in Broker if one is not Broker.PAPER):
        engine = broker_engine(settings, broker, pool_size=1)
        try:
            done[broker] = await doubt(engine, account(settings, broker), manifest.taken_at, why)
        finally:
            await engine.dispose()
    config = config_engine(settings, pool_size=1)
    try:
        await end_sessions(config)
        await take_opt_ins(config, here(), why)
        await audit.note(config, here(), "restore", manifest.at(), reason=why)
    finally:
        await config.dispose()
    return done
