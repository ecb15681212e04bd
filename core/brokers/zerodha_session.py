"""The Zerodha session on disk: one file per target (0600), written by the login, watched by every process that needs it.

Never logs a token and never makes a session up: no file, an unreadable one or an expired one is no session.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from core import logging
from core.clock import utc_now
from core.config import Settings

POLL_S = 1.0
"""How often the watcher looks at the file."""

REFUSED_S = 30.0
"""A token the broker refused is not used for this long, unless a new file appears first."""

log = logging.get(__name__)


class _File(BaseModel):
    """The file's fields, checked."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user_id: str = Field(min_length=1)
    api_key: str = Field(min_length=1)
    access_token: SecretStr = Field(min_length=1)
    login_time: AwareDatetime
    expires_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class Session:
    """A login. Times are aware UTC; `expires_at` is 06:00 IST of the next day (no field on the wire says so)."""

    user_id: str
    api_key: str
    access_token: str = field(repr=False)
    login_time: datetime
    expires_at: datetime

    def valid_at(self, moment: datetime) -> bool:
        return moment < self.expires_at

    def is_for(self, settings: Settings) -> bool:
        """Whether it is of the app and the user these settings name: orders are booked as that user's."""
        return (self.api_key, self.user_id) == (settings.kite_api_key, settings.kite_user_id)


def write_session(settings: Settings, session: Session) -> None:
    """Replace the target's session file in one step; only its owner may read it."""
    path = settings.session_file
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = {
        "user_id": session.user_id,
        "api_key": session.api_key,
        "access_token": session.access_token,
        "login_time": session.login_time.isoformat(),
        "expires_at": session.expires_at.isoformat(),
    }
    text = json.dumps(body, indent=2)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def remove_session(settings: Settings) -> None:
    """Forget the session, as a logout does."""
    with contextlib.suppress(FileNotFoundError):
        settings.session_file.unlink()


def read_session(path: Path) -> Session | None:
    """The session in this file whether expired or not; None without a file or with one that says nothing usable."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = _File.model_validate_json(text)
    except ValidationError as error:
        fields = ", ".join(".".join(str(part) for part in item["loc"]) or item["type"] for item in error.errors())
        log.warning("session file is unusable: run `alpha-panda login`", path=str(path), fields=fields)
        return None
    return Session(
        user_id=found.user_id,
        api_key=found.api_key,
        access_token=found.access_token.get_secret_value(),
        login_time=found.login_time,
        expires_at=found.expires_at,
    )


def load_session(settings: Settings) -> Session | None:
    """The target's session if it is there, for this app and user and not expired; else None."""
    session = read_session(settings.session_file)
    if session is None or not session.is_for(settings) or not session.valid_at(utc_now()):
        return None
    return session


class SessionWatcher:
    """The present session, read anew when its file changes. Looks at the file at most once a second."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._stamp: tuple[int, int, int] | None = None
        self._session: Session | None = None
        self._looked_at = float("-inf")
        self._refused_until = float("-inf")

    @property
    def session(self) -> Session | None:
        """The session to use now, None while there is none, it expired, or the broker refused it and no new one came."""
        now = self._monotonic()
        if now - self._looked_at >= POLL_S:
            self._look(now)
        session = self._session
        if session is None or now < self._refused_until or not session.valid_at(utc_now()):
            return None
        return session

    def refused(self, session: Session) -> None:
        """The broker refused this session's token: use it no more for a while, unless it is not the present one."""
        now = self._monotonic()
        self._look(now)
        if self._session is not None and self._session.access_token == session.access_token:
            self._refused_until = now + REFUSED_S
            log.warning("the broker refused our session: run `alpha-panda login`", user_id=session.user_id)

    async def wait_valid(self, stop: asyncio.Event) -> Session | None:
        """Wait for a usable session; None when `stop` is set first."""
        while not stop.is_set():
            session = self.session
            if session is not None:
                return session
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_S)
        return None

    def _look(self, now: float) -> None:
        self._looked_at = now
        try:
            found = self._settings.session_file.stat()
        except FileNotFoundError:
            self._stamp, self._session = None, None
            return
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp == self._stamp:
            return
        before = self._session
        self._stamp = stamp
        session = read_session(self._settings.session_file)
        self._session = session if session is not None and session.is_for(self._settings) else None
        if self._session is not None and (before is None or before.access_token != self._session.access_token):
            self._refused_until = float("-inf")
