"""What may be thrown at the API before anybody is known: forged tokens, bodies that bite, paths and names that would lead elsewhere."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from nicegui import app as nicegui_app
from starlette.types import Message

from api.app import create_app
from api.auth import ACCESS_COOKIE, CSRF_COOKIE, OPEN, REFRESH_COOKIE, from_elsewhere, routes
from api.pages.guard import _OPEN as OPEN_PAGES
from api.requests import DEEPEST, _unstorable
from core.errors import NotLoggedIn
from core.ids import new_id
from core.people import tokens
from core.storage.login_guards import guards
from docker.prerequisites import ROOT
from tests.strategy_world import make_settings

SETTINGS = make_settings(kafka_port=1025, postgres_port=1026, redis_port=1027, temporal_port=1028, sandbox_port=1029)
SECRET = SETTINGS.api_jwt_secret
KEY = SECRET.get_secret_value()
USER, SESSION = new_id(), new_id()
GOOD = jwt.encode(
    {
        "iss": tokens.ISSUER,
        "aud": tokens.AUDIENCE,
        "sub": str(USER),
        "sid": str(SESSION),
        "iat": datetime.now(UTC),
        "exp": datetime.now(UTC) + timedelta(days=1),
        "jti": "1",
    },
    KEY,
    tokens.ALGORITHM,
)
"""As `tokens.sign` makes them, but good for as long as any run of the tests takes."""
HEAD, CLAIMS, MARK = GOOD.split(".")
LOGIN = "/api/v1/auth/login"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(SETTINGS)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as found:
        yield found


def problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


# algorithm confusion and tampering -----------------------------------------------------------------------------------------


def _claims() -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(GOOD, options={"verify_signature": False})
    return found


def _made(head: dict[str, Any], key: str = KEY) -> str:
    """Signed as HS256 would, whatever its head says."""
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in (head, _claims())]
    mark = hmac.new(key.encode(), b".".join(parts), "sha256").digest()
    return b".".join([*parts, base64.urlsafe_b64encode(mark).rstrip(b"=")]).decode()


OF_OTHERS = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CONFUSED = {
    "another algorithm's name": _made({"alg": "RS256", "typ": "JWT"}),
    "the name in small letters": _made({"alg": "hs256", "typ": "JWT"}),
    "no name": _made({"typ": "JWT"}),
    "a list of names": _made({"alg": ["HS256"], "typ": "JWT"}),
    "none, with a signature": _made({"alg": "none", "typ": "JWT"}),
    "what nobody understands is critical": _made({"alg": "HS256", "typ": "JWT", "crit": ["x"], "x": 1}),
    "an empty key": _made({"alg": "HS256", "typ": "JWT"}, ""),
    "a key file of its choice": _made({"alg": "HS256", "kid": "../../../dev/null"}, ""),
    "a key of its own": jwt.encode(_claims(), OF_OTHERS, "RS256", {"jwk": {"kty": "RSA", "n": "x", "e": "AQAB"}}),
    "a key from an address": jwt.encode(_claims(), OF_OTHERS, "RS256", {"jku": "http://127.0.0.1:1/keys.json"}),
    "an API key's look": f"ap_{GOOD}",
    "two tokens": f"{GOOD}.{GOOD}",
    "a token with a line's end": f"{GOOD}\n",
}


@pytest.mark.parametrize("token", CONFUSED.values(), ids=CONFUSED)
def test_a_token_chooses_neither_its_algorithm_nor_its_key(token: str) -> None:
    assert tokens.read(SECRET, GOOD).user_id == USER
    with pytest.raises(NotLoggedIn):
        tokens.read(SECRET, token)


@tries(max_examples=150, deadline=None)
@given(at=st.integers(0, len(HEAD) + len(CLAIMS)), put=st.characters(codec="latin-1"))
def test_no_other_character_in_a_tokens_head_or_claims_is_taken(at: int, put: str) -> None:
    other = GOOD[:at] + put + GOOD[at + 1 :]
    if other != GOOD:
        with pytest.raises(NotLoggedIn):
            tokens.read(SECRET, other)


@tries(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_no_other_signature_is_taken(mark: bytes) -> None:
    if mark != base64.urlsafe_b64decode(MARK + "=="):
        with pytest.raises(NotLoggedIn):
            tokens.read(SECRET, f"{HEAD}.{CLAIMS}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}")


@pytest.mark.parametrize("token", [*(each for each in CONFUSED.values() if "\n" not in each), "ap_", "ap_x", "é", "."])
async def test_a_forged_token_is_told_nothing_but_to_log_in(client: httpx.AsyncClient, token: str) -> None:
    """The same words for all of them, in a header or a cookie; the database, which is away here, is not even asked."""
    given_as: list[dict[str, Any]] = [{"Authorization": b"Bearer " + token.encode()}]
    if token.isascii() and not token.startswith("ap_"):
        given_as.append({"Cookie": f"{ACCESS_COOKIE}={token}"})
    for headers in given_as:
        answer = await client.get("/api/v1/orders", headers=headers)
        assert "log in" in problem(answer, 401).lower() or "key is not good" in problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_bad_header_is_not_mended_by_a_good_cookie(client: httpx.AsyncClient) -> None:
    for scheme in ("Basic YTpi", "Bearer", "Bearer x", "bearer  ", ""):
        answer = await client.get("/api/v1/orders", headers={"Authorization": scheme, "Cookie": f"ap_access={GOOD}"})
        assert problem(answer, 401)


# bodies --------------------------------------------------------------------------------------------------------------------

BODIES = {
    **{f"lists {deep} deep": b'{"name":' + b"[" * deep + b"]" * deep + b"}" for deep in (30, 450, 900, 100_000)},
    **{f"objects {deep} deep": b'{"name":' + b'{"a":' * deep + b"1" + b"}" * deep + b"}" for deep in (30, 450, 40_000)},
    "a number of 5,000 digits": b'{"name":' + b"9" * 5000 + b',"password":"x"}',
    "no number": b'{"name":"a","password":"b","cookies":NaN}',
    "infinity": b'{"name":"a","password":"b","cookies":1e999}',
    "bytes that are no text": b'{"name":"\xff\xfe","password":"b"}',
    "half a surrogate pair": b'{"name":"\\ud800","password":"b"}',
    "a NUL": b'{"name":"a\\u0000","password":"b"}',
    "a NUL in a field's name": b'{"na\\u0000me":"a","password":"b"}',
    "another kind": b'["name","password"]',
    "nothing": b"",
    "half": b'{"name":',
    "a field too many": b'{"name":"a","password":"b","role":"admin"}',
    "a password of 201": b'{"name":"a","password":"' + b"x" * 201 + b'"}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_bites_is_refused_before_anything_is_done(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(LOGIN, content=body, headers=JSON)
    assert answer.status_code in {400, 422}, answer.text
    assert "password" not in answer.text or "xxx" not in answer.text
    problem(answer, answer.status_code)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_what_a_form_can_send_is_no_request(client: httpx.AsyncClient, kind: str | None) -> None:
    """A form of another site can send these without asking us first; JSON it cannot."""
    body = b'{"name":"a","password":"b","cookies":true}'
    request = client.build_request("POST", LOGIN, content=body, headers={"Content-Type": kind} if kind else {})
    assert problem(await client.send(request), 422)


def nested(deep: int) -> Any:
    found: Any = "text"
    for _ in range(deep):
        found = [found]
    return found


def test_what_lies_too_deep_is_refused_whatever_the_depth() -> None:
    assert _unstorable(nested(DEEPEST - 1)) is None
    for deep in (DEEPEST, 10_000):
        assert "levels" in (_unstorable(nested(deep)) or "")
    assert "finite" in (_unstorable({"a": [float("nan")]}) or "")
    assert "NUL" in (_unstorable({"a": {"b\0": 1}}) or "")


# where a page comes from ------------------------------------------------------------------------------------------------------

ELSEWHERE: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:28233"},
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
async def test_no_other_page_logs_a_browser_in_or_carries_its_session_on(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """Else a site could log its visitor in as somebody else, who then sees what the visitor does."""
    body = {"name": "admin", "password": "whatever-it-is", "cookies": True}
    assert "our own pages" in problem(await client.post(LOGIN, json=body, headers=headers), 403)
    carried = await client.post(
        "/api/v1/auth/refresh", json={}, headers=headers | {"Cookie": f"{REFRESH_COOKIE}=x; {CSRF_COOKIE}=x"}
    )
    assert "our own pages" in problem(carried, 403)


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}], ids=str)
async def test_our_own_page_and_a_program_get_as_far_as_the_database(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    body = {"name": "admin", "password": "whatever-it-is", "cookies": True}
    assert "PostgreSQL is away" in problem(await client.post(LOGIN, json=body, headers=headers), 503)


def test_a_browsers_word_for_typing_an_address_is_ours() -> None:
    class Typed:
        headers = httpx.Headers({"Host": "127.0.0.1:28000", "Sec-Fetch-Site": "none"})

    assert from_elsewhere(Typed()) is None  # type: ignore[arg-type]


# paths and headers --------------------------------------------------------------------------------------------------------


async def ask(app: FastAPI, path: str, query: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """GET with this very path: a client library would tidy it up first."""
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        said.append(message)

    named = {"host": "127.0.0.1"} | headers
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "root_path": ""}
    scope |= {"path": path, "raw_path": quote(path).encode(), "query_string": query.encode(), "state": {}}
    scope |= {"headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()]}
    await app(scope | {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80)}, receive, send)
    start = next(message for message in said if message["type"] == "http.response.start")
    found = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
    return start["status"], found, b"".join(message.get("body", b"") for message in said)


UP = "../" * 12
OUTWARD = [
    f"/static-offline-docs/{UP}etc/passwd",
    "/static-offline-docs//etc/passwd",
    f"/room/static/{UP}etc/passwd",
    "/room/static//etc/passwd",
    f"/room/_nicegui/{{version}}/static/{UP}etc/passwd",
    f"/room/_nicegui/{{version}}/resources/x/{UP}etc/passwd",
    f"/room/_nicegui/{{version}}/components/{UP}etc/passwd",
    f"/room/_nicegui/{{version}}/libraries/{UP}etc/passwd",
    f"/room/_nicegui/{{version}}/esm/x/{UP}etc/passwd",
    "/room/static/..\\..\\..\\.env",
    "/docs/../../../etc/passwd",
    "/../../../etc/passwd",
]


@pytest.mark.parametrize("path", OUTWARD)
async def test_no_path_leads_to_a_file_that_is_not_served(app: FastAPI, path: str) -> None:
    import nicegui

    status, _, body = await ask(app, path.replace("{version}", nicegui.__version__))
    assert status in {404, 303}
    assert b"root:" not in body


async def test_only_libraries_styles_and_icons_lie_before_the_pages_guard(app: FastAPI) -> None:
    """What NiceGUI serves to everybody, by name: a new version of it that serves more is looked at first."""
    version = r"{version}"
    found = {str(getattr(route, "path", "")) for route in nicegui_app.routes}
    import nicegui

    before = {path.replace(nicegui.__version__, version) for path in found if path.startswith(OPEN_PAGES)}
    assert before - {"/favicon.ico"} == {  # the icon is added when an app starts, which another test may have done
        "/_nicegui/{version}/static",
        "/_nicegui/{version}/libraries/{key:path}",
        "/_nicegui/{version}/components/{key:path}",
        "/_nicegui/{version}/resources/{key}/{path:path}",
        "/_nicegui/{version}/dynamic_resources/{name}",
        "/_nicegui/{version}/esm/{key}/{path:path}",
        "/static/{path:path}",
    }
    for path in found - {each for each in found if each.startswith(OPEN_PAGES)} - {"/_nicegui_ws"}:
        status, headers, _ = await ask(app, f"/room{path}")
        assert (status, headers["location"][:6]) == (303, "/login"), path


@pytest.mark.parametrize("text", ["\r\nSet-Cookie: a=b", "\nX: y", "//evil.example/", "http://evil.example/", "\u2028"])
async def test_no_text_of_an_address_becomes_a_header_or_leads_elsewhere(app: FastAPI, text: str) -> None:
    """The way to the login carries where one wanted to go: quoted, and below our own address."""
    status, headers, _ = await ask(app, f"/room/orders/{text}", f"x={quote(text)}")
    assert (status in {303, 404}, "set-cookie" in headers, "x" in headers) == (True, False, False)
    assert headers.get("location", "/login?next=/room/").startswith("/login?next=/room/")
    assert not {"\r", "\n"} & set("".join(headers.values()))
    for name in ("origin", "referer", "x-csrf-token", "idempotency-key", "if-none-match", "last-event-id"):
        _, headers, _ = await ask(app, "/api/v1/orders", **{name: text.encode("latin-1", "ignore").decode("latin-1")})
        assert "evil" not in str(headers)
        assert "set-cookie" not in headers


def test_no_page_writes_html_of_its_own() -> None:
    """Text reaches a page as text. What puts HTML in is written out here; nothing of it holds what people or brokers said."""
    ways = ("ui.html", "ui.markdown", "innerHTML", "insertAdjacentHTML", "v-html", "document.write", "sanitize=False")
    texts = {path: path.read_text() for path in (ROOT / "api").rglob("*.*") if path.suffix in {".py", ".js", ".html"}}
    assert len(texts) > 30
    assert [f"{path.name}: {way}" for path, text in texts.items() for way in ways if way in text] == []


# addresses we are told -----------------------------------------------------------------------------------------------------


def test_no_route_takes_an_address_to_call(app: FastAPI) -> None:
    """Whoever is logged in cannot make this machine call one. `redirect` is read for its token, and never asked for."""
    words = ("url", "uri", "webhook", "callback", "redirect", "host", "endpoint", "address")
    found: set[str] = set()
    schema = app.openapi()
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            names = [each["name"] for each in operation.get("parameters", [])]
            body = json.dumps(operation.get("requestBody", {}))
            for name, model in schema["components"]["schemas"].items():
                names += list(model.get("properties", {})) if f'schemas/{name}"' in body else []
            found |= {f"{method} {path} {name}" for name in names if any(word in name.lower() for word in words)}
    assert found == {"post /api/v1/broker-session/login redirect"}


def test_the_open_routes_take_no_more_than_they_need(app: FastAPI) -> None:
    opened = {name.split(" ")[1] for name, access in routes(app) if access == OPEN}
    bodies = {path for path in opened if "requestBody" in app.openapi()["paths"].get(path, {}).get("post", {})}
    assert bodies == {LOGIN, "/api/v1/auth/refresh"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", False),
        ("192.0.2.7", "192.0.2.8", False),
        ("unknown", "unknown", True),
    ],
)
def test_whoever_has_a_network_of_addresses_has_one_counter(one: str, other: str, same: bool) -> None:
    assert (guards("a", one) == guards("a", other)) is same


@given(st.text(max_size=80))
def test_a_counter_of_failed_logins_has_a_bounded_name(text: str) -> None:
    assert all(len(guard) <= 72 for guard in guards(text, text))
