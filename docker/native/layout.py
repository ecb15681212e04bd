"""Where the native stack keeps its things, and what a program under the supervisor is.

Installed files live in the project folder; everything a deployment writes lives below its home's `var/`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from core.config import PROJECT_ROOT, Settings

LOOPBACK = "127.0.0.1"
KAFKA_VERSION = "4.1.1"
KAFKA_JARS = PROJECT_ROOT / ".tools" / "kafka" / KAFKA_VERSION
VENV_BIN = Path(sys.executable).parent
"""Scripts installed beside the running interpreter: supervisord, temporal, alpha-panda."""

HOME_MARK = "ALPHA_PANDA_HOME"
PART_MARK = "ALPHA_PANDA_PART"
"""Environment of every process of ours: with both, a process whose supervisor died is still found and stopped."""

MAX_SOCKET_PATH = 100
"""Unix socket addresses end at 104 (macOS) or 108 (Linux) bytes."""


@dataclass(frozen=True, slots=True)
class Program:
    """One process under the supervisor. `stop_wait` is seconds between the stop signal and SIGKILL.

    One that ends within `settle` seconds of its start is started again a little later each time, else at once.
    """

    name: str
    command: tuple[str, ...]
    ports: tuple[int, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    stop_signal: str = "TERM"
    stop_wait: int = 12
    settle: int = 1
    autostart: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one deployment."""

    home: Path

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        return cls(settings.home)

    @property
    def data(self) -> Path:
        return self.home / "var" / "data"

    @property
    def log(self) -> Path:
        return self.home / "var" / "log"

    @property
    def run(self) -> Path:
        return self.home / "var" / "run"

    @property
    def up_record(self) -> Path:
        """What the last start ran with: code hash, stack, ports."""
        return self.run / "up.json"

    @property
    def programs_mark(self) -> Path:
        """Fingerprint of the programs the running supervisor was started with."""
        return self.run / "programs"

    @property
    def socket(self) -> Path:
        """The supervisor's control socket; in a private temporary folder where the path is too long."""
        here = self.run / "supervisor.sock"
        if len(os.fsencode(here)) <= MAX_SOCKET_PATH:
            return here
        import hashlib
        import tempfile

        name = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"alpha-panda-{os.getuid()}-{name}" / "s.sock"

    def log_file(self, part: str) -> Path:
        return self.log / f"{part}.log"

    def make(self) -> None:
        """Create the folders, private to their owner."""
        for folder in (self.data, self.log, self.run, self.run / "health", self.run / "metrics", self.socket.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = self.socket.parent.stat().st_uid
        if owner != os.getuid():
            raise PermissionError(f"{self.socket.parent} belongs to user id {owner}: remove it or run as that user")


def write_private(path: Path, text: str) -> bool:
    """Write a file only its owner may read (0600), in one step. Returns whether its content changed."""
    if path.exists() and path.read_text() == text:
        return False
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return True
