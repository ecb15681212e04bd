"""The native stack as a whole: prepare its programs, start and stop them under one supervisor, say what is wrong.

Knows nothing of provisioning or of what our services do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict

from core.config import Settings
from core.errors import StopTheStart
from core.services import ServiceSpec
from docker.native import kafka, postgres, ready, temporal, valkey
from docker.native.layout import VENV_BIN, Layout, Program
from docker.native.supervisor import ALIVE, RUNNING, Part, Supervisor, end_leftovers, ours, tail, wait_until

INFRA = ("postgres", "redis", "temporal", "kafka")
"""Parts that are not ours, in start order. They start together: none needs another."""

DRAIN_S = 25.0


def service_programs(services: Iterable[ServiceSpec]) -> list[Program]:
    command = str(VENV_BIN / "alpha-panda")
    return [Program(name=row.name, command=(command, "service", row.name), settle=5) for row in services]


class NativeStack:
    """One deployment's stack in its home folder."""

    def __init__(self, settings: Settings, services: Iterable[ServiceSpec] = ()) -> None:
        self.settings = settings
        self.layout = Layout.of(settings)
        self.supervisor = Supervisor(self.layout)
        self.services = service_programs(services)

    def _prepare(self) -> list[Program]:
        self.layout.make()
        return [part.prepare(self.settings, self.layout) for part in (postgres, valkey, temporal, kafka)]

    def fingerprint(self) -> str:
        """Changes when the supervised programs or their settings do: then a running stack has to be restarted whole.

        Passwords of users are applied by provisioning; the superusers' are part of the data.
        """
        settings = self.settings
        facts = {
            "ports": [settings.kafka_port, settings.kafka_controller_port, settings.postgres_port, settings.redis_port,
                      settings.temporal_port, settings.temporal_ui_port],
            "redis": settings.redis_password.get_secret_value(),
            "services": [asdict(row) for row in self.services],
            "templates": [postgres.OPTIONS, valkey.CONFIG, kafka.SERVER, kafka.JAVA_OPTIONS, temporal.DYNAMIC,
                          temporal.PRAGMAS, VENV_BIN.as_posix()],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    # Start ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self.supervisor.pid() is not None

    def outdated(self) -> bool:
        """Whether the running supervisor's programs are not those of these settings any more."""
        try:
            return self.running and self.layout.programs_mark.read_text() != self.fingerprint()
        except OSError:
            return True

    def infra_running(self) -> bool:
        parts = self.supervisor.parts()
        return all(name in parts and parts[name].state == RUNNING for name in INFRA)

    def start_infra(self, on_ready: Callable[[str], None] = lambda name: None, timeout: float = 120) -> None:
        """Start the four parts that are not ours and wait until each answers.

        Raises:
            StopTheStart: a part cannot be prepared or does not come up; the message ends with its last log lines.
        """
        if not self.running:
            end_leftovers(self.layout)
            for stale in (self.layout.run / "health").glob("*.json"):
                stale.unlink(missing_ok=True)
            self.supervisor.start([*self._prepare(), *self.services])
            self.layout.programs_mark.write_text(self.fingerprint())
        else:
            down = [name for name, part in self.supervisor.parts().items() if name in INFRA and part.state not in ALIVE]
            self.supervisor.start_parts(down)
        try:
            asyncio.run(ready.wait(self.settings, on_ready, timeout))
        except ready.NotReady as error:
            raise StopTheStart(f"{error}\n{self.explain(error.part)}") from error

    def start_services(self) -> None:
        """Start our services, not waiting for them."""
        self.supervisor.start_parts([row.name for row in self.services])

    def explain(self, part: str, lines: int = 8) -> str:
        """A part's state and its last log lines, for a person."""
        known = self.supervisor.parts().get(part)
        state = f"{known.state}, {known.description}" if known else "not started"
        log = self.layout.log_file(part)
        text = "\n".join(f"    {line[:400]}" for line in tail(log, lines)) or "    (nothing)"
        return f"  {part}: {state}\n  last lines of {log}:\n{text}"

    # Stop -------------------------------------------------------------------------------------------------------

    def stop_services(self) -> None:
        """SIGTERM to all services of ours at once; whatever this supervisor runs that is not a part of the stack."""
        names = [name for name in self.supervisor.parts() if name not in INFRA]
        if names:
            self.supervisor.stop_parts(names)

    def stop(self, on_step: Callable[[str], None] = lambda text: None) -> list[str]:
        """Services first, then the stack, then the supervisor. Returns what had to be ended without the supervisor."""
        if self.running:
            on_step("stopping services")
            self.stop_services()
            on_step("stopping the stack")
            self.supervisor.stop_parts(INFRA)
            self.supervisor.shutdown()
        # Children of what just stopped (PostgreSQL's, a worker's) may still be on their way out.
        wait_until(lambda: not ours(self.layout), DRAIN_S if ours(self.layout) else 0, 0.1)
        leftovers = end_leftovers(self.layout)
        for path in (self.layout.run / "health").glob("*"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.layout.run / "metrics", ignore_errors=True)
        self.layout.up_record.unlink(missing_ok=True)
        with suppress(OSError):
            self.layout.socket.unlink(missing_ok=True)
        return leftovers

    def parts(self) -> dict[str, Part]:
        return self.supervisor.parts()
