"""Reads the log files of all parts as one readable stream: time, part, words. Only reads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.text import Text

from cli.progress import console
from core.config import Settings
from core.errors import StopTheStart
from docker.native.layout import Layout
from docker.native.supervisor import tail

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
LEVELS = {"warning": "yellow", "error": "red", "critical": "bold red"}
QUIET = frozenset({"event", "level", "timestamp", "logger", "service"})
STEP_S = 0.2


class _Follower:
    """One file, followed over its rotation."""

    def __init__(self, path: Path, lines: int) -> None:
        self.part = path.stem
        self._path = path
        self.past = tail(path, lines) if lines else []
        self._inode, self._at = self._where()
        self._rest = b""

    def _where(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_size

    def new(self) -> list[str]:
        """Whole lines written since the last call."""
        inode, size = self._where()
        if inode != self._inode or size < self._at:
            self._inode, self._at = inode, 0
        if size == self._at:
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            chunk = self._rest + file.read()
            self._at = file.tell()
        *whole, self._rest = chunk.split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def _json(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "event" in row else None


def readable(part: str, line: str, colour: str) -> Text:
    """A line as a person reads it; what is not JSON of ours stays as it is."""
    row = _json(line)
    text = Text(f"{part:<16} ", style=colour)
    if row is None:
        return text.append(line, style="dim")
    level = str(row.get("level", "info"))
    text.append(str(row.get("timestamp", ""))[11:23] + " ", style="dim")
    text.append(str(row["event"]), style=LEVELS.get(level, "default"))
    for key, value in row.items():
        if key == "exception":
            text.append(f"\n{value}", style="red")
        elif key not in QUIET:
            text.append(f" {key}=", style="dim").append(str(value))
    return text


def _files(settings: Settings, service: str | None) -> list[Path]:
    folder = Layout.of(settings).log
    there = sorted(path for path in folder.glob("*.log") if path.stem != "setup")
    if service is None:
        return [path for path in there if path.stem != "supervisord"]
    if folder / f"{service}.log" not in there:
        raise StopTheStart(
            f"No log of {service!r} in {folder}. There are: {', '.join(path.stem for path in there) or 'none'}."
        )
    return [folder / f"{service}.log"]


def follow(settings: Settings, service: str | None, *, lines: int, go_on: bool = True, raw: bool = False) -> None:
    """Print the last `lines` of each part, then what comes, until interrupted.

    Raises:
        StopTheStart: there is no such log; names those that are.
    """
    files = [_Follower(path, lines) for path in _files(settings, service)]
    colours = {file.part: COLOURS[place % len(COLOURS)] for place, file in enumerate(files)}

    def show(part: str, line: str) -> None:
        if raw:
            print(line, flush=True)
        else:
            console.print(readable(part, line, colours[part]), soft_wrap=True)

    for file in files:
        for line in file.past:
            show(file.part, line)
    while go_on:
        quiet = True
        for file in files:
            for line in file.new():
                show(file.part, line)
                quiet = False
        if quiet:
            time.sleep(STEP_S)
