"""The SDK's way to the socket: keep-alive connections that check, just before the first byte, whether it may still leave.

Never retries, never lets a request leave after its deadline or after its caller gave up, and reads no answer after that either:
a timeout of the socket's own starts anew with each byte that drips in.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from core.brokers.zerodha_classify import NeverWritten
from core.clock import slept_s

CONNECT_S = 3.0

IDLE_S = 4.0
"""A connection idle for longer is not used again: a server closing it that very moment would leave us not knowing."""

SLEPT_S = 1.0
"""A host that slept for longer between a call's beginning and its first byte: nothing is sent."""

_present = threading.local()

_carrying = threading.Lock()
"""Whose request a connection carries: a call that gives up must not cut the one after it."""


class Call:
    """One request on its way. Whether its first byte left is decided once, under a lock, by the thread or its caller."""

    def __init__(self, what: str, write_by: float, answer_by: float, leaves: Callable[[], None] | None = None) -> None:
        self.what = what
        self.answer_by = answer_by
        self._write_by = write_by
        self._leaves = leaves
        self._slept_s = slept_s()
        self._lock = threading.Lock()
        self._written = False
        self._given_up = False
        self._connection: _Checked | None = None

    @property
    def written(self) -> bool:
        return self._written

    def may_write(self) -> None:
        """Called by the thread just before the socket write.

        Raises:
            NeverWritten: too late, or nobody waits any more. Nothing may be sent.
        """
        with self._lock:
            if self._written:
                return
            if self._given_up:
                raise NeverWritten(f"{self.what}: its caller gave up before it was sent")
            if time.monotonic() >= self._write_by:
                raise NeverWritten(f"{self.what}: past its deadline")
            if slept_s() - self._slept_s > SLEPT_S:
                raise NeverWritten(
                    f"{self.what}: the host slept before it was sent, its deadline says nothing any more"
                )
            self._written = True
        if self._leaves is not None:
            self._leaves()

    def carried_by(self, connection: _Checked | None) -> None:
        """Called by the thread: the connection that carries this call's request from now on; None: it is over."""
        with _carrying:
            self._connection = connection
            if connection is not None:
                connection.carries = self

    def give_up(self) -> bool:
        """Called by the waiting side: no byte leaves from now on, and what still comes in is cut off, so that the thread is free.

        Returns whether a byte had left before.
        """
        with self._lock:
            self._given_up = True
        with _carrying:
            if self._connection is not None and self._connection.carries is self:
                self._connection.cut()
        return self._written


@contextmanager
def present(call: Call) -> Iterator[None]:
    """Everything this thread sends meanwhile belongs to `call`."""
    _present.call = call
    try:
        yield
    finally:
        _present.call = None
        call.carried_by(None)


def _current() -> Call | None:
    return getattr(_present, "call", None)


class _Checked:
    """What both connections do more: reconnect rather than trust an idle socket, and ask before the first byte."""

    _used_at = 0.0
    carries: Call | None = None

    def cut(self) -> None:
        """Ends the connection beneath whoever reads from it in another thread."""
        if self.sock is not None:  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # type: ignore[attr-defined]  # TLS is past talking to

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None and time.monotonic() - self._used_at > IDLE_S:  # type: ignore[attr-defined]
            self.close()  # type: ignore[attr-defined]
        super().request(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        if self.sock is None and self.auto_open:  # type: ignore[attr-defined]
            self.connect()  # type: ignore[attr-defined]
        call = _current()
        if call is not None:
            call.carried_by(self)
            call.may_write()
        super().send(data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        answer = super().getresponse()  # type: ignore[misc]
        self._used_at = time.monotonic()
        return answer


class _Connection(_Checked, HTTPConnection):
    pass


class _SecureConnection(_Checked, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class CheckedAdapter(HTTPAdapter):
    """Keep-alive pooling for http and https alike, with the present call's time left as the timeout."""

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        call = _current()
        if call is not None:
            left = call.answer_by - time.monotonic()
            if left <= 0:
                raise NeverWritten(f"{call.what}: past its deadline")
            kwargs["timeout"] = (min(CONNECT_S, left), left)
        return super().send(request, **kwargs)
