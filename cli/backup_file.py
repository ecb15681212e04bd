"""The file of a backup: a tar with a manifest, PostgreSQL's dump, `.env` and a few small files. Readable by its owner alone.

Written beside its place and renamed: a backup is whole or not there. Reads no name from a file but those it knows.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from core.config import Settings
from core.errors import StopTheStart
from core.trading.types import KiteTarget

FORMAT = 1
MANIFEST, DUMP, ENV = "manifest.json", "database.dump", "env"
LARGEST_BESIDE = 64 * 2**20
"""Bytes of anything but the dump."""

_SMALL = re.compile(r"(?:session|flatten)/[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


class Manifest(BaseModel):
    """What the backup is of. `taken_at` lies before the snapshot: what happened after it may or may not be in it."""

    model_config = ConfigDict(frozen=True)

    format: int
    taken_at: AwareDatetime
    revision: str
    target: KiteTarget
    account: str
    dump_sha256: str = ""

    @classmethod
    def now(cls, settings: Settings, revision: str) -> Manifest:
        at = datetime.now(UTC)
        return cls(
            format=FORMAT, taken_at=at, revision=revision, target=settings.kite_target, account=settings.kite_user_id
        )

    def at(self) -> str:
        """UTC."""
        return f"{self.taken_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    def refuse_other_account(self, settings: Settings) -> None:
        """Raises StopTheStart: `.env` names another account or target than the journal's orders are of."""
        if (settings.kite_target, settings.kite_user_id) != (self.target, self.account):
            raise StopTheStart(
                f"The backup is of account {self.account} on {self.target}; `.env` here says {settings.kite_user_id} on "
                f"{settings.kite_target}. Put KITE_USER_ID and KITE_TARGET back first. Nothing was changed."
            )


@dataclass(frozen=True, slots=True)
class Contents:
    """`files`: name below var/ → its bytes."""

    manifest: Manifest
    dump: Path
    env: str = field(repr=False)
    files: Mapping[str, bytes] = field(repr=False)


def pack(file: Path, contents: Contents) -> Manifest:
    """Write the file (0600), on disk when this returns. Raises StopTheStart: it is there already."""
    manifest = contents.manifest.model_copy(update={"dump_sha256": _digest(contents.dump)})
    new = contents.dump.with_name("whole")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w") as tar:
            small = {MANIFEST: manifest.model_dump_json().encode(), ENV: contents.env.encode(), **contents.files}
            for name, data in small.items():
                tar.addfile(_entry(name, len(data)), io.BytesIO(data))
            with contents.dump.open("rb") as dump:
                tar.addfile(_entry(DUMP, contents.dump.stat().st_size), dump)
        raw.flush()
        os.fsync(raw.fileno())
    try:
        os.link(new, file)  # unlike a rename, it replaces nothing
    except FileExistsError:
        raise StopTheStart(f"{file} is there already: give another name. Nothing was written.") from None
    return manifest


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(file: Path, folder: Path) -> Contents:
    """Read the file; its dump goes to `folder`.

    Raises:
        StopTheStart: it is no backup of ours, of another format, or damaged.
    """
    small: dict[str, bytes] = {}
    dump = folder / DUMP
    try:
        with tarfile.open(file, mode="r:") as tar:
            for entry in tar:
                data = tar.extractfile(entry) if entry.isreg() else None
                if data is None or (entry.name != DUMP and entry.size > LARGEST_BESIDE):
                    raise StopTheStart(f"{file} holds {entry.name[:100]!r}, which no backup of ours does.")
                if entry.name == DUMP:
                    _copy(data, dump)
                else:
                    small[entry.name] = data.read()
        manifest = Manifest.model_validate_json(small.pop(MANIFEST))
        env = small.pop(ENV).decode()
    except (OSError, tarfile.TarError, KeyError, UnicodeDecodeError, ValidationError) as error:
        raise StopTheStart(
            f"{file} is no backup of `alpha-panda backup`, or is damaged: {type(error).__name__}."
        ) from error
    if strange := [name for name in small if not _SMALL.fullmatch(name)]:
        raise StopTheStart(f"{file} holds {strange[0][:100]!r}, which no backup of ours does.")
    if manifest.format != FORMAT:
        raise StopTheStart(f"{file} has format {manifest.format}; this version reads {FORMAT}.")
    if not dump.exists() or _digest(dump) != manifest.dump_sha256:
        raise StopTheStart(f"{file} is damaged: its dump is not the one that was written. Take another backup.")
    return Contents(manifest, dump, env, small)


def _copy(data: IO[bytes], to: Path) -> None:
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while block := data.read(2**20):
            file.write(block)
