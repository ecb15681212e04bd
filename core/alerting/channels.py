"""The channels of ALERT_URLS: sends a message through Apprise, which is imported at the first one.

Never shows a channel's URL, which is a password: a channel is called after its kind and a hash. Never follows a redirect, and takes no
URL from anywhere but the settings.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging as std_logging
import re
import threading
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from core.alerting.kinds import Severity
from core.errors import AlphaPandaError, ConfigError

SEND_S = 30.0
"""A channel that has not taken a message by then has failed."""

SCHEMES = {
    "tgram": "Telegram",
    "mailto": "e-mail",
    "mailtos": "e-mail over TLS",
    "json": "webhook (JSON over http)",
    "jsons": "webhook (JSON over https)",
    "discord": "Discord",
    "slack": "Slack",
    "ntfy": "ntfy",
    "ntfys": "ntfy over TLS",
    "gotify": "Gotify",
    "gotifys": "Gotify over TLS",
    "pover": "Pushover",
    "matrix": "Matrix",
    "matrixs": "Matrix over TLS",
    "signal": "Signal",
    "signals": "Signal over TLS",
    "gchat": "Google Chat",
    "workflows": "Microsoft Teams",
    "twilio": "Twilio (SMS)",
    "pagerduty": "PagerDuty",
}
"""Apprise speaks many more; those that read files, run programs or talk to this machine's desktop are not for a server."""

_APART = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_SHORTEST_SECRET = 4


class ChannelFailed(AlphaPandaError):
    """The channel did not take the message. Tried again; the words are the channel's own, without its URL."""


class Channel(Protocol):
    """Where a message goes."""

    @property
    def name(self) -> str:
        """What people see of it; tells nothing of its URL but the kind."""
        ...

    async def send(self, title: str, body: str, severity: Severity) -> None:
        """Raises ChannelFailed."""
        ...


def split(text: str) -> list[str]:
    """The URLs in ALERT_URLS, separated by spaces or commas."""
    return [part for part in _APART.split(text.strip()) if part]


def check(text: str) -> None:
    """Raises ValueError naming the schemes there are; never the URL."""
    seen = set()
    for place, url in enumerate(split(text), start=1):
        scheme, apart, rest = url.partition("://")
        if not apart or not rest:
            raise ValueError(f"number {place} is no URL: write scheme://…, one after the other with a space between")
        if scheme.lower() not in SCHEMES:
            raise ValueError(f"number {place} has a scheme we do not take: it is one of {', '.join(SCHEMES)}")
        if url in seen:
            raise ValueError(f"number {place} is there twice")
        seen.add(url)


@dataclass(slots=True)
class AppriseChannel:
    """One URL. Threads that hang are bounded by Apprise's own socket timeouts (4 s) and by SEND_S."""

    url: str = field(repr=False)
    name: str = field(init=False)
    _plugin: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:6]
        self.name = f"{self.url.partition('://')[0].lower()}-{digest}"

    async def send(self, title: str, body: str, severity: Severity) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                refused = await asyncio.to_thread(self._send, title, body, severity)
        except TimeoutError:
            raise ChannelFailed(f"{self.name} did not answer within {SEND_S:.0f} s") from None
        if refused is not None:
            raise ChannelFailed(f"{self.name}: {refused}")

    def _send(self, title: str, body: str, severity: Severity) -> str | None:
        """None: taken. Else why not, in the library's words."""
        from apprise import NotifyFormat, NotifyType

        kind = {Severity.INFO: NotifyType.INFO, Severity.WARNING: NotifyType.WARNING}.get(severity, NotifyType.FAILURE)
        with _Heard() as heard:
            try:
                taken = self._open().notify(title=title, body=body, notify_type=kind, body_format=NotifyFormat.TEXT)
            except ConfigError as error:
                return str(error)
            except Exception as error:  # a plug-in's own exception: the same to us as a refusal
                return without_secrets(f"{type(error).__name__}: {error}", self.url)
        return None if taken else without_secrets("; ".join(heard.lines) or "not taken", self.url)

    def _open(self) -> Any:
        """The plug-in behind the URL.

        Raises:
            ConfigError: Apprise cannot read it.
        """
        if self._plugin is None:
            from apprise import Apprise, AppriseAsset, PersistentStoreMode

            asset = AppriseAsset(
                app_id="Alpha Panda", app_desc="alerts", http_redirects=False, storage_mode=PersistentStoreMode.MEMORY
            )
            self._plugin = Apprise.instantiate(self.url, asset=asset, suppress_exceptions=True)
            if self._plugin is None:
                raise ConfigError(
                    "Apprise cannot read this URL: mend it in ALERT_URLS (github.com/caronc/apprise/wiki)"
                )
        return self._plugin


class _Heard(std_logging.Handler):
    """What Apprise warns of in this thread: its only word on why a message was not taken."""

    def __init__(self) -> None:
        super().__init__(std_logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()
        self._logger = std_logging.getLogger("apprise")

    def emit(self, record: std_logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())

    def __enter__(self) -> _Heard:
        self._logger.propagate = False  # its lines may name what the URL holds; they reach our log through us alone
        self._logger.setLevel(std_logging.WARNING)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)


def without_secrets(text: str, url: str) -> str:
    """The text without any part of the URL but its scheme and host, in one line of at most 300 characters."""
    rest = url.partition("://")[2]
    address = urlsplit(url)
    host = address.hostname or ""
    parts = {part for part in re.split(r"[/:@?&=#+,;]", rest) if len(part) >= _SHORTEST_SECRET}
    parts |= {unquote(part) for part in parts} | {rest, url}
    for part in sorted(parts, key=len, reverse=True):
        if part.lower() != host.lower() or address.scheme.lower() in _HOST_IS_SECRET:
            text = text.replace(part, "…")
    return " ".join(text.split())[:300]


_HOST_IS_SECRET = {"tgram", "discord", "slack", "pover", "gchat", "workflows", "twilio", "pagerduty"}
"""What follows :// is a token there, no machine's name."""


def channels(text: str) -> list[AppriseChannel]:
    """A channel for each URL of ALERT_URLS."""
    return [AppriseChannel(url) for url in split(text)]
