"""The sandbox answers in the shapes Zerodha publishes, through the official SDK and over plain HTTP."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from kiteconnect import KiteConnect
from kiteconnect.exceptions import InputException, TokenException

from tests.integration.sandbox_support import (
    API_KEY,
    API_SECRET,
    USER_ID,
    SandboxProcess,
    market_order,
    place,
    wait_status,
)

DATA = Path(__file__).resolve().parents[1] / "data" / "kite"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    with SandboxProcess(tmp_path_factory.mktemp("sandbox"), "--still") as process:
        yield process


@pytest.fixture
def kite(sandbox: SandboxProcess) -> KiteConnect:
    return sandbox.login()


def published(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())["data"]


def raw(sandbox: SandboxProcess, kite: KiteConnect, path: str, **params: Any) -> Any:
    headers = {"Authorization": f"token {API_KEY}:{kite.access_token}", "X-Kite-Version": "3"}
    answer = httpx.get(sandbox.root + path, params=params, headers=headers)
    body = answer.json()
    assert answer.status_code == 200, body
    assert set(body) == {"status", "data"}
    assert body["status"] == "success"
    return body["data"]


def assert_same_shape(ours: Any, theirs: Any, where: str = "data") -> None:
    """Same keys, nesting and types; a null on either side fits a string or a number."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), where
        assert set(ours) == set(theirs), f"{where}: {sorted(set(ours) ^ set(theirs))}"
        for key, value in theirs.items():
            assert_same_shape(ours[key], value, f"{where}.{key}")
    elif isinstance(theirs, list):
        assert isinstance(ours, list), where
        rows = isinstance(theirs[0], dict | list)  # a list of scalars is a row: place by place
        for i, value in enumerate(ours):
            assert_same_shape(value, theirs[0] if rows else theirs[i], f"{where}[]")
    elif ours is not None and theirs is not None:
        assert kind(ours) == kind(theirs), f"{where}: {ours!r} is not like {theirs!r}"


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__


def test_the_login_page_sends_the_browser_back_with_a_request_token(sandbox: SandboxProcess) -> None:
    kite = KiteConnect(API_KEY, root=sandbox.root)
    kite._default_login_uri = f"{sandbox.root}/connect/login"
    page = httpx.get(kite.login_url())
    assert "<button>" in page.text
    pressed = httpx.post(f"{sandbox.root}/connect/login", data={"api_key": API_KEY, "redirect_params": "a=1"})
    assert pressed.status_code == 302
    query = parse_qs(urlsplit(pressed.headers["location"]).query)
    assert (query["action"], query["status"], query["a"]) == (["login"], ["success"], ["1"])
    session = kite.generate_session(query["request_token"][0], API_SECRET)
    assert session["user_id"] == USER_ID
    assert isinstance(session["login_time"], datetime)
    with pytest.raises(TokenException, match="invalid or has expired"):
        kite.generate_session(query["request_token"][0], API_SECRET)


def test_the_session_answer_has_the_published_keys(sandbox: SandboxProcess) -> None:
    token = sandbox.admin("POST", "request-token")["request_token"]
    checksum = hashlib.sha256(f"{API_KEY}{token}{API_SECRET}".encode()).hexdigest()
    form = {"api_key": API_KEY, "request_token": token, "checksum": checksum}
    answer = httpx.post(f"{sandbox.root}/session/token", data=form).json()
    assert_same_shape(answer["data"], published("generate_session"))


def test_a_wrong_secret_is_a_wrong_checksum(sandbox: SandboxProcess) -> None:
    token = sandbox.admin("POST", "request-token")["request_token"]
    with pytest.raises(TokenException, match="Invalid `checksum`") as caught:
        KiteConnect(API_KEY, root=sandbox.root).generate_session(token, "wrong")
    assert caught.value.code == 403


def test_a_new_login_ends_the_old_one_and_logout_ends_the_new(sandbox: SandboxProcess) -> None:
    old, new = sandbox.login(), sandbox.login()
    expired: list[bool] = []
    old.set_session_expiry_hook(lambda: expired.append(True))
    with pytest.raises(TokenException, match="Incorrect `api_key` or `access_token`"):
        old.profile()
    assert expired == [True]
    assert new.profile()["user_id"] == USER_ID
    assert new.invalidate_access_token() == published("session_logout")
    with pytest.raises(TokenException):
        new.orders()


