"""HTTP postbacks: the order update with its checksum, sent once to the app's address. Fire and forget, as Kite's are."""

from __future__ import annotations

import asyncio
import logging

import httpx

from sandbox.config import SandboxConfig
from sandbox.orders import Order
from sandbox.wire import dumps

log = logging.getLogger("sandbox.postback")
_TIMEOUT = 5.0
_QUEUE = 10_000


class Postbacks:
    """A queue and one sender. A failed delivery is logged and not repeated; a full queue drops the newest."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUE)
        self.sent = self.failed = 0

    @property
    def wanted(self) -> bool:
        return self._config.postback_url is not None

    def body(self, order: Order, status: str) -> bytes:
        """The postback as things stand now, with its checksum."""
        return dumps(order.postback(self._config.app_id, status, self._config.api_secret.get_secret_value()))

    def send(self, body: bytes) -> None:
        try:
            self._queue.put_nowait(body)
        except asyncio.QueueFull:
            self.failed += 1
            log.warning("a postback was dropped: the receiver is too slow")

    async def run(self) -> None:
        url = self._config.postback_url
        if url is None:
            return
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False) as client:
            while True:
                body = await self._queue.get()
                try:
                    answer = await client.post(url, content=body, headers={"Content-Type": "application/json"})
                    answer.raise_for_status()
                    self.sent += 1
                except httpx.HTTPError as error:
                    self.failed += 1
                    log.warning("postback to %s failed: %s", url, error)
