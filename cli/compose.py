"""The same stack by Docker: thin calls of `docker compose` on docker/compose.yaml. What runs inside is that file's business."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from cli import checks, record
from cli.progress import step
from core.config import PROJECT_ROOT
from core.errors import StopTheStart
from core.services import SANDBOX, SHARED, names, order_parts
from core.trading.types import Broker, KiteTarget

if TYPE_CHECKING:
    from pathlib import Path

    from core.config import Settings

FILE = PROJECT_ROOT / "docker" / "compose.yaml"


ALL_PROFILES = "local,zerodha,monitoring"


def project(settings: Settings) -> str:
    """Compose's name for this deployment: its containers and volumes carry it, so that two homes never share data."""
    if settings.home == PROJECT_ROOT:
        return "alpha-panda"
    return f"alpha-panda-{hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:8]}"


def profiles(settings: Settings) -> str:
    """What docker/compose.yaml starts besides the parts that always run."""
    wanted = ["local"] if settings.kite_target is KiteTarget.LOCAL else []
    wanted += [broker.value for broker in settings.active_brokers if broker is not Broker.PAPER]
    return ",".join([*wanted, *(["monitoring"] if settings.monitoring else [])])


def words(settings: Settings, *arguments: str) -> list[str]:
    """The command line: our file, this home's `.env`, one project a home."""
    env = settings.home / ".env"
    return ["docker", "compose", "-f", str(FILE), "--env-file", str(env), "-p", project(settings), *arguments]


def environment(settings: Settings, active: str = ALL_PROFILES) -> dict[str, str]:
    """What the file needs besides `.env`. Our containers run as the user who starts them: the session file is theirs alone."""
    ours = {
        "ALPHA_PANDA_HOME": str(settings.home),
        "ALPHA_PANDA_UID": str(os.getuid()),
        "ALPHA_PANDA_GID": str(os.getgid()),
        "COMPOSE_PROFILES": active,
    }
    return {**os.environ, **ours}


def _run(settings: Settings, *arguments: str, active: str = ALL_PROFILES) -> None:
    done = subprocess.run(words(settings, *arguments), check=False, env=environment(settings, active))
    if done.returncode != 0:
        raise StopTheStart(
            f"`docker compose {' '.join(arguments)}` failed (exit code {done.returncode}); its own words are above.\n"
            "See `make logs`, or use the native stack: make up STACK=native."
        )


def up(settings: Settings) -> bool:
    """Build and start everything, wait for the health checks. Compose itself leaves alone what did not change.

    Raises:
        StopTheStart: compose failed.
    """
    import asyncio

    from docker.native.layout import Layout

    now = record.Record("docker", record.code_hash(settings))
    path = Layout.of(settings).up_record
    if record.read(path) == now and all_healthy(settings):
        return False
    for folder in mounted(settings):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # else Docker would make it root's
    with step("Database and Temporal"):
        _run(settings, "up", "-d", "--wait", "postgres", "temporal")
        asyncio.run(_check(settings))
    with step("Image"):
        _run(settings, "build", "provision")
    _clear_the_way(settings)
    with step("Containers"):
        _run(settings, "up", "-d", "--remove-orphans", "--wait", active=profiles(settings))
    record.write(path, now)
    return True


def mounted(settings: Settings) -> tuple[Path, ...]:
    """Folders of the home that containers of ours see: the session, which they read, and what `flatten --direct` sent without them."""
    from core.flatten_file import FOLDER

    return settings.session_file.parent, settings.var / FOLDER


def start_parts(settings: Settings) -> None:
    """Only what is not ours, for commands that run while no service of ours does.

    Raises:
        StopTheStart: compose failed.
    """
    _run(settings, "up", "-d", "--wait", "postgres", "redis", "temporal", "redpanda")


async def _check(settings: Settings) -> None:
    """What only a running stack can tell: no open business left alone, running orders go on under this code.

    Raises:
        StopTheStart: with what is in the way.
    """
    from cli import replay

    await checks.nothing_left_alone(settings)
    await replay.running_histories(settings)


def _clear_the_way(settings: Settings) -> None:
    """The old services end before the schema moves under them; what these settings do not run is gone."""
    every = {SANDBOX.name, *names(SHARED), *(row.name for broker in Broker for row in order_parts(broker))}
    there = {row["Service"] for row in containers(settings)} & every
    if there:
        with step("Stopping services: code or settings changed"):
            _run(settings, "rm", "--stop", "--force", *sorted(there))


def down(settings: Settings) -> None:
    """Stop and remove the containers; volumes, which hold the data, stay."""
    _run(settings, "down", "--timeout", "30")


def containers(settings: Settings) -> list[dict[str, Any]]:
    """`docker compose ps` as rows."""
    done = subprocess.run(
        words(settings, "ps", "--all", "--format", "json"),
        capture_output=True,
        text=True,
        check=False,
        env=environment(settings),
    )
    if done.returncode != 0:
        raise StopTheStart(f"`docker compose ps` failed: {done.stderr.strip()}")
    text = done.stdout.strip()
    if text.startswith("["):
        rows: list[dict[str, Any]] = json.loads(text)
        return rows
    return [json.loads(line) for line in text.splitlines()]


def all_healthy(settings: Settings) -> bool:
    rows = containers(settings)
    return bool(rows) and all(
        (row["State"] == "running" and row.get("Health") in {"", "healthy"})
        or (row["State"] == "exited" and row["ExitCode"] == 0)
        for row in rows
    )


def logs(settings: Settings, service: str | None) -> None:
    """Follow until Ctrl-C."""
    wanted = [service] if service else []
    subprocess.run(words(settings, "logs", "-f", "--tail", "100", *wanted), check=False, env=environment(settings))