def test_the_admin_can_expire_the_token(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    assert sandbox.admin("GET", "status")["session"]["active"]
    assert sandbox.admin("POST", "expire-token") == {"expired": True}
    with pytest.raises(TokenException):
        kite.profile()


def test_a_token_dies_at_six_in_the_morning_in_india(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    dies = datetime.fromisoformat(sandbox.admin("GET", "status")["session"]["dies_at"])
    assert (dies.hour, dies.minute, dies.utcoffset()) == (0, 30, timedelta(0))
    assert timedelta(0) < dies - datetime.now(dies.tzinfo) <= timedelta(days=1)


@pytest.mark.parametrize(
    ("path", "name"),
    [("/user/profile", "profile"), ("/user/margins", "margins"), ("/user/margins/equity", "margins_equity")],
)
def test_the_account_has_the_published_shape(sandbox: SandboxProcess, kite: KiteConnect, path: str, name: str) -> None:
    assert_same_shape(raw(sandbox, kite, path), published(name))


@pytest.mark.parametrize(("path", "name"), [("/quote", "quote"), ("/quote/ohlc", "ohlc"), ("/quote/ltp", "ltp")])
def test_quotes_have_the_published_shape(sandbox: SandboxProcess, kite: KiteConnect, path: str, name: str) -> None:
    answer = raw(sandbox, kite, path, i=["NSE:INFY", "NSE:NOSUCH"])
    assert_same_shape(answer, published(name))  # the unknown one is simply missing
    assert answer["NSE:INFY"]["instrument_token"] == published(name)["NSE:INFY"]["instrument_token"]


def test_quotes_come_through_the_sdk(kite: KiteConnect) -> None:
    quote = kite.quote("NSE:INFY", "NSE:NIFTY 50")
    assert isinstance(quote["NSE:INFY"]["timestamp"], datetime)
    assert kite.ltp(["NSE:INFY"])["NSE:INFY"]["last_price"] == quote["NSE:INFY"]["last_price"]
    assert len(quote["NSE:INFY"]["depth"]["sell"]) == 5


def test_orders_trades_and_history_have_the_published_shape(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.set_price("NSE:TATASTEEL", 156.69)
    order_id = market_order(kite, tradingsymbol="TATASTEEL", product="CNC", quantity=1, market_protection=2)
    wait_status(kite, order_id, "COMPLETE")
    resting = place(kite, price=1490.0)
    orders = {each["order_id"]: each for each in raw(sandbox, kite, "/orders")}
    theirs = {each["order_id"]: each for each in published("orders")}
    published_market_order = theirs["1953341975595868160"]  # TATASTEEL, market protection 2 %
    assert_same_shape(orders[order_id], published_market_order)
    for field in ("order_type", "price", "market_protection", "tags", "validity", "product"):
        assert orders[order_id][field] == published_market_order[field], field
    assert_same_shape(orders[resting], theirs["250117800776785"])
    assert_same_shape(raw(sandbox, kite, f"/orders/{order_id}"), [published_market_order] * 2)
    assert_same_shape(raw(sandbox, kite, "/trades"), published("trades"))
    assert_same_shape(raw(sandbox, kite, f"/orders/{order_id}/trades"), published("order_trades"))
    assert isinstance(kite.order_trades(order_id)[0]["fill_timestamp"], datetime)
    assert isinstance(kite.orders()[0]["order_timestamp"], datetime)


def test_place_modify_and_cancel_answer_as_published(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    headers = {"Authorization": f"token {API_KEY}:{kite.access_token}"}
    form = {
        "exchange": "NSE", "tradingsymbol": "SBIN", "transaction_type": "BUY", "quantity": "1", "product": "CNC",
        "order_type": "LIMIT", "price": "800",
    }  # fmt: skip
    with httpx.Client(base_url=sandbox.root, headers=headers) as client:
        placed = client.post("/orders/regular", data=form).json()
        assert_same_shape(placed["data"], published("order_response"))
        order_id = placed["data"]["order_id"]
        wait_status(kite, order_id, "OPEN")
        changed = client.put(f"/orders/regular/{order_id}", data={"price": "801"}).json()
        assert_same_shape(changed["data"], published("order_modify"))
        wait_status(kite, order_id, "OPEN")
        cancelled = client.delete(f"/orders/regular/{order_id}").json()
        assert_same_shape(cancelled["data"], published("order_cancel"))


def test_holdings_have_the_published_shape_after_the_day_rolled(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    wait_status(kite, market_order(kite, tradingsymbol="ONGC", product="CNC", quantity=7), "COMPLETE")
    sandbox.admin("POST", "roll-day")
    rows = raw(sandbox, kite, "/portfolio/holdings")
    assert_same_shape(rows, published("holdings"))
    assert next(each for each in kite.holdings() if each["tradingsymbol"] == "ONGC")["t1_quantity"] == 7


def test_positions_have_kite_s_29_fields(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    wait_status(kite, market_order(kite, tradingsymbol="ITC"), "COMPLETE")
    positions = kite.positions()
    assert set(positions) == {"net", "day"}
    assert {len(each) for each in positions["net"]} == {29}


def test_the_instrument_dump_has_the_published_columns(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    text = httpx.get(f"{sandbox.root}/instruments").text
    assert text.splitlines()[0] == (DATA / "instruments_nse.csv").read_text().splitlines()[0]
    every, nse = kite.instruments(), kite.instruments("NSE")
    assert {each["exchange"] for each in nse} == {"NSE"}
    assert {"NSE", "BSE", "NFO"} <= {each["exchange"] for each in every}
    assert len(every) == len(list(csv.DictReader(io.StringIO(text))))
    infy = next(each for each in nse if each["tradingsymbol"] == "INFY")
    assert infy["instrument_token"] == 408065
    with pytest.raises(InputException):
        kite.instruments("NOPE")


def test_candles_have_the_published_shape_and_re_reads_agree(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    window = {"from": "2026-01-05 09:15:00", "to": "2026-01-05 15:30:00"}
    path = "/instruments/historical/408065"
    minutes = raw(sandbox, kite, f"{path}/minute", **window, oi=1)
    assert_same_shape(minutes, published("historical_oi"))
    assert [len(candle) for candle in minutes["candles"]] == [7] * 375
    assert raw(sandbox, kite, f"{path}/minute", **window, oi=1) == minutes
    days = kite.historical_data(408065, "2026-01-05", "2026-01-09", "day")
    assert [candle["date"].day for candle in days] == [5, 6, 7, 8, 9]
    assert days[0]["high"] == max(candle[2] for candle in minutes["candles"])
    with pytest.raises(InputException, match="interval exceeds max limit: 60 days"):
        kite.historical_data(408065, "2025-01-05", "2026-01-09", "minute")


def test_candles_of_today_end_at_the_present_price(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    sandbox.set_price("NSE:HCLTECH", 1500.0)
    now = datetime.now() + timedelta(minutes=1)  # noqa: DTZ005  the SDK takes naive IST
    shift = timedelta(hours=5, minutes=30) - (datetime.now().astimezone().utcoffset() or timedelta(0))
    candles = kite.historical_data(1850625, now + shift - timedelta(minutes=30), now + shift, "minute")
    assert candles[-1]["close"] == 1500.0


def test_errors_come_in_kite_s_envelope(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    for path, status in (("/orders/1", 404), ("/nowhere", 404), ("/quote", 400), ("/user/margins/gold", 400)):
        headers = {"Authorization": f"token {API_KEY}:{kite.access_token}"}
        answer = httpx.get(sandbox.root + path, headers=headers)
        body = answer.json()
        assert answer.status_code == status, path
        assert body["status"] == "error"
        assert body["error_type"]
        assert body["message"]


def test_the_routes_also_answer_under_oms(sandbox: SandboxProcess, kite: KiteConnect) -> None:
    assert raw(sandbox, kite, "/oms/orders") == raw(sandbox, kite, "/orders")


def test_the_admin_endpoint_refuses_foreign_hosts(sandbox: SandboxProcess) -> None:
    url = f"{sandbox.root}/admin/status"
    assert httpx.get(url, headers={"Host": "evil.example:80"}).status_code == 403
    assert httpx.post(f"{sandbox.root}/admin/pause", headers={"Origin": "http://evil.example"}).status_code == 403
    assert httpx.get(url, headers={"Host": f"localhost:{sandbox.port}"}).status_code == 200
