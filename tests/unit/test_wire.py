"""A request's head ends, in size and in time, or the connection does; everything else goes through as uvicorn has it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from api import wire
from api.server import _Server
from api.wire import BoundedHead


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    body += message.get("body", b"")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-read", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listens = asyncio.Event()
    server = _Server(uvicorn.Config(echo, http=BoundedHead, log_config=None, lifespan="off"), listens.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(30):
        await listens.wait()
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving
    listener.close()


async def said_to(port: int, *parts: bytes) -> bytes:
    """All that is answered until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(30):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_requests_go_through_also_many_on_one_connection_and_with_large_bodies(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for size in (0, 10, 1_000_000, 5):
            answer = await client.post("/", content=b"x" * size, headers={"X-Long": "y" * 8_000})
            assert (answer.status_code, answer.headers["x-read"]) == (200, str(size))
    twice = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert (await said_to(port, twice)).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("part", [b"X: " + b"a" * 1_000 + b"\r\n", b"a" * 1_000])
async def test_a_head_without_end_is_cut_off(port: int, part: bytes) -> None:
    answer = await said_to(port, b"GET / HTTP/1.1\r\nHost: x\r\nY: ", *[part] * 4_000)
    assert answer[:12] in {b"", b"HTTP/1.1 431"}


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nX-Sl"])
async def test_a_head_that_does_not_come_ends_the_connection(
    port: int, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "HEAD_S", 0.2)
    assert (await said_to(port, begun))[:12] == b"HTTP/1.1 408"


async def test_a_later_head_that_does_not_come_ends_the_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HEAD_S", 0.2)
    answer = await said_to(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")
    assert (answer.count(b"HTTP/1.1 200"), answer.count(b"HTTP/1.1 408")) == (1, 1)
