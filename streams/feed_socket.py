"""Our own client of Kite's ticker on asyncio: subscribes in mode full, notices a dead connection, comes back, names the gap.

Never waits for whoever takes the frames: callbacks are plain functions that must return at once.
"""

from __future__ import annotations

import asyncio
import json
import logging as std_logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException

from core import logging
from core.brokers.zerodha_session import Session
from core.clock import utc_now
from core.config import Settings
from core.trading.types import KiteTarget

DEAD_AFTER_S = 5.0
"""Kite sends a heartbeat every couple of seconds; a connection silent for this long is dead, whatever TCP says."""

OPEN_TIMEOUT_S = 7.0
CLOSE_TIMEOUT_S = 1.0
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 10.0
MAX_TOKENS = 3000
"""Instruments Kite serves on one connection (kite.trade/docs/connect/v3/websocket)."""

MAX_FRAME_BYTES = 8 * 1024 * 1024
_CHUNK = 500
_FORBIDDEN = 403

log = logging.get(__name__)

# The library logs request lines, which carry the token, at DEBUG.
_library_log = std_logging.getLogger("websockets.client")
_library_log.setLevel(std_logging.INFO)


class _Silent(Exception):
    """The connection is dead: nothing came for too long."""


@dataclass(frozen=True, slots=True)
class SocketEvents:
    """Who hears what. All but `session` and `refused` must return at once."""

    frame: Callable[[bytes, datetime], None]
    """A binary frame and when it arrived (aware UTC)."""

    text: Callable[[str, datetime], None]
    gap: Callable[[Collection[int], datetime, datetime, str], None]
    """These tokens may miss ticks since the first time until the second, and why."""

    up: Callable[[bool], None]
    """True with the first frame of a connection, False when it is lost."""

    session: Callable[[], Awaitable[Session | None]]
    """The session to connect with; waits for one. None: asked to stop."""

    refused: Callable[[Session], Awaitable[None]]
    """The handshake was answered 403: this session is dead."""


class KiteSocket:
    """One connection at a time, for as long as `run` runs. `want` may be called at any time."""

    def __init__(self, settings: Settings, events: SocketEvents, *, dead_after_s: float = DEAD_AFTER_S) -> None:
        self._settings = settings
        self._events = events
        self._dead_after_s = dead_after_s
        self._wanted: frozenset[int] = frozenset()
        self._subscribed: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self._last_frame: datetime | None = None
        self._lost_because: str | None = None
        self._failures = 0

    @property
    def wanted(self) -> frozenset[int]:
        return self._wanted

    def want(self, tokens: Iterable[int]) -> None:
        """The instruments to be subscribed from now on; unsubscribes the others.

        Raises:
            ValueError: more than MAX_TOKENS.
        """
        wanted = frozenset(tokens)
        if len(wanted) > MAX_TOKENS:
            raise ValueError(f"{len(wanted)} instruments wanted, Kite serves {MAX_TOKENS} on one connection")
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    def missing_since(self, moment: datetime, reason: str) -> None:
        """Ticks before this process's first frame are missing since `moment`: the first frame announces that gap."""
        self._last_frame = moment
        self._lost_because = reason

    async def run(self) -> None:
        """Connect and reconnect until cancelled, or until `session` gives None."""
        while True:
            session = await self._events.session()
            if session is None:
                return
            reason = await self._once(session)
            delay = self._backoff()
            log.warning("market data connection lost", reason=reason, reconnect_in_s=round(delay, 2))
            await asyncio.sleep(delay)

    def _backoff(self) -> float:
        """0.5 s doubling to 10 s, half of it jitter; back to the start once a connection delivered a frame."""
        longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    async def _once(self, session: Session) -> str:
        """One connection from handshake to its end. Returns why it ended."""
        try:
            async with connect(
                self._address(session),
                additional_headers={"X-Kite-Version": "3"},
                user_agent_header="alpha-panda",
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,  # Kite's own frames are the heartbeat
                max_size=MAX_FRAME_BYTES,
                proxy=None if self._settings.kite_target is KiteTarget.LOCAL else True,
                logger=_library_log,
            ) as socket:
                feeder = asyncio.create_task(self._subscribe(socket), name="feed-subscribe")
                try:
                    await self._receive(socket)
                finally:
                    feeder.cancel()
                    await asyncio.gather(feeder, return_exceptions=True)
            reason = "closed by the server"
        except InvalidStatus as error:
            if error.response.status_code == _FORBIDDEN:
                await self._events.refused(session)
            reason = f"handshake answered HTTP {error.response.status_code}"
        except _Silent as error:
            reason = str(error)
        except TimeoutError:
            reason = f"no handshake within {OPEN_TIMEOUT_S:g} s"
        except (ConnectionClosed, InvalidHandshake, WebSocketException, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._subscribed = frozenset()
            self._events.up(False)
        if self._lost_because is None and self._last_frame is not None:
            self._lost_because = reason
        return reason

    def _address(self, session: Session) -> str:
        query = {"api_key": session.api_key, "access_token": session.access_token}
        if self._settings.kite_target is KiteTarget.ZERODHA_SANDBOX:
            query["user_id"] = session.user_id
        return f"{self._settings.kite_ws_root}/?{urlencode(query)}"

    async def _receive(self, socket: ClientConnection) -> None:
        """Hand over frames until the server closes.

        Raises:
            _Silent: no frame for `dead_after_s`.
        """
        try:
            async with asyncio.timeout(self._dead_after_s) as deadline:
                await self._hand_over(socket, deadline)
        except TimeoutError:
            raise _Silent(f"no frame for {self._dead_after_s:g} s") from None

    async def _hand_over(self, socket: ClientConnection, deadline: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        first = True
        async for message in socket:
            received = utc_now()
            deadline.reschedule(loop.time() + self._dead_after_s)
            if first:
                first = False
                self._delivering(received)
            self._last_frame = received
            if isinstance(message, bytes):
                self._events.frame(message, received)
            else:
                self._events.text(message, received)

    def _delivering(self, received: datetime) -> None:
        """The first frame of a connection: the gap, if there was one, ends here."""
        self._failures = 0
        self._events.up(True)
        if self._lost_because is not None and self._last_frame is not None:
            self._events.gap(self._wanted, self._last_frame, received, self._lost_because)
        self._lost_because = None

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Bring the server's list to ours, now and at each change."""
        while True:
            self._changed.clear()
            wanted = self._wanted
            added, dropped = sorted(wanted - self._subscribed), sorted(self._subscribed - wanted)
            for tokens in _chunks(dropped):
                await socket.send(_message("unsubscribe", tokens))
            for tokens in _chunks(added):
                await socket.send(_message("subscribe", tokens))
                await socket.send(_message("mode", ["full", tokens]))
            self._subscribed = wanted
            if added or dropped:
                log.info("subscribed", instruments=len(wanted), added=len(added), dropped=len(dropped))
            await self._changed.wait()


def _chunks(tokens: list[int]) -> Iterable[list[int]]:
    for at in range(0, len(tokens), _CHUNK):
        yield tokens[at : at + _CHUNK]


def _message(action: str, value: object) -> str:
    return json.dumps({"a": action, "v": value}, separators=(",", ":"))
