"""Faults of answers: what goes wrong between a request and its answer, done to the real TCP connection.

It never decides what an order becomes: a request is carried out by the sandbox as always, or not at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sandbox.errors import KiteError
from sandbox.exchange import Exchange
from sandbox.fault_engine import Choice, Facts, FaultEngine
from sandbox.fault_kinds import STATUS_OF, Family, FaultKind
from sandbox.sessions import Sessions
from sandbox.wire import dumps

GoOn = Callable[[Receive, Send], Awaitable[None]]
_BETWEEN_HALVES = 0.05
"""Seconds between the first half of a body and the reset, so that the half arrives before it."""

_HTML = (
    b"<html>\r\n<head><title>%d</title></head>\r\n<body>\r\n<center><h1>%d</h1></center>\r\n<hr></body>\r\n</html>\r\n"
)
_BODILESS = {
    # kind: (status, error_type, message)
    FaultKind.HTTP_429: (429, "NetworkException", "Too many requests"),
    FaultKind.HTTP_502: (502, "DataException", "Bad gateway"),
    FaultKind.HTTP_503: (503, "NetworkException", "Service unavailable"),
    FaultKind.HTTP_504: (504, "NetworkException", "Gateway timed out"),
    FaultKind.TIMED_OUT_400: (400, "OrderException", "Order request timed out"),
}


class AnswerFaults:
    """The hook at the gate: `app.RequestHook`."""

    def __init__(self, engine: FaultEngine, exchange: Exchange, sessions: Sessions) -> None:
        self._engine = engine
        self._exchange = exchange
        self._sessions = sessions

    async def around(self, route: str, scope: Scope, receive: Receive, send: Send, go_on: GoOn) -> None:
        if scope["type"] != "http" or not self._engine.any(Family.ANSWER):
            await go_on(receive, send)
            return
        body = await _read(receive)
        choice = self._engine.choose(Family.ANSWER, self._facts(route, scope, body))
        replay = _Replay(body, receive)
        if choice is None:
            await go_on(replay, send)
        else:
            await _Injection(self._engine, self._sessions, choice, scope, replay, send, go_on).run()

    def _facts(self, route: str, scope: Scope, body: bytes) -> Facts:
        if route == "order.place":
            fields = dict(parse_qsl(body.decode("utf-8", "replace")))
            symbol = f"{fields.get('exchange')}:{fields.get('tradingsymbol')}"
            return Facts(route, fields.get("tag"), symbol)
        if not route.startswith("order."):
            return Facts(route)
        parts = [part for part in scope["path"].removeprefix("/oms").split("/") if part]
        order_id = parts[2] if route in {"order.modify", "order.cancel"} else parts[1]
        order = self._exchange.orders.get(order_id)
        if order is None:
            return Facts(route, order_id=order_id)
        known = Facts.of(order)
        return Facts(route, known.tag, known.symbol, order_id)


class _Injection:
    """One fault of one request."""

    def __init__(
        self, engine: FaultEngine, sessions: Sessions, choice: Choice, scope: Scope, receive: _Replay, send: Send, go_on: GoOn
    ) -> None:  # fmt: skip
        self._engine = engine
        self._sessions = sessions
        self._choice = choice
        self._scope = scope
        self._receive = receive
        self._send = send
        self._go_on = go_on

    async def run(self) -> None:
        choice = self._choice
        match choice.kind:
            case FaultKind.ANSWER_LOST:
                await self._carry_out()
                await self._vanish()
            case FaultKind.REQUEST_LOST:
                self._record(None)
                await self._vanish()
            case FaultKind.SLOW_ANSWER:
                answer = await self._carry_out()
                await asyncio.sleep(choice.delay())
                await answer.send(self._send)
            case FaultKind.SLOW_ACCEPT:
                await asyncio.sleep(choice.delay())
                answer = await self._carry_out()
                await answer.send(self._send)
            case FaultKind.RESET_BEFORE_READ:
                self._record(None)
                await self._reset()
            case FaultKind.RESET_AFTER_ACCEPT:
                await self._carry_out()
                await self._reset()
            case FaultKind.RESET_MID_BODY | FaultKind.TRUNCATED_BODY:
                await self._half()
            case FaultKind.SESSION_KILLED:
                self._sessions.end()
                self._record(None)
                await self._go_on(self._receive, self._send)
            case FaultKind.SANDBOX_KILLED:
                await self._kill()
            case _:
                await self._answer_instead()

    async def _carry_out(self) -> _Answer:
        """Let the sandbox do it, keep the answer, count the fault."""
        answer = _Answer()
        await self._go_on(self._receive, answer.take)
        self._record(answer)
        return answer

    def _record(self, answer: _Answer | None) -> None:
        carried = "not carried out" if answer is None else f"carried out, answered {answer.status}"
        self._engine.record(self._choice, carried, answer.order_id() if answer else None)

    async def _answer_instead(self) -> None:
        if self._choice.rule.value("accepted"):
            await self._carry_out()
        else:
            self._record(None)
        await self._bad_answer()(self._scope, self._receive, self._send)

    def _bad_answer(self) -> Response:
        choice, message, status = self._choice, self._choice.value("message"), self._choice.value("status")
        if choice.kind in _BODILESS:
            status, error_type, words = _BODILESS[choice.kind]
            return KiteError(status, error_type, message or words).response()
        match choice.kind:
            case FaultKind.HTML_BODY:
                return Response(_HTML % (status, status), status, media_type="text/html")
            case FaultKind.EMPTY_BODY:
                return Response(b"", status, media_type="application/json")
            case FaultKind.ERROR_WITHOUT_TYPE:
                body = {"status": "error", "message": message or "Something went wrong", "data": None}
                return Response(dumps(body), status, media_type="application/json")
            case FaultKind.ERROR:
                error_type = str(choice.value("error_type"))
                words = message or f"Injected {error_type}"
                return KiteError(status or STATUS_OF[error_type], error_type, words).response()
            case _:
                raise AssertionError(f"no answer is known for {choice.kind}")

    async def _half(self) -> None:
        answer = await self._carry_out()
        body = answer.body[: len(answer.body) // 2]
        if self._choice.kind is FaultKind.TRUNCATED_BODY:
            await _Answer(answer.status, answer.headers, body).send(self._send)
            return
        await self._send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(_BETWEEN_HALVES)
        await self._reset()

    async def _kill(self) -> None:
        if self._choice.rule.value("accepted"):
            await self._carry_out()
        else:
            self._record(None)
        os.kill(os.getpid(), signal.SIGKILL)

    async def _vanish(self) -> None:
        """No byte until the client gives up or the delay is over; then the connection closes without an answer."""
        try:
            await asyncio.wait_for(self._receive.gone(), self._choice.delay())
        except TimeoutError:
            await self._reset()
        except asyncio.CancelledError:  # the sandbox stops: this request ends here, without a 500
            reset(self._scope)

    async def _reset(self) -> None:
        reset(self._scope)
        await self._receive.gone()  # or the server would write its own 500 into the closing connection


class _Answer:
    """An answer held back: what the sandbox wanted to say."""

    def __init__(self, status: int = 0, headers: list[tuple[bytes, bytes]] | None = None, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers or []
        self.body = body

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")

    async def send(self, send: Send) -> None:
        length = (b"content-length", str(len(self.body)).encode())
        headers = [*(header for header in self.headers if header[0].lower() != b"content-length"), length]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    def order_id(self) -> str | None:
        """The order's id, where the answer gives one."""
        try:
            value: Any = json.loads(self.body)["data"]["order_id"]
        except (ValueError, TypeError, KeyError):
            return None
        return str(value)


class _Replay:
    """A `receive` that gives a body already read, then what the connection says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()

    async def gone(self) -> None:
        """Return when the client closed the connection, or it was reset."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _read(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return body


def reset(scope: Scope) -> None:
    """Close the connection so that the peer gets a TCP reset. The server puts its transport into the scope's state."""
    transport: asyncio.Transport = scope["state"]["transport"]
    raw = transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
