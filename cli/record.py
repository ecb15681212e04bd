"""What the last start ran with, so that a second `make up` knows whether anything changed. Holds hashes, no secrets."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from core.config import PROJECT_ROOT, Settings
from core.errors import StopTheStart

PACKAGES = ("core", "strategies", "streams", "workflows", "activities", "control", "api", "sandbox", "cli", "docker")


@dataclass(frozen=True, slots=True)
class Record:
    """`stack` is native or docker, `code` the hash of our code and `.env`."""

    stack: str
    code: str


def code_hash(settings: Settings) -> str:
    """Changes with any file our services are made of, with `.env`, and with settings the environment overrides."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    files = [PROJECT_ROOT / "pyproject.toml", PROJECT_ROOT / "constraints.txt", settings.home / ".env"]
    for package in PACKAGES:
        files += [
            Path(folder, name)
            for folder, _, names in os.walk(PROJECT_ROOT / package)
            if not folder.endswith("__pycache__")
            for name in names
        ]
    for path in sorted(files):
        digest.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read(path: Path) -> Record | None:
    """The last start that came up whole; None when there is none, or it is of another version's making."""
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(path: Path, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(record)))


@contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Only one start or stop at a time in a home.

    Raises:
        StopTheStart: another one is at it.
    """
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StopTheStart("Another `make up`, `make down` or `make run` is at work here: wait for it.") from None
        yield
