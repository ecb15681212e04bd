"""Stands in for people and programs at the control room: open dashboards (NiceGUI's socket.io, no browser) and readers of the events.

A process of its own, at the lowest priority: real ones sit at other machines. Says what they were told when its input ends.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import re
import sys
from collections import Counter
from urllib.parse import urlencode
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PAGES = ("/room/", "/room/orders", "/room/positions", "/room/signals")
ACK_S = 3.0
"""As nicegui.js does."""

_QUERY = re.compile(r"query: (\{[^}]*\})")


class Dashboard:
    """One open page: fetched as a browser does, then followed on its WebSocket."""

    def __init__(self, base: str, cookies: httpx.Cookies, path: str, told: Counter[str]) -> None:
        self._base, self._cookies, self._path, self._told = base, cookies, path, told

    async def run(self, opened: asyncio.Event) -> None:
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        async with httpx.AsyncClient(timeout=60) as client:
            page = await client.get(self._base + self._path, headers={"Cookie": cookie})
        page.raise_for_status()
        found = _QUERY.search(page.text)
        assert found is not None, f"{self._path} is no page of the dashboard: {page.text[:200]}"
        query = ast.literal_eval(found[1]) | {"document_id": str(uuid4()), "tab_id": str(uuid4()), "old_tab_id": ""}
        words = {name: str(value).lower() if isinstance(value, bool) else value for name, value in query.items()}
        url = self._base.replace("http", "ws", 1) + "/room/_nicegui_ws/socket.io/?"
        url += urlencode({"EIO": 4, "transport": "websocket"} | words)
        async with connect(url, additional_headers={"Cookie": cookie}, origin=self._base, max_size=None) as socket:  # type: ignore[arg-type]
            await self._follow(socket, query["client_id"], opened)

    async def _follow(self, socket: ClientConnection, client_id: str, opened: asyncio.Event) -> None:
        """Engine.io 4: 0 open, 2 ping, 3 pong, 4 message; socket.io 5 in it: 0 connect, 2 event."""
        acked, last, loop = 0.0, 0, asyncio.get_running_loop()
        async for frame in socket:
            text = frame if isinstance(frame, str) else frame.decode(errors="replace")
            if text.startswith("0"):
                await socket.send("40")
            elif text.startswith("40"):
                opened.set()
            elif text == "2":
                await socket.send("3")
            elif text.startswith("42"):
                name, data = json.loads(text[2:])[:2]
                self._told[f"dashboard {name}"] += 1
                last = max(last, data.get("_id", 0) + 1) if isinstance(data, dict) else last
                if loop.time() - acked > ACK_S:
                    acked = loop.time()
                    await socket.send("42" + json.dumps(["ack", {"client_id": client_id, "next_message_id": last}]))


async def reader(host: str, port: int, key: str, told: Counter[str], opened: asyncio.Event) -> None:
    """One program on /api/v1/events."""
    receive, send = await asyncio.open_connection(host, port, limit=2**22)
    ask = f"GET /api/v1/events HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n\r\n"
    send.write(ask.encode())
    status = await receive.readline()
    assert b" 200 " in status, status
    opened.set()
    while line := await receive.readline():
        if line.startswith(b"event: "):
            told["reader resync" if b"resync" in line else "reader event"] += 1
    send.close()


async def log_in(base: str, name: str, password: str) -> httpx.Cookies:
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        body = {"name": name, "password": password, "cookies": True}
        answer = await client.post("/api/v1/auth/login", json=body)
        answer.raise_for_status()
        return client.cookies


async def main(base: str, dashboards: int, readers: int, name: str, password: str, key: str) -> None:
    told: Counter[str] = Counter()
    cookies = await log_in(base, name, password)
    url = httpx.URL(base)
    doors = [asyncio.Event() for _ in range(dashboards + readers)]
    pages = [Dashboard(base, cookies, PAGES[n % len(PAGES)], told).run(doors[n]) for n in range(dashboards)]
    streams = [reader(url.host, url.port or 80, key, told, door) for door in doors[dashboards:]]
    tasks = [asyncio.create_task(each) for each in (*pages, *streams)]
    waiting = asyncio.gather(*(door.wait() for door in doors))
    await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in tasks if task.done()]
    if failed:
        waiting.cancel()
        failed[0].result()
        raise RuntimeError("a connection ended before all were open")
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    lost = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, ConnectionClosed, OSError):
            await task
    print(json.dumps(dict(told) | {"connections lost": len(lost)}), flush=True)


if __name__ == "__main__":
    os.nice(19)
    base_url, pages_wanted, readers_wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    who, password_, key_ = (os.environ[name] for name in ("ROOM_NAME", "ROOM_PASSWORD", "ROOM_KEY"))
    asyncio.run(main(base_url, pages_wanted, readers_wanted, who, password_, key_))
