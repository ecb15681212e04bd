"""A little HTTP server as an alert channel: keeps what was posted, answers as told, never leaves the loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Webhook:
    """`status`: what it answers from now on; `silent`: it takes the request and never answers."""

    port: int = 0
    status: int = 200
    silent: bool = False
    path: str = "/hook/s3cr3tpath"
    posted: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}{self.path}"

    @property
    def messages(self) -> list[str]:
        """Of those it took: title and body."""
        return [f"{each['title']}\n{each['message']}" for each in self.posted]

    def holding(self, words: str) -> list[str]:
        return [message for message in self.messages if words in message]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head.splitlines()[0])
        length = next(
            (int(row.split(":")[1]) for row in head.splitlines() if row.lower().startswith("content-length")), 0
        )
        body = await reader.readexactly(length)
        if self.silent:
            await reader.read()  # until the caller gives up
        elif self.status == 200 and body:
            self.posted.append(json.loads(body))
        where = b"Location: http://127.0.0.1:1/elsewhere\r\n" if self.status in {301, 302, 307} else b""
        writer.write(b"HTTP/1.1 %d said\r\nContent-Length: 0\r\nConnection: close\r\n%s\r\n" % (self.status, where))
        writer.close()


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Webhook]:
    hook = Webhook(**options)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await hook.serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    hook.port = server.sockets[0].getsockname()[1]
    try:
        yield hook
    finally:
        server.close()
