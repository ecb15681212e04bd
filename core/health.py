"""Each process says once a second, in a file, whether it is ready and why not. Files need no other part to be alive.

The reader treats a file older than STALE_S, or of a dead process, as "no heartbeat".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

STALE_S = 10.0


@dataclass(frozen=True, slots=True)
class Health:
    """`parts` maps what this process depends on to "" (well) or the reason it waits. `at`, `started_at`: Unix seconds."""

    service: str
    ready: bool
    reason: str
    pid: int
    at: float
    parts: dict[str, str] = field(default_factory=dict)
    note: str = ""
    started_at: float = 0.0


class HealthReporter:
    """Holds a process's present state and writes it each second. `ready` = started and no part has a reason."""

    def __init__(self, service: str, run_dir: Path) -> None:
        self.service = service
        self._path = run_dir / "health" / f"{service}.json"
        self._parts: dict[str, str] = {"start": "starting"}
        self._note = ""
        self._started_at = time.time()

    def started(self) -> None:
        self._parts["start"] = ""
        self._write()

    def waiting(self, part: str, reason: str) -> None:
        """`part` is away or not well: the process waits and is not ready."""
        self._parts[part] = reason

    def well(self, part: str) -> None:
        self._parts[part] = ""

    def note(self, text: str) -> None:
        """Something worth seeing that is no trouble ("standby"); empty for nothing."""
        self._note = text

    @property
    def ready(self) -> bool:
        return not any(self._parts.values())

    def _write(self) -> None:
        reason = "; ".join(f"{part}: {why}" for part, why in self._parts.items() if why)
        body = {
            "service": self.service,
            "ready": self.ready,
            "reason": reason,
            "pid": os.getpid(),
            "at": time.time(),
            "parts": self._parts,
            "note": self._note,
            "started_at": self._started_at,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(body))
        temporary.replace(self._path)

    async def run(self) -> None:
        """Write until cancelled, then remove the file: a stopped process is not a sick one."""
        try:
            while True:
                self._write()
                await asyncio.sleep(1)
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()


def read_all(run_dir: Path) -> dict[str, Health]:
    """Every process's last word by service name. A stale or orphaned file reads as not ready, "no heartbeat"."""
    found: dict[str, Health] = {}
    for path in sorted((run_dir / "health").glob("*.json")):
        try:
            row = Health(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # being replaced this very moment; the next read sees it
        if time.time() - row.at > STALE_S:
            row = Health(
                row.service, False, f"no heartbeat for {time.time() - row.at:.0f} s", row.pid, row.at, row.parts, row.note,
                row.started_at,
            )  # fmt: skip
        found[row.service] = row
    return found


def main(arguments: list[str]) -> int:
    """`python -m core.health NAME`, a container's health check: exit code 0 when that service says it is ready, else 1 and why.

    Reads no settings, so that a check costs little.
    """
    (name,) = arguments
    run_dir = Path(os.environ.get("ALPHA_PANDA_HOME") or ".") / "var" / "run"
    found = read_all(run_dir).get(name)
    if found is not None and found.ready:
        return 0
    sys.stdout.write(f"{name}: {(found.reason or 'not ready') if found else 'no heartbeat yet'}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
