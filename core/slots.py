"""Names for processes that live at the same time: the first takes `name`, the second `name-2`, and a restart takes its old one back.

The claim is a file lock, which the kernel lets go of however the process dies. Never two living holders of one name.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MAX_SLOTS = 64


@dataclass(frozen=True, slots=True)
class Slot:
    """A claimed name. Held until `release` or the end of the process."""

    name: str
    file: IO[str]

    def release(self) -> None:
        self.file.close()


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.lock"


def claim(folder: Path, name: str) -> Slot:
    """The first free one of `name`, `name-2`, `name-3`…

    Raises:
        RuntimeError: all of them are held: far more processes than this project ever runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, MAX_SLOTS + 1):
        chosen = name if number == 1 else f"{name}-{number}"
        file = _path(folder, chosen).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return Slot(chosen, file)
    raise RuntimeError(f"{MAX_SLOTS} processes hold {folder / name}.lock: stop the leftover ones")


def is_held(folder: Path, name: str) -> bool:
    """Whether a living process holds this name."""
    try:
        file = _path(folder, name).open("r")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
