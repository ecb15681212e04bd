"""What each kind of failed call says about the order: the whole table, row by row."""

from __future__ import annotations

import socket
import ssl

import pytest
import requests
from kiteconnect import exceptions as kite
from urllib3 import HTTPConnectionPool
from urllib3 import exceptions as urllib3
from urllib3.connection import HTTPConnection

from core.brokers.zerodha_classify import NeverWritten, classify
from core.errors import NotPlaced, OutcomeUnknown, SessionExpired

_CONNECTION = HTTPConnection("127.0.0.1")
_POOL = HTTPConnectionPool("127.0.0.1")


def _unreachable(reason: Exception) -> requests.exceptions.ConnectionError:
    """As requests wraps what urllib3 gave up on before it sent anything."""
    return requests.exceptions.ConnectionError(urllib3.MaxRetryError(_POOL, "/orders", reason))


def _aborted(error: Exception) -> requests.exceptions.ConnectionError:
    return requests.exceptions.ConnectionError(urllib3.ProtocolError("Connection aborted.", error))


RETRYABLE = [
    (kite.NetworkException("Too many requests", code=429), "RATE_LIMITED"),
    (kite.GeneralException("Maximum allowed order requests exceeded.", code=429), "RATE_LIMITED"),
    (_unreachable(urllib3.NewConnectionError(_CONNECTION, "[Errno 111] Connection refused")), "UNREACHABLE"),
    (_unreachable(urllib3.NameResolutionError("api.kite.trade", _CONNECTION, socket.gaierror(-2))), "UNREACHABLE"),
    (requests.exceptions.ConnectTimeout(urllib3.MaxRetryError(_POOL, "/", None)), "UNREACHABLE"),
    (ConnectionRefusedError(111, "Connection refused"), "UNREACHABLE"),
    (NeverWritten("place X: past its deadline"), "NOT_SENT"),
]

FINAL = [
    (kite.InputException("Invalid `quantity`.", code=400), "INPUT"),
    (kite.OrderException("Tick size for this script is 0.10. Kindly enter price in the multiple", code=400), "ORDER"),
    (kite.InputException("Market orders without market protection are not allowed via API.", code=400), "INPUT"),
    (kite.GeneralException("Insufficient funds. Required margin is 9 but available margin is 7.", code=400), "MARGIN"),
    (kite.GeneralException("Insufficient holdings", code=400), "HOLDING"),
    (kite.GeneralException("Your account is blocked", code=403), "ACCOUNT"),
    (kite.PermissionException("Insufficient permission for that call.", code=403), "PERMISSION"),
    (kite.PermissionException("IP (1.2.3.4) is not allowed to place orders for this app.", code=403), "IP_NOT_ALLOWED"),
    (kite.InputException("No IPs configured for this app.", code=400), "IP_NOT_ALLOWED"),
    (kite.GeneralException("Requested method not allowed", code=405), "REFUSED"),
    (kite.GeneralException("Route not found", code=404), "REFUSED"),
    (kite.InputException("Maximum allowed order requests exceeded.", code=400), "INPUT"),
    (requests.exceptions.MissingSchema("Invalid URL '/orders'"), "BAD_REQUEST"),
    (requests.exceptions.InvalidURL("Invalid URL 'http://'"), "BAD_REQUEST"),
]

UNKNOWN = [
    kite.OrderException("Order request timed out", code=400),
    kite.InputException("Order request timeout.", code=400),
    kite.OrderException("Order cannot be cancelled as it is being processed. Try later.", code=400),
    kite.GeneralException("Something went wrong. Please try again later", code=400),
    kite.OrderException("Couldn't place", code=500),
    kite.GeneralException("Internal error", code=500),
    kite.NetworkException("Gateway timed out", code=504),
    kite.NetworkException("OMS is down", code=503),
    kite.TokenException("odd", code=500),
    kite.DataException("Couldn't parse the JSON response received from the server: b'{'"),
    kite.DataException("Unknown Content-Type (text/html) with response: (b'<html>502 Bad Gateway</html>')"),
    kite.GeneralException("no code at all", code=None),
    kite.GeneralException("request timeout", code=408),
    requests.exceptions.ReadTimeout("Read timed out. (read timeout=7)"),
    _aborted(ConnectionResetError(104, "Connection reset by peer")),
    _aborted(BrokenPipeError(32, "Broken pipe")),
    _aborted(urllib3.IncompleteRead(3, 10)),
    requests.exceptions.ChunkedEncodingError("Response ended prematurely"),
    requests.exceptions.ContentDecodingError("gzip"),
    requests.exceptions.SSLError(ssl.SSLError("DECRYPTION_FAILED_OR_BAD_RECORD_MAC")),
    requests.exceptions.TooManyRedirects("30"),
    KeyError("content-type"),
    KeyError("message"),
    TypeError("getattr(): attribute name must be string"),
    UnboundLocalError("_list"),
    AttributeError("'list' object has no attribute 'get'"),
    ValueError("anything else"),
    TimeoutError("timed out"),
]


@pytest.mark.parametrize(("error", "code"), RETRYABLE, ids=repr)
def test_a_passing_refusal_may_be_tried_again(error: Exception, code: str) -> None:
    verdict = classify(error)
    assert isinstance(verdict, NotPlaced)
    assert (verdict.code, verdict.retryable) == (code, True)


@pytest.mark.parametrize(("error", "code"), FINAL, ids=repr)
def test_a_final_refusal_carries_the_brokers_words(error: Exception, code: str) -> None:
    verdict = classify(error)
    assert isinstance(verdict, NotPlaced)
    assert (verdict.code, verdict.retryable) == (code, False)
    assert str(error)[:40] in str(verdict)


@pytest.mark.parametrize("error", UNKNOWN, ids=repr)
def test_whatever_may_hide_an_order_is_unknown(error: Exception) -> None:
    assert isinstance(classify(error), OutcomeUnknown)
    assert isinstance(classify(error, written=True), OutcomeUnknown)


@pytest.mark.parametrize("code", [400, 403])
def test_a_refused_token_waits_for_a_login(code: int) -> None:
    verdict = classify(kite.TokenException("Incorrect `api_key` or `access_token`.", code=code))
    assert isinstance(verdict, SessionExpired)
    assert verdict.retryable
    assert "alpha-panda login" in str(verdict)


def test_our_own_knowledge_that_bytes_left_outranks_what_the_error_looks_like() -> None:
    refused = _unreachable(urllib3.NewConnectionError(_CONNECTION, "refused after a redirect"))
    assert isinstance(classify(refused, written=True), OutcomeUnknown)


def test_what_never_left_is_certainly_not_placed_whatever_failed() -> None:
    reset = classify(_aborted(ConnectionResetError(104, "reset while connecting")), written=False)
    assert isinstance(reset, NotPlaced)
    assert reset.retryable
    bug = classify(KeyError("order.place"), written=False)
    assert isinstance(bug, NotPlaced)
    assert not bug.retryable


def test_a_page_of_html_is_shortened() -> None:
    assert len(str(classify(kite.DataException("<html>" + "x" * 10_000)))) < 400
