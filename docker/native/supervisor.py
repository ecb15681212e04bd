"""One supervisor for the whole native stack: its configuration, its start, its control socket, its end.

Never ends a process it cannot prove to be ours: supervised, named in a pid file of ours, or carrying our home's mark.
"""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import subprocess
import time
import xmlrpc.client  # our own supervisor's answers  # nosec B411
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from core.errors import StopTheStart
from docker.native.layout import HOME_MARK, PART_MARK, VENV_BIN, Layout, Program, write_private

RUNNING, STARTING, BACKOFF, STOPPED, FATAL = "RUNNING", "STARTING", "BACKOFF", "STOPPED", "FATAL"
ALIVE = frozenset({RUNNING, STARTING, BACKOFF, "STOPPING"})

HEAD = """\
; Written by `make up` at every start: changes here are lost.
[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisord]
logfile={log}
logfile_maxbytes=5MB
logfile_backups=2
pidfile={pidfile}
childlogdir={logs}
umask=077
strip_ansi=false
environment={environment}
{user}"""

PROGRAM = """
[program:{name}]
command={command}
directory={directory}
environment={environment}
priority={priority}
autostart={autostart}
autorestart=true
startsecs={settle}
startretries=1000000
stopsignal={stop_signal}
stopwaitsecs={stop_wait}
stopasgroup=false
killasgroup=true
redirect_stderr=true
stdout_logfile={log}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One program as the supervisor sees it. `pid` is 0 when it does not run; `description` is its own words."""

    name: str
    state: str
    pid: int
    description: str
    started: float


def _escape(text: object) -> str:
    return str(text).replace("%", "%%")


def _environment(values: dict[str, str]) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in values.items())


def configuration(layout: Layout, programs: Iterable[Program]) -> str:
    """The supervisor's file for these programs, in start order."""
    text = HEAD.format(
        socket=_escape(layout.socket),
        log=_escape(layout.log / "supervisord.log"),
        logs=_escape(layout.log),
        pidfile=_escape(layout.run / "supervisord.pid"),
        environment=_environment({HOME_MARK: str(layout.home)}),
        user="user=root\n" if os.geteuid() == 0 else "",
    )
    for place, program in enumerate(programs, start=1):
        text += PROGRAM.format(
            name=program.name,
            command=_escape(shlex.join(program.command)),
            directory=_escape(layout.home),
            environment=_environment({PART_MARK: program.name, "PYTHONUNBUFFERED": "1", **program.env}),
            priority=place,
            autostart=str(program.autostart).lower(),
            stop_signal=program.stop_signal,
            stop_wait=program.stop_wait,
            settle=program.settle,
            log=_escape(layout.log_file(program.name)),
        )
    return text


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


class Supervisor:
    """Talks to one deployment's supervisor."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @contextmanager
    def _rpc(self) -> Iterator[Any]:
        with xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(self.layout.socket)) as proxy:
            yield proxy.supervisor

    @property
    def config_file(self) -> Path:
        return self.layout.run / "supervisor.conf"

    def pid(self) -> int | None:
        """Process id of the running supervisor of this home, else None."""
        try:
            with self._rpc() as rpc:
                return int(rpc.getPID())
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return None

    def start(self, programs: Iterable[Program], timeout: float = 15) -> None:
        """Start the supervisor, which starts what has autostart. Returns when its control socket answers.

        Raises:
            StopTheStart: it ended or does not answer; the message holds its log's last lines.
        """
        write_private(self.config_file, configuration(self.layout, programs))
        clean = {key: value for key, value in os.environ.items() if key not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
        done = subprocess.run(
            [str(VENV_BIN / "supervisord"), "-c", str(self.config_file)],
            capture_output=True, text=True, check=False, timeout=timeout, env=clean,
        )  # fmt: skip
        end = time.monotonic() + timeout
        while done.returncode == 0 and time.monotonic() < end:
            if self.pid() is not None:
                return
            time.sleep(0.05)
        lines = tail(self.layout.log / "supervisord.log", 8)
        raise StopTheStart("The supervisor did not start:\n" + "\n".join([done.stdout + done.stderr, *lines]).strip())

    def parts(self) -> dict[str, Part]:
        """Every program by name; empty when no supervisor runs."""
        try:
            with self._rpc() as rpc:
                rows = rpc.getAllProcessInfo()
        except (OSError, http.client.HTTPException, xmlrpc.client.Error):
            return {}
        return {
            row["name"]: Part(row["name"], row["statename"], row["pid"], row["description"], float(row["start"]))
            for row in rows
        }

    def start_parts(self, names: Iterable[str]) -> None:
        """Start these programs, not waiting for them; those already alive are left as they are."""
        with self._rpc() as rpc:
            for name in names:
                try:
                    rpc.startProcess(name, False)
                except xmlrpc.client.Fault as fault:
                    if "ALREADY_STARTED" not in fault.faultString:
                        raise StopTheStart(f"{name} cannot be started: {fault.faultString}") from fault

    def stop_parts(self, names: Iterable[str], timeout: float = 40) -> None:
        """Send all these programs their stop signal at once; wait until they ended (the supervisor kills late ones)."""
        wanted = set(names)
        with self._rpc() as rpc:
            for name in wanted:
                try:
                    rpc.stopProcess(name, False)
                except xmlrpc.client.Fault as fault:
                    if "NOT_RUNNING" not in fault.faultString:
                        raise
        wait_until(lambda: not any(p.state in ALIVE for n, p in self.parts().items() if n in wanted), timeout)

    def shutdown(self, timeout: float = 60) -> None:
        """End the supervisor (and whatever it still runs) and wait until its process is gone."""
        pid = self.pid()
        if pid is None:
            return
        with self._rpc() as rpc:
            rpc.shutdown()
        wait_until(lambda: not psutil.pid_exists(pid), timeout)


def wait_until(done: Callable[[], bool], timeout: float, step: float = 0.05) -> bool:
    """Poll a condition with a bound. Returns whether it came true."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if done():
            return True
        time.sleep(step)
    return done()


def tail(path: Path, lines: int, span: int = 65536) -> list[str]:
    """The last lines of a log, empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - span))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def ours(layout: Layout) -> list[psutil.Process]:
    """Every live process of this home: those that carry its mark, and PostgreSQL, which overwrites its environment."""
    found: dict[int, psutil.Process] = {}
    postgres = _postgres_pid(layout)
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            marks = process.environ()
            if marks.get(HOME_MARK) == str(layout.home) and (PART_MARK in marks or _is_supervisor(process, layout)):
                found[process.pid] = process
            elif process.pid == postgres and "postgres" in process.name():
                found |= {child.pid: child for child in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue  # gone meanwhile, or another user's
    return list(found.values())


def _is_supervisor(process: psutil.Process, layout: Layout) -> bool:
    words = process.cmdline()
    return str(layout.run / "supervisor.conf") in words and any(word.endswith("supervisord") for word in words)


def _postgres_pid(layout: Layout) -> int | None:
    try:
        return int((layout.data / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def end_leftovers(layout: Layout, timeout: float = 20) -> list[str]:
    """End what a dead supervisor left behind: SIGTERM (PostgreSQL: SIGINT), then SIGKILL. Returns what was ended."""
    import signal

    processes = ours(layout)
    names = [f"{process.name()} ({process.pid})" for process in processes]
    for process in processes:
        try:
            process.send_signal(signal.SIGINT if "postgres" in process.name() else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    _, late = psutil.wait_procs(processes, timeout=timeout)
    for process in late:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(late, timeout=5)
    return names
