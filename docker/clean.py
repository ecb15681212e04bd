"""`make clean`: removes what can be made again. Data goes only with DATA=1 and the typed words. Standard library only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from docker.prerequisites import ROOT

CONFIRMATION = "delete my data"

REMADE = (
    ".venv",
    ".tools",
    "build",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".import_linter_cache",
    ".hypothesis",
)


class Refused(Exception):
    """Nothing was removed; the message says why."""


def _alive(folder: Path) -> bool:
    """Whether a supervisor of ours still runs there."""
    try:
        pid = int((folder / "var" / "run" / "supervisord.pid").read_text())
        os.kill(pid, 0)
        command = Path(f"/proc/{pid}/cmdline")
        return not command.exists() or os.fsencode(folder / "var") in command.read_bytes()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _confirmed(folder: Path) -> bool:
    print(f"This removes every order, position and log in {folder / 'var'}. There is no way back.")
    try:
        return input(f'Type "{CONFIRMATION}" to go on: ').strip() == CONFIRMATION
    except EOFError:
        return False


def clean(folder: Path, *, data: bool) -> None:
    """Remove installed and cached files of the project; with `data`, after a typed confirmation, `var/` as well.

    Raises:
        Refused: something still runs, or the confirmation was not typed.
    """
    test_homes = sorted([*ROOT.glob(".test-home*"), *ROOT.glob(".chaos-home*")])
    for home in (folder, ROOT, *test_homes):
        if _alive(home):
            raise Refused(f"A stack still runs from {home}: `make down` first. Nothing was removed.")
    if data and not _confirmed(folder):
        raise Refused("Not confirmed: nothing was removed.")
    for path in [*(ROOT / name for name in REMADE), *test_homes, *ROOT.glob("*.egg-info")]:
        _remove(path)
    for package in ROOT.iterdir():
        if package.is_dir() and not package.name.startswith(".") and package.name != "var":
            for cache in sorted(package.rglob("__pycache__")):
                _remove(cache)
    if data:
        _remove(folder / "var")
    print(
        f"Removed {'installed files, caches and all data' if data else 'installed files and caches; data and .env stay'}."
    )
