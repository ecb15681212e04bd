"""What a machine must have before anything is installed or started: programs, free ports, disk. Standard library only.

Looks and reports; the one thing it may change, when asked to, is to install missing packages with apt-get.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KAFKA_JARS = ROOT / ".tools" / "kafka" / "4.1.1"

JAVA_AT_LEAST = 17
DISK_TO_INSTALL_MB = 2_000
DISK_TO_RUN_MB = 300

DEFAULT_PORTS = {
    "KAFKA_PORT": 29092,
    "KAFKA_CONTROLLER_PORT": 29093,
    "POSTGRES_PORT": 25432,
    "REDIS_PORT": 26379,
    "TEMPORAL_PORT": 27233,
    "TEMPORAL_UI_PORT": 28233,
    "API_PORT": 28000,
    "SANDBOX_PORT": 28100,
}
DOCKER_PORTS = {name: port for name, port in DEFAULT_PORTS.items() if name != "KAFKA_CONTROLLER_PORT"} | {
    "CONSOLE_PORT": 28080
}
"""What docker/compose.yaml publishes: Redpanda has its Console; its controller is inside."""

MONITORING_PORTS = {"PROMETHEUS_PORT": 28090, "GRAFANA_PORT": 28030}
"""Published besides where MONITORING is true."""

ALL_PORTS = DEFAULT_PORTS | DOCKER_PORTS | MONITORING_PORTS

TEST_PORTS = {
    "KAFKA_PORT": 19092,
    "KAFKA_CONTROLLER_PORT": 19093,
    "POSTGRES_PORT": 5433,
    "REDIS_PORT": 6380,
    "TEMPORAL_PORT": 17233,
    "TEMPORAL_UI_PORT": 18233,
    "API_PORT": 18000,
    "SANDBOX_PORT": 18100,
    "KITE_LOGIN_PORT": 18101,
}
"""Tests never touch a running stack: their own ports, in their own home `.test-home`."""

TEST_OFFSETS = {
    "API_PORT": 0,
    "SANDBOX_PORT": 10,
    "KITE_LOGIN_PORT": 11,
    "POSTGRES_PORT": 32,
    "TEMPORAL_PORT": 33,
    "TEMPORAL_UI_PORT": 34,
    "REDIS_PORT": 79,
    "KAFKA_PORT": 92,
    "KAFKA_CONTROLLER_PORT": 93,
}
"""Ports from TEST_PORT_BASE on, for test runs beside each other."""


@dataclass
class Findings:
    """`missing` maps what a person reads to the Debian packages that bring it; `other` are things no package mends."""

    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.other)


def home() -> Path:
    return Path(os.environ.get("ALPHA_PANDA_HOME") or ROOT).resolve()


def test_home() -> Path:
    base = os.environ.get("TEST_PORT_BASE")
    return ROOT / (f".test-home-{base}" if base else ".test-home")


def test_ports() -> dict[str, int]:
    """Setting → port of the test stack; TEST_PORT_BASE moves them all, so that runs can go beside each other."""
    base = os.environ.get("TEST_PORT_BASE")
    return {name: int(base) + offset for name, offset in TEST_OFFSETS.items()} if base else TEST_PORTS


def env_values(folder: Path) -> dict[str, str]:
    """`.env` as written, with the environment over it: the order in which our settings are read."""
    values: dict[str, str] = {}
    path = folder / ".env"
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*(.*?)\s*", line)
            if match:
                values[match[1].upper()] = match[2].strip("'\"")
    return values | {key: value for key, value in os.environ.items() if key in values or key in ALL_PORTS}


def docker_reason() -> str:
    """Why Docker cannot be used here; empty when it can (engine answers, compose is there)."""
    if shutil.which("docker") is None:
        return "the command `docker` is not installed"
    for words, what in (
        (("docker", "info"), "the Docker engine"),
        (("docker", "compose", "version"), "`docker compose`"),
    ):
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
        except subprocess.TimeoutExpired:
            return f"{what} does not answer within 20 s"
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            return f"{what} does not answer ({lines[-1] if lines else 'no message'})"
    return ""


def _java_version() -> int | None:
    program = shutil.which("java")
    if program is None:
        return None
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=False, timeout=30)
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match[1]) if match else None


def _java_package() -> str:
    """Debian's and Ubuntu's default Java, except where that is older than 17."""
    release = Path("/etc/os-release")
    text = release.read_text() if release.is_file() else ""
    ubuntu = re.search(r'^VERSION_ID="?(\d+)', text, re.M) if re.search(r"^ID=ubuntu", text, re.M) else None
    return "openjdk-17-jre-headless" if ubuntu and int(ubuntu[1]) < 24 else "default-jre-headless"


def browser() -> str | None:
    """The Chromium that the dashboard's tests drive. None: there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _browser_package() -> str:
    """Debian's Chromium; Ubuntu's package of that name only fetches a snap, which a container cannot run."""
    release = Path("/etc/os-release")
    text = release.read_text() if release.is_file() else ""
    return "chromium-browser" if re.search(r"^ID=ubuntu", text, re.M) else "chromium"


def _programs(found: Findings, native: bool) -> None:
    if importlib.util.find_spec("ensurepip") is None and not (ROOT / ".venv" / "bin" / "pip").exists():
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        found.missing[f"Python's venv module (for {name})"] = (f"{name}-venv",)
    if shutil.which("make") is None:
        found.missing["make"] = ("make",)
    if not native:
        return
    java = _java_version()
    if java is None:
        found.missing[f"Java {JAVA_AT_LEAST} or newer (runs Kafka)"] = (_java_package(),)
    elif java < JAVA_AT_LEAST:
        found.missing[f"Java {JAVA_AT_LEAST} or newer (runs Kafka; `java` here is {java})"] = (_java_package(),)
    if shutil.which("mvn") is None and not KAFKA_JARS.is_dir():
        found.missing["Maven (fetches Kafka)"] = ("maven",)


