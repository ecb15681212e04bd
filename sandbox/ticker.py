"""The WebSocket side: subscriptions, binary ticks, heartbeats and order frames. It moves subscribed markets, nothing else.

A client that reads too slowly loses ticks, oldest first, as it does at Kite; order frames are never dropped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from sandbox import packets
from sandbox.board import Board
from sandbox.config import SandboxConfig
from sandbox.exchange import Exchange
from sandbox.fault_answers import reset
from sandbox.fault_sockets import SocketFaults
from sandbox.orders import Order
from sandbox.prices import Market
from sandbox.sessions import Sessions
from sandbox.wire import now

log = logging.getLogger("sandbox.ticker")
MAX_TOKENS = 3_000
MAX_SOCKETS = 3
_MAX_FRAMES = 256
_SLOTS = 5
"""Subscribed markets are spread over this many moments of a tick interval, as real ticks are."""


class Connection:
    """One socket: what it asked for and what it still has to be sent."""

    def __init__(self, number: int, websocket: WebSocket, access_token: str) -> None:
        self.number = number
        self.websocket = websocket
        self.access_token = access_token
        self.modes: dict[int, str] = {}
        self.frames: deque[bytes | str] = deque()
        self.wake = asyncio.Event()
        self.closing = False
        self.last_sent = time.monotonic()
        self.opened_at = now()
        self.ticks_sent = 0
        self.frames_dropped = 0

    def send(self, frame: bytes | str) -> None:
        """Queue a frame; a full queue drops its oldest tick frame."""
        if isinstance(frame, bytes) and len(self.frames) >= _MAX_FRAMES:
            for queued in self.frames:
                if isinstance(queued, bytes):
                    self.frames.remove(queued)
                    self.frames_dropped += 1
                    break
        self.frames.append(frame)
        self.wake.set()

    def close(self) -> None:
        self.closing = True
        self.wake.set()

    def info(self) -> dict[str, Any]:
        return {
            "connection": self.number,
            "opened_at": self.opened_at.isoformat(),
            "tokens": len(self.modes),
            "modes": {mode: sum(1 for each in self.modes.values() if each == mode) for mode in sorted(packets.MODES)},
            "ticks_sent": self.ticks_sent,
            "frames_dropped": self.frames_dropped,
            "queued": len(self.frames),
        }


class TickerHub:
    """All sockets of the user, and the clock that moves subscribed markets."""

    def __init__(
        self, config: SandboxConfig, board: Board, exchange: Exchange, sessions: Sessions, faults: SocketFaults
    ) -> None:
        self._config = config
        self._board = board
        self._exchange = exchange
        self._sessions = sessions
        self._faults = faults
        self.connections: dict[int, Connection] = {}
        self.interval = config.tick_interval
        self.ticks_sent = 0
        self._count = 0

    # Sockets --------------------------------------------------------------------------------------------------

    async def serve(self, websocket: WebSocket) -> None:
        """One client from handshake to goodbye. A bad token gets HTTP 403, as at Kite."""
        query = websocket.query_params
        token = query.get("access_token", "")
        full = self._config.strict_limits and len(self.connections) >= MAX_SOCKETS
        if full or not self._sessions.check(query.get("api_key", ""), token) or self._faults.refuses():
            await websocket.close(1008)
            return
        await websocket.accept()
        self._count += 1
        connection = Connection(self._count, websocket, token)
        self.connections[connection.number] = connection
        sender = asyncio.create_task(self._send_loop(connection))
        reader = asyncio.create_task(self._read_loop(connection))
        try:
            await asyncio.wait({sender, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self.connections[connection.number]
            for task in (sender, reader):
                task.cancel()
            for outcome in await asyncio.gather(sender, reader, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect | RuntimeError):
                    log.error("socket %d ended with %r", connection.number, outcome)

    def end_session(self, access_token: str) -> None:
        """Close the sockets of a token that died."""
        for connection in self.connections.values():
            if connection.access_token == access_token:
                connection.close()

    async def _send_loop(self, connection: Connection) -> None:
        websocket = connection.websocket
        while True:
            while connection.frames:
                frame = connection.frames.popleft()
                connection.last_sent = time.monotonic()
                if isinstance(frame, str):
                    await websocket.send_text(frame)
                else:
                    await websocket.send_bytes(frame)
            if connection.closing:
                await websocket.close(1000)
                return
            connection.wake.clear()
            await connection.wake.wait()

    async def _read_loop(self, connection: Connection) -> None:
        while True:
            message = await connection.websocket.receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            if text is None:
                text = (message.get("bytes") or b"").decode("utf-8", "replace")
            self._handle(connection, text)

    def _handle(self, connection: Connection, text: str) -> None:
        """`subscribe`, `unsubscribe` or `mode`, as kite.trade/docs/connect/v3/websocket writes them."""
        try:
            request = json.loads(text)
            action, value = request["a"], request["v"]
            if action == "mode":
                mode, tokens = value[0], [int(token) for token in value[1]]
            else:
                mode, tokens = packets.QUOTE, [int(token) for token in value]
        except (ValueError, TypeError, KeyError, IndexError):
            _error(connection, "Couldn't parse the message")
            return
        if action == "unsubscribe":
            for token in tokens:
                connection.modes.pop(token, None)
            return
        if action not in {"subscribe", "mode"} or mode not in packets.MODES:
            _error(connection, f"Invalid request `{action}`")
            return
        known = [token for token in tokens if self._board.get(token) is not None]
        over = 0
        for token in known:
            if token not in connection.modes and len(connection.modes) >= MAX_TOKENS:
                over += 1
            elif action == "mode" or token not in connection.modes:
                connection.modes[token] = mode
        if over:
            _error(connection, f"Maximum {MAX_TOKENS} instruments a connection: {over} were not subscribed.")
        self._send_ticks(connection, [token for token in known if token in connection.modes], {})

    # Ticks ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move the markets that somebody watches or has orders in, a slot at a time, and send what moved."""
        slot = 0
        due = time.monotonic()
        while True:
            due = max(due + self.interval / _SLOTS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            slot = (slot + 1) % _SLOTS
            if self.connections:
                self._faults.slot()
            if not self._exchange.paused and not self._config.still:
                self._step(slot)
            self._heartbeats()

    def push(self, market: Market) -> None:
        """A price was set from outside: tick at once, then let the orders see it."""
        self._broadcast([market.token])
        self._exchange.on_market(market)

    def order_frame(self, order: Order, status: str) -> str:
        """The text frame of an update as things stand now; its checksum is blank, as on Kite's."""
        payload = order.postback(self._config.app_id, status, None)
        return json.dumps({"type": "order", "data": payload}, separators=(",", ":"))

    def send_text(self, text: str) -> None:
        """To every socket of the user, unless they are mute."""
        for connection in self.connections.values() if not self._faults.muted else ():
            connection.send(text)

    def _step(self, slot: int) -> None:
        at = now()
        watched = set(self._exchange.working_tokens())
        for connection in self.connections.values():
            watched.update(connection.modes)
        markets = [self._board.get(token) for token in watched if (token >> 8) % _SLOTS == slot]
        moved = [market for market in markets if market is not None]  # an expired contract moves no more
        for market in moved:
            self._board.step(market, at)
        self._broadcast([market.token for market in moved])
        for market in moved:
            self._exchange.on_market(market)

    def _broadcast(self, tokens: list[int]) -> None:
        cache: dict[tuple[int, str], bytes] = {}
        for connection in self.connections.values():
            self._send_ticks(connection, [token for token in tokens if token in connection.modes], cache)

    def _send_ticks(self, connection: Connection, tokens: list[int], cache: dict[tuple[int, str], bytes]) -> None:
        if not tokens or self._faults.muted:
            return
        if self._faults.resets(connection.number):
            reset(connection.websocket.scope)
            return
        bodies = []
        for token in tokens:
            key = (token, connection.modes[token])
            body = cache.get(key)
            if body is None:
                body = cache[key] = packets.encode(self._board.market(token), key[1])
            bodies.append(body)
        connection.ticks_sent += len(bodies)
        self.ticks_sent += len(bodies)
        connection.send(self._faults.frame(bodies))

    def _heartbeats(self) -> None:
        if self._faults.muted:
            return
        quiet_since = time.monotonic() - self._config.heartbeat_interval
        for connection in self.connections.values():
            if connection.last_sent < quiet_since and not connection.frames:
                connection.send(packets.HEARTBEAT)


def _error(connection: Connection, text: str) -> None:
    connection.send(json.dumps({"type": "error", "data": text}))
