"""`alpha-panda login`: gets the day's Zerodha session, by a one-shot callback on loopback or the pasted redirect address.

Never asks for a password and never prints a token. On the local sandbox it logs itself in and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import typer
from rich.console import Console

from core.errors import AlphaPandaError, StopTheStart

if TYPE_CHECKING:
    from core.brokers.zerodha_session import Session
    from core.config import Settings

WAIT_S = 300.0
_MAX_REQUEST = 16 * 1024
_STATE = "alpha_panda_state"

_DONE = "<h1>Logged in</h1><p>You can close this page; Alpha Panda goes on in the terminal.</p>"
_NOT_OURS = (
    "<h1>Not this login</h1><p>This address does not belong to the login that is waiting. Open the printed one.</p>"
)


def register(app: typer.Typer) -> None:
    @app.command()
    def login(
        paste: str = typer.Option("", "--paste", help="The address the browser ended on after logging in."),
        browser: bool = typer.Option(True, help="Open the login page in a browser, where there is one."),
        as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
    ) -> None:
        """Get today's Zerodha session (it ends at 06:00 IST). On the local sandbox it needs nobody."""
        from core.config import settings

        console = Console(stderr=as_json)
        _logs_to_stderr()
        try:
            session = asyncio.run(_login(settings(), paste, browser, console))
        except StopTheStart:
            raise
        except AlphaPandaError as error:
            raise StopTheStart(str(error)) from error
        _report(settings(), session, console, as_json)


def _logs_to_stderr() -> None:
    """Standard output is the answer: log lines, from warnings up, go beside it."""
    import logging

    import structlog

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _report(settings: Settings, session: Session, console: Console, as_json: bool) -> None:
    from core.clock import to_ist

    until = f"{to_ist(session.expires_at):%Y-%m-%d %H:%M} IST"
    if as_json:
        body = {
            "target": settings.kite_target.value,
            "user_id": session.user_id,
            "login_time": session.login_time.isoformat(),
            "expires_at": session.expires_at.isoformat(),
            "session_file": str(settings.session_file),
            "simulated": settings.simulated,
        }
        print(json.dumps(body, indent=2))
        return
    kind = "the local sandbox (SIMULATED prices, no real money)" if settings.simulated else settings.kite_target.value
    console.print(f"Logged in at {kind} as [bold]{session.user_id}[/], until {until}.")


async def _login(settings: Settings, paste: str, browser: bool, console: Console) -> Session:
    from core.brokers.kite_login import ensure_local_session, login_with

    if paste:
        return await login_with(settings, paste)
    if settings.simulated:
        console.print("KITE_TARGET=local: logging in at the sandbox's own login page, nobody is needed.")
        return await ensure_local_session(settings)
    return await _ask_a_person(settings, browser, console)


async def _ask_a_person(settings: Settings, browser: bool, console: Console) -> Session:
    """Print the address, then take whichever comes first: the browser at our callback, or a pasted line."""
    from core.brokers.kite_http import login_url
    from core.brokers.kite_login import login_with

    state = secrets.token_urlsafe(16)
    address = f"{login_url(settings)}&redirect_params={quote(f'{_STATE}={state}')}"
    callback = Callback(settings.kite_login_port, state)
    try:
        await callback.start()
        console.print(
            f"Register http://127.0.0.1:{settings.kite_login_port}/callback as the redirect URL of your Kite app once."
        )
    except OSError as error:
        console.print(f"No callback on port {settings.kite_login_port} ({error.strerror}): paste the address instead.")
    console.print("Log in here:")
    console.print(address, soft_wrap=True, highlight=False)
    if browser and _has_browser():
        webbrowser.open(address)
    console.print("Waiting for the browser. Or paste here the address it ended on, and press Enter:")
    try:
        redirect = await _first(callback, WAIT_S)
        return await login_with(settings, redirect)
    finally:
        await callback.stop()


async def _first(callback: Callback, seconds: float) -> str:
    loop = asyncio.get_running_loop()
    pasted: asyncio.Future[str] = loop.create_future()
    _read_line(lambda line: loop.call_soon_threadsafe(_give, pasted, line))
    done, _ = await asyncio.wait({pasted, callback.redirect}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if not done:
        raise StopTheStart(f"Nobody logged in within {seconds:.0f} s: run `alpha-panda login` again.")
    return done.pop().result()


def _give(future: asyncio.Future[str], line: str) -> None:
    if line.strip() and not future.done():
        future.set_result(line.strip())


def _read_line(heard: Callable[[str], object]) -> None:
    """Hear the first line of the terminal in a daemon thread: it must not keep the process alive."""

    def listen() -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # a closed terminal, or the login is over
            for line in sys.stdin:
                if line.strip():
                    heard(line)
                    return

    threading.Thread(target=listen, name="paste", daemon=True).start()


def _has_browser() -> bool:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


class Callback:
    """A one-shot HTTP answer on loopback: takes the first redirect that carries our state, and refuses every other."""

    def __init__(self, port: int, state: str) -> None:
        self.redirect: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._port = port
        self._state = state
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=_MAX_REQUEST)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, body = self._answer(head)
                writer.write(_response(status, body))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a half request on our own loopback port: nothing was asked
        finally:
            writer.close()

    def _answer(self, head: str) -> tuple[str, str]:
        lines = head.split("\r\n")
        method, _, rest = lines[0].partition(" ")
        target = rest.split(" ")[0]
        hosts = [line.split(":", 1)[1].strip() for line in lines[1:] if line.lower().startswith("host:")]
        allowed = {f"127.0.0.1:{self._port}", f"localhost:{self._port}"}
        if method != "GET" or len(hosts) != 1 or hosts[0] not in allowed:
            return "400 Bad Request", _NOT_OURS
        parts = urlsplit(target)
        if parts.path not in {"/", "/callback"}:
            return "404 Not Found", "<h1>Nothing here</h1>"
        given = parse_qs(parts.query).get(_STATE, [""])[0]
        if not secrets.compare_digest(given.encode(), self._state.encode()):
            return "400 Bad Request", _NOT_OURS
        if not self.redirect.done():
            self.redirect.set_result(target)
        return "200 OK", _DONE


def _response(status: str, body: str) -> bytes:
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Alpha Panda</title>{body}</html>'.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}\r\n"
        "Referrer-Policy: no-referrer\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + page
