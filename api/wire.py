"""The HTTP connection itself: a request's head is bounded in size and in time, before anything of ours sees it.

uvicorn bounds neither, so that anybody who can connect could fill the memory or hold connections for ever. Bodies are
api/front.py's business.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 1024
"""Checked whenever more has come and the head has not ended: one that comes at once may be as large as one read, 256 KiB."""
HEAD_S = 15.0
"""From the connection, or from a later request's first byte, to the end of its head."""


class BoundedHead(HttpToolsProtocol):
    """Refuses a head that does not end: 431 where it is too large, 408 where it is too slow. Nothing else changes."""

    _timer: asyncio.TimerHandle | None = None
    _read = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._expect()

    def on_headers_complete(self) -> None:
        self._settle()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        expected = self._timer is not None
        super().data_received(data)
        if expected and self._timer is not None:
            self._read += len(data)
            if self._read > MOST_HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")

    def _expect(self) -> None:
        self._read = 0
        self._timer = self.loop.call_later(HEAD_S, self._refuse, b"408 Request Timeout")

    def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: bytes) -> None:
        self._settle()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()
