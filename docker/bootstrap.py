"""Brings a fresh machine to where `alpha-panda` runs: checks, virtual environment, Kafka's jars. Standard library only.

Names no package registry: pip and Maven come with whatever their user configured. Changes nothing before all checks pass.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from docker import clean, prerequisites
from docker.prerequisites import KAFKA_JARS, ROOT

VENV = ROOT / ".venv"
STAMP = VENV / ".alpha-panda-installed"
POM = ROOT / "docker" / "native" / "pom.xml"


class Failed(Exception):
    """A step of the installation failed; the message says which, and where its output is."""


class Line:
    """One calm line a step: rewritten in place on a terminal, printed at start and end elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = time.monotonic()
        self._live = sys.stdout.isatty()
        self._shown = 0.0
        if not self._live:
            print(f"  … {title}", flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def show(self, text: str) -> None:
        if self._live:
            room = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{f'  … {self._title} {text} · {self.seconds:.0f} s'[:room]}", end="", flush=True)
        elif time.monotonic() - self._shown > 20:
            print(f"  … {self._title} {text} · {self.seconds:.0f} s", flush=True)
            self._shown = time.monotonic()

    def done(self, text: str) -> None:
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}  ✓ {self._title} {text} · {self.seconds:.1f} s", flush=True)

    def failed(self) -> None:
        print(f"{chr(13) if self._live else ''}  ✗ {self._title}", flush=True)


def _run(line: Line, log: IO[str], words: list[str], watch: Callable[[str], str]) -> None:
    """Run a program, its whole output into the log; `watch` turns each of its lines into what the step shows.

    Raises:
        Failed: with the last lines of the output.
    """
    log.write(f"\n$ {' '.join(words)}\n")
    log.flush()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    last: list[str] = []
    for output in process.stdout:
        log.write(output)
        last = [*last[-24:], output.rstrip()]
        text = watch(output)
        if text:
            line.show(text)
    log.flush()
    if process.wait() != 0:
        line.failed()
        shown = "\n".join(f"    {row}" for row in last)
        raise Failed(f"{shown}\nThe whole output is in {log.name}. Mend what it says, then run the same command again.")


def _fingerprint() -> str:
    """Changes when the environment has to be made anew or brought up to date."""
    digest = hashlib.sha256(f"{ROOT}\0{sys.version_info[:2]}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _venv_works() -> bool:
    """The environment's interpreter runs and was made for this very folder (scripts hold absolute paths)."""
    script = VENV / "bin" / "pip"
    if not (VENV / "bin" / "python").exists() or not script.is_file():
        return False
    first = script.read_text(errors="replace").split("\n", 2)
    return any(str(VENV) in row for row in first[:2])


def _pip_watcher(total: int) -> Callable[[str], str]:
    seen = 0

    def watch(output: str) -> str:
        nonlocal seen
        match = re.match(r"\s*(?:Collecting|Requirement already satisfied:) ([\w.\-]+)", output)
        if match:
            seen += 1
            done = min(seen, total)
            return f"{'█' * (20 * done // total):░<20} {done}/{total} {match[1]}"
        return "installing" if output.startswith("Installing collected") else ""

    return watch


def _install_packages(log: IO[str]) -> None:
    fingerprint = _fingerprint()
    line = Line("Python packages")
    if not _venv_works():
        shutil.rmtree(VENV, ignore_errors=True)
        line.show("making .venv")
        interpreter = getattr(sys, "_base_executable", None) or sys.executable
        _run(line, log, [interpreter, "-m", "venv", str(VENV)], lambda output: "")
    total = sum(1 for row in (ROOT / "constraints.txt").read_text().splitlines() if "==" in row)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    _run(line, log, [*pip, "-c", "constraints.txt", "-e", ".[native,dev]"], _pip_watcher(total))
    STAMP.write_text(fingerprint)
    line.done(f"installed into {VENV.name}/")


def _install_kafka(log: IO[str]) -> None:
    line = Line("Kafka")
    maven = shutil.which("mvn")
    if maven is None:
        raise Failed("Maven is missing: it fetches Kafka's jars.")
    new = KAFKA_JARS.with_name("new")
    shutil.rmtree(new, ignore_errors=True)
    words = [maven, "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    _run(line, log, [*words, f"-DoutputDirectory={new}"], _maven_watch)
    new.rename(KAFKA_JARS)
    line.done(f"fetched into {KAFKA_JARS.relative_to(ROOT)}/")


def _maven_watch(output: str) -> str:
    match = re.search(r"(?:Downloaded|Copying).*?([\w.\-]+\.jar)", output)
    return match[1] if match else ""


def installed(native: bool) -> bool:
    """Whether nothing has to be installed. Costs no more than reading two files."""
    try:
        current = STAMP.read_text() == _fingerprint() and _venv_works()
    except OSError:
        return False
    return current and (KAFKA_JARS.is_dir() or not native)


def install(native: bool, folder: Path) -> None:
    """Make what is missing.

    Raises:
        Failed: naming the step, with its last lines.
    """
    logs = folder / "var" / "log"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (logs / "setup.log").open("a") as log:
        try:
            packages = STAMP.read_text() == _fingerprint() and _venv_works()
        except OSError:
            packages = False
        if not packages:
            _install_packages(log)
        if native and not KAFKA_JARS.is_dir():
            _install_kafka(log)


def _wants_native(command: str) -> bool:
    """Tests always run natively. Else STACK decides, or whether a Docker engine answers.

    Raises:
        Failed: STACK=docker where Docker cannot be used, or a STACK we do not know.
    """
    stack = os.environ.get("STACK", "")
    if command in {"test", "tools"}:
        return command == "test"
    if stack not in {"", "docker", "native"}:
        raise Failed(f"STACK={stack} is not known: it is docker or native (or unset, which finds out).")
    if stack == "docker":
        reason = prerequisites.docker_reason()
        if reason:
            raise Failed(f"STACK=docker cannot be used here: {reason}. Start Docker, or use STACK=native.")
        return False
    if stack == "native" or (KAFKA_JARS.is_dir() and shutil.which("java")):
        return True
    return bool(prerequisites.docker_reason())


def _ports(command: str, native: bool) -> dict[str, int] | None:
    if command == "test":
        return prerequisites.test_ports()
    return prerequisites.wanted_ports(prerequisites.home(), native=native) if command in {"up", "run"} else None


def prepare(command: str) -> None:
    """Check everything, then install what is missing.

    Raises:
        Failed: what stands in the way, all of it in one message.
    """
    native = _wants_native(command)
    folder = prerequisites.test_home() if command == "test" else prerequisites.home()
    done = installed(native)
    for attempt in (1, 2):
        found = prerequisites.check(
            native=native,
            ports=_ports(command, native),
            folder=folder,
            installed=done,
            browsing=command == "test",
        )
        if not found:
            break
        if attempt == 2 or not prerequisites.offer(found):
            raise Failed(prerequisites.message(found))
    if not done:
        install(native, folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bootstrap", description="Prepare this machine for Alpha Panda.")
    parser.add_argument("command", choices=["setup", "up", "run", "test", "tools", "clean"])
    command = parser.parse_args().command
    try:
        if command == "clean":
            clean.clean(prerequisites.home(), data=os.environ.get("DATA") == "1")
        else:
            prepare(command)
    except (Failed, clean.Refused) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
