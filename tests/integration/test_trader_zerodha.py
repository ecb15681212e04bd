"""ZerodhaTrader where the network or the broker misbehaves, against a socket that does as told, and across logins."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from core.brokers import kite_http, zerodha
from core.brokers.zerodha import ZerodhaTrader
from core.brokers.zerodha_session import Session, SessionWatcher, load_session, remove_session, write_session
from core.clock import utc_now
from core.config import Settings
from core.errors import NotPlaced, OutcomeUnknown, SessionExpired, Transient
from tests.integration.messaging import until
from tests.integration.sandbox_support import API_KEY, USER_ID, SandboxProcess, free_port
from tests.integration.trader_worlds import ZerodhaWorld, limit, make_request, zerodha_settings

JSON = "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"


def answer(body: str, status: int = 200) -> bytes:
    return JSON.format(status=status, length=len(body), body=body).encode()


def html(status: int) -> bytes:
    body = "<html>Bad Gateway</html>"
    return f"HTTP/1.1 {status} X\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def success(data: object) -> bytes:
    return answer(json.dumps({"status": "success", "data": data}))


PLACED = success({"order_id": "151220000000000"})
PROFILE = success({"user_id": USER_ID})

HANG = b"hang"
RESET = b"reset"
DRIP = b"drip"


class Broker:
    """A server that answers each request with the next of its scripted answers, and remembers what it was asked."""

    def __init__(self) -> None:
        self.script: list[bytes] = []
        self.requests: list[str] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(v) for k, v in _headers(head) if k == "content-length"), 0)
                self.requests.append(head + (await reader.readexactly(length)).decode())
                reply = self.script.pop(0)
                if reply == DRIP:
                    writer.write(b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
                    while not writer.is_closing():
                        writer.write(b" ")
                        await writer.drain()
                        await asyncio.sleep(0.05)
                if reply == HANG:
                    await reader.read()
                if reply in {HANG, RESET}:
                    writer.transport.abort()
                    return
                writer.write(reply)
                await writer.drain()
        writer.close()


def _headers(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


@asynccontextmanager
async def broker() -> AsyncIterator[Broker]:
    scripted = Broker()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.port = server.sockets[0].getsockname()[1]
    async with server:
        yield scripted


def a_session(token: str = "token-1", *, hours: float = 6) -> Session:  # noqa: S107
    now = utc_now()
    return Session(USER_ID, API_KEY, token, now, now + timedelta(hours=hours))


class World:
    instrument_token = 408065

    def __init__(self, settings: Settings) -> None:
        self.trader = ZerodhaTrader(settings)


@pytest.fixture
def at(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Settings]:
    """Settings with Zerodha at a port, in a home of the test's own."""
    env_file = settings.home / ".env"
    monkeypatch.setenv("ALPHA_PANDA_HOME", str(tmp_path))
    return lambda port: zerodha_settings(env_file, port)


@pytest.fixture
async def scripted(at: Callable[[int], Settings]) -> AsyncIterator[tuple[Broker, World]]:
    async with broker() as server:
        own = at(server.port)
        write_session(own, a_session())
        world = World(own)
        yield server, world
        await world.trader.close()