def _listening_inodes(ports: set[int]) -> dict[str, int]:
    """Socket inode → port, of sockets that listen on these ports (Linux)."""
    inodes = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            words = row.split()
            port = int(words[1].rsplit(":", 1)[1], 16)
            if words[3] == "0A" and port in ports:
                inodes[words[9]] = port
    return inodes


def _holders(ports: set[int]) -> dict[int, int]:
    """Port → process that listens on it, as far as we may see (Linux)."""
    inodes = _listening_inodes(ports)
    holders: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            links = [os.readlink(entry.path) for entry in os.scandir(folder)]
        except OSError:
            continue  # another user's process, or gone
        for link in links:
            if link.startswith("socket:[") and link[8:-1] in inodes:
                holders.setdefault(inodes[link[8:-1]], int(folder.parent.name))
    return holders


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether a process belongs to this home's stack: it carries our mark, or works on our files."""
    try:
        marks = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return f"ALPHA_PANDA_HOME={folder}".encode() in marks or os.fsencode(folder / "var") in words


def _supervisor_alive(folder: Path) -> bool:
    """Where processes cannot be looked into (not Linux): our supervisor lives, so the taken ports are ours."""
    try:
        os.kill(int((folder / "var" / "run" / "supervisord.pid").read_text()), 0)
    except (OSError, ValueError):
        return False
    return not Path("/proc").is_dir()


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "a process"


def wanted_ports(folder: Path, *, native: bool = True) -> dict[str, int]:
    """Setting → port that the native stack, or the Docker one, listens on.

    A value that is no port is left to the settings' own check, which names it.
    """
    values = env_values(folder)
    wanted = DEFAULT_PORTS if native else DOCKER_PORTS
    if not native and values.get("MONITORING", "").lower() in {"1", "true", "yes", "on"}:
        wanted = wanted | MONITORING_PORTS
    ports = {}
    for name, default in wanted.items():
        text = values.get(name, str(default))
        if text.isdigit() and 0 < int(text) < 65536:
            ports[name] = int(text)
    return ports


def _ports(found: Findings, folder: Path, wanted: dict[str, int]) -> None:
    taken = {name: port for name, port in wanted.items() if not _is_free(port)}
    if not taken or _supervisor_alive(folder):
        return
    holders = _holders(set(taken.values()))
    for name, port in taken.items():
        pid = holders.get(port)
        if pid is not None and _is_ours(pid, folder):
            continue
        who = f"{_name_of(pid)} (process {pid})" if pid is not None else "another user's process"
        found.other.append(
            f"Port {port} ({name}) is taken by {who}: stop it, or choose another with {name}=... in .env"
        )


def _disk(found: Findings, folder: Path, installed: bool) -> None:
    needs = {ROOT: 0 if installed else DISK_TO_INSTALL_MB, folder: DISK_TO_RUN_MB}
    for path, need in needs.items():
        there = path
        while not there.exists():
            there = there.parent
        free = shutil.disk_usage(there).free // 1_000_000
        if free < need:
            found.other.append(f"Too little disk: {path} has {free} MB free, {need} MB are needed: free some space")


def check(
    *, native: bool, ports: dict[str, int] | None, folder: Path, installed: bool, browsing: bool = False
) -> Findings:
    """Everything that stands in the way, found without changing anything. `ports` None: none are needed now.

    `browsing`: tests of the dashboard will want a browser.
    """
    found = Findings()
    _programs(found, native)
    if browsing and browser() is None:
        found.missing["Chromium (the tests look at the dashboard in it)"] = (_browser_package(),)
    if ports is not None:
        _ports(found, folder, ports)
    _disk(found, folder, installed)
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        found.other.append(f"{folder} is not writable for this user: run as its owner")
    return found


def install_line(found: Findings) -> str | None:
    """The command that installs what is missing; None where apt-get is not how it is done."""
    packages = sorted({package for packages in found.missing.values() for package in packages})
    if not packages or shutil.which("apt-get") is None:
        return None
    before = "" if os.geteuid() == 0 else "sudo "
    return f"{before}apt-get update && {before}apt-get install -y --no-install-recommends {' '.join(packages)}"


def message(found: Findings) -> str:
    """One message: all that is missing or in the way, and the way out."""
    lines = []
    if found.missing:
        lines += ["Missing:", *(f"  {name}" for name in found.missing)]
        line = install_line(found)
        lines += ["Way out:", f"  {line}"] if line else ["Way out: install these with your package manager."]
        lines.append("  (or YES=1 with the same make command: it installs them)" if line else "")
    if found.other:
        lines += ["In the way:", *(f"  {text}" for text in found.other)]
    return "\n".join(line for line in lines if line)


def _may_install(line: str) -> bool:
    if os.geteuid() != 0 and shutil.which("sudo") is None:
        return False
    if os.environ.get("YES") == "1" or os.environ.get("CI") == "true":
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"Install what is missing now?\n  {line}\n[y/N] ").strip().lower() in {"y", "yes"}


def offer(found: Findings) -> bool:
    """Install what packages can mend, when nothing else is in the way and a person (or YES=1, CI=true) agrees."""
    line = install_line(found)
    if found.other or line is None or not _may_install(line):
        return False
    print(f"Installing: {line}", flush=True)
    done = subprocess.run(["sh", "-c", line], check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    return done.returncode == 0
