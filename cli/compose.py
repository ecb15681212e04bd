"""The same stack by Docker: thin calls of `docker compose` on docker/compose.yaml. What runs inside is that file's business."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

from cli import checks, record
from cli.progress import step
from core.config import PROJECT_ROOT
from core.errors import StopTheStart

if TYPE_CHECKING:
    from core.config import Settings

FILE = PROJECT_ROOT / "docker" / "compose.yaml"


def words(settings: Settings, *arguments: str) -> list[str]:
    """The command line: our file, this home's `.env`, one project a home."""
    env = settings.home / ".env"
    return ["docker", "compose", "-f", str(FILE), "--env-file", str(env), "-p", "alpha-panda", *arguments]


def _run(settings: Settings, *arguments: str) -> None:
    environment = {**os.environ, "ALPHA_PANDA_HOME": str(settings.home)}
    done = subprocess.run(words(settings, *arguments), check=False, env=environment)
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
    with step("Database"):
        _run(settings, "up", "-d", "--wait", "postgres")
        asyncio.run(checks.inactive_brokers(settings))
    with step("Containers"):
        _run(settings, "up", "-d", "--build", "--remove-orphans", "--wait")
    record.write(path, now)
    return True


def down(settings: Settings) -> None:
    """Stop and remove the containers; volumes, which hold the data, stay."""
    _run(settings, "down", "--timeout", "30")


def containers(settings: Settings) -> list[dict[str, Any]]:
    """`docker compose ps` as rows."""
    done = subprocess.run(
        words(settings, "ps", "--all", "--format", "json"), capture_output=True, text=True, check=False
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
    subprocess.run(words(settings, "logs", "-f", "--tail", "100", *([service] if service else [])), check=False)