@pytest.mark.parametrize(
    "reply",
    [
        RESET,
        html(502),
        html(200),
        answer("{}", 200),
        answer('{"status":"error","message":"no type"}', 400),
        answer('{"status":"error","error_type":"OrderException"}', 400),
        answer('{"status":"error","message":"oops","error_type":"GeneralException"}', 500),
        answer('{"status":"error","message":"Order request timed out","error_type":"OrderException"}', 400),
        answer("{not json"),
        answer('{"status":"success","data":{}}'),
        answer('{"status":"success","data":{"order_id":null}}'),
        answer('{"status":"success","data":[]}'),
        b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["reset", "html 502", "html 200", "empty", "no type", "no message", "500", "400 timed out", "bad json",
         "no order id", "null order id", "a list", "no content type"],
)  # fmt: skip
async def test_every_odd_answer_to_a_sent_order_is_unknown(scripted: tuple[Broker, World], reply: bytes) -> None:
    server, world = scripted
    server.script = [reply]
    with pytest.raises(OutcomeUnknown):
        await world.trader.place(make_request(world))
    assert len(server.requests) == 1


async def test_no_answer_in_time_is_unknown(scripted: tuple[Broker, World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zerodha, "TOTAL_S", 0.4)
    server, world = scripted
    server.script = [HANG]
    async with asyncio.timeout(6):  # below the 7 s it would take without the total set here
        with pytest.raises(OutcomeUnknown):
            await world.trader.place(make_request(world))
    assert len(server.requests) == 1


async def test_an_answer_that_drips_in_for_ever_is_cut_off_and_holds_no_thread(
    scripted: tuple[Broker, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte starts a socket's own timeout anew."""
    monkeypatch.setattr(zerodha, "TOTAL_S", 0.6)
    server, world = scripted
    server.script = [DRIP] * zerodha.THREADS
    dripping = [world.trader.place(make_request(world)) for _ in range(zerodha.THREADS)]
    verdicts = await asyncio.gather(*dripping, return_exceptions=True)
    assert all(isinstance(verdict, OutcomeUnknown) for verdict in verdicts), verdicts
    server.script = [PLACED]
    assert await world.trader.place(make_request(world)) == "151220000000000"


async def test_a_call_that_gives_up_cuts_only_its_own_connection(scripted: tuple[Broker, World]) -> None:
    server, world = scripted
    server.script = [PLACED, PLACED]
    for _ in range(2):  # the first call gave up its connection when it had its answer
        assert await world.trader.place(make_request(world)) == "151220000000000"
    assert server.connections == 1


async def test_a_read_whose_answer_drips_in_ends_in_time_and_frees_its_thread(
    scripted: tuple[Broker, World], at: Callable[[int], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = scripted
    own = at(server.port)
    server.script = [DRIP]
    ended: list[str] = []
    kite = kite_http.kite_client(own, a_session())

    def profile() -> None:
        try:
            kite.profile()
        finally:
            ended.append("thread")

    with pytest.raises(Transient, match="no whole answer within"):
        await kite_http.read("profile", profile, within_s=0.5)
    await until(lambda: ended, 20, "the thread to be free")


async def test_a_refused_connection_is_not_placed(at: Callable[[int], Settings]) -> None:
    own = at(free_port())
    write_session(own, a_session())
    trader = ZerodhaTrader(own)
    with pytest.raises(NotPlaced) as refusal:
        await trader.place(make_request(World(own)))
    assert (refusal.value.code, refusal.value.retryable) == ("UNREACHABLE", True)
    with pytest.raises(Transient):
        await trader.positions()
    await trader.close()


async def test_a_request_that_finds_no_thread_before_its_deadline_never_leaves(
    scripted: tuple[Broker, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zerodha, "TOTAL_S", 0.6)
    server, world = scripted
    server.script = [HANG] * zerodha.THREADS + [PLACED]
    hanging = [asyncio.create_task(world.trader.place(make_request(world))) for _ in range(zerodha.THREADS)]
    await until(lambda: len(server.requests) == zerodha.THREADS, 5, "every thread to be busy")
    with pytest.raises(NotPlaced) as refusal:
        await world.trader.place(make_request(world, deadline=time.monotonic() + 0.1))
    assert (refusal.value.code, refusal.value.retryable) == ("NOT_SENT", True)
    verdicts = await asyncio.gather(*hanging, return_exceptions=True)
    assert all(isinstance(verdict, OutcomeUnknown) for verdict in verdicts)
    assert len(server.requests) == zerodha.THREADS


async def test_a_deadline_that_passes_while_connecting_stops_the_first_byte(
    scripted: tuple[Broker, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, world = scripted
    server.script = [PLACED]
    real = zerodha.Call.may_write

    def late(call: zerodha.Call) -> None:
        time.sleep(0.3)
        real(call)

    monkeypatch.setattr(zerodha.Call, "may_write", late)
    with pytest.raises(NotPlaced) as refusal:
        await world.trader.place(make_request(world, deadline=time.monotonic() + 0.2))
    assert refusal.value.code == "NOT_SENT"
    assert server.requests == []


async def test_connections_are_kept_and_market_orders_carry_protection_and_tag(
    scripted: tuple[Broker, World],
) -> None:
    server, world = scripted
    server.script = [PLACED, PLACED, PLACED]
    request = make_request(world)
    for _ in range(3):
        assert await world.trader.place(request) == "151220000000000"
    assert server.connections == 1
    sent = server.requests[0]
    assert sent.startswith("POST /orders/regular HTTP/1.1")
    assert f"Authorization: token {API_KEY}:token-1" in sent
    assert "market_protection=-1" in sent
    assert f"tag={request.tag}" in sent
    assert "price=" not in sent


async def test_a_book_of_another_account_is_no_evidence(scripted: tuple[Broker, World]) -> None:
    server, world = scripted
    server.script = [PROFILE, success([{"order_id": "1", "placed_by": "ZZ9999", "status": "OPEN"}])]
    with pytest.raises(Transient, match="not AP0001's"):
        await world.trader.book()


async def test_an_unreadable_row_makes_the_whole_book_unreadable(scripted: tuple[Broker, World]) -> None:
    server, world = scripted
    server.script = [
        PROFILE,
        success([{"order_id": "1"}]),
    ]
    with pytest.raises(Transient):
        await world.trader.book()


async def test_a_session_that_dies_waits_and_the_next_login_is_picked_up(
    at: Callable[[int], Settings], tmp_path: Path
) -> None:
    with SandboxProcess(tmp_path / "sandbox", "--still") as sandbox:
        own = at(sandbox.port)
        world = ZerodhaWorld(own, ZerodhaTrader(own), sandbox)
        with pytest.raises(SessionExpired):
            await world.trader.place(limit(world, "1400"))
        await world.login()
        async with asyncio.timeout(10):
            await SessionWatcher(own).wait_valid(asyncio.Event())
        await _placed_within(world, 5)
        sandbox.admin("POST", "expire-token")
        with pytest.raises(SessionExpired):
            await world.trader.book()
        with pytest.raises(SessionExpired):
            await world.trader.place(limit(world, "1400"))
        assert len((await _book_after_login(world)).rows) == 1
        await world.trader.close()


async def _placed_within(world: ZerodhaWorld, seconds: float) -> str:
    until = time.monotonic() + seconds
    while True:
        try:
            return await world.trader.place(limit(world, "1400"))
        except SessionExpired:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def _book_after_login(world: ZerodhaWorld) -> object:
    await world.login()
    until = time.monotonic() + 5
    while True:
        try:
            return await world.trader.book()
        except SessionExpired:
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def test_the_session_file_is_private_and_says_nothing_when_unusable(at: Callable[[int], Settings]) -> None:
    own = at(28100)
    assert load_session(own) is None
    write_session(own, a_session())
    assert own.session_file.stat().st_mode & 0o777 == 0o600
    found = load_session(own)
    assert found is not None
    assert found.access_token == "token-1"
    assert "token-1" not in repr(found)
    write_session(own, a_session(hours=-0.01))
    assert load_session(own) is None
    for user, app in ((USER_ID, "another-app"), ("ZZ9999", own.kite_api_key)):
        write_session(own, Session(user, app, "t", utc_now(), utc_now() + timedelta(hours=1)))
        assert load_session(own) is None
        assert SessionWatcher(own).session is None, "nothing is sent as another user"
    own.session_file.write_text("{half a fi")
    assert load_session(own) is None
    remove_session(own)
    assert load_session(own) is None
