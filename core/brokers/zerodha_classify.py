"""What a failed call to Zerodha says about the order: one pure function over the exception the SDK raised.

Never calls anything "not placed" that is not certain; whatever the table does not know is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import requests
from kiteconnect import exceptions as kite
from urllib3 import exceptions as urllib3

from core.errors import BrokerError, NotPlaced, OutcomeUnknown, SessionExpired

WORDS = 300
"""Longest piece of a broker's message we carry on: an HTML page says no more in its tail."""

_AMBIGUOUS = re.compile(r"tim(?:ed|e)[\s-]?out|processed|try(?:ing)? (?:again )?later|try again", re.I)
"""A 400 with such words may hide an order that lives ("Order request timed out": kite.trade/forum/discussion/9215)."""

_IP = re.compile(r"\bIPs? (?:\(|address|configured|is not allowed)|\bNo IPs\b|static[- ]ip", re.I)
_MARGIN = re.compile(r"insufficient (?:funds|margin)|margin (?:exceed|required|short)|required margin", re.I)
_HOLDING = re.compile(r"\bholdings?\b", re.I)

_BEFORE_ANY_BYTE = (
    urllib3.NewConnectionError,
    urllib3.ConnectTimeoutError,
    urllib3.NameResolutionError,
    requests.exceptions.ConnectTimeout,
    ConnectionRefusedError,
)

_NEVER_SENT = (
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
)

_CODES: dict[type[kite.KiteException], str] = {
    kite.InputException: "INPUT",
    kite.OrderException: "ORDER",
    kite.PermissionException: "PERMISSION",
    kite.GeneralException: "REFUSED",
}


class NeverWritten(Exception):
    """Our own HTTP layer gave up before the first byte of the request left (its deadline passed, or its caller left)."""


def classify(error: BaseException, *, written: bool | None = None) -> BrokerError:
    """What this exception means for the order: NotPlaced (SessionExpired is one), or OutcomeUnknown.

    Args:
        error: what the SDK, requests or our HTTP layer raised.
        written: whether our HTTP layer let the first byte of the request leave; None where nobody knows.
    """
    if isinstance(error, NeverWritten):
        return NotPlaced(f"not sent: {error}", code="NOT_SENT", retryable=True)
    if isinstance(error, _NEVER_SENT):
        return NotPlaced(f"the request could not be made: {words(error)}", code="BAD_REQUEST", retryable=False)
    if isinstance(error, kite.KiteException):
        return _answered(error)
    if written is None:
        written = not any(isinstance(cause, _BEFORE_ANY_BYTE) for cause in causes(error))
    if written:
        return OutcomeUnknown(f"no answer we can trust: {type(error).__name__}: {words(error)}")
    if isinstance(error, OSError | urllib3.HTTPError):  # requests' exceptions are OSErrors
        return NotPlaced(f"Zerodha could not be reached: {words(error)}", code="UNREACHABLE", retryable=True)
    message = f"the request could not be made: {type(error).__name__}: {words(error)}"
    return NotPlaced(message, code="BAD_REQUEST", retryable=False)


def _answered(error: kite.KiteException) -> BrokerError:
    """The broker answered with an error: by HTTP status first, then error type, then its words."""
    text, status = words(error), error.code
    if status == 429:
        return NotPlaced(f"too many requests: {text}", code="RATE_LIMITED", retryable=True)
    unknown = OutcomeUnknown(f"{type(error).__name__} {status}: {text}")
    if isinstance(error, kite.DataException | kite.NetworkException) or not isinstance(status, int):
        return unknown
    if not 400 <= status < 500 or status == 408:
        return unknown
    if isinstance(error, kite.TokenException):
        return SessionExpired(f"Zerodha refused our session: {text}; run `alpha-panda login`")
    if _AMBIGUOUS.search(text) and not isinstance(error, kite.PermissionException):
        return unknown
    return NotPlaced(text, code=_code(error, text), retryable=False)


def _code(error: kite.KiteException, text: str) -> str:
    if _IP.search(text):
        return "IP_NOT_ALLOWED"
    if isinstance(error, kite.GeneralException):  # the SDK has no class for Margin-, Holding- and UserException
        if _MARGIN.search(text):
            return "MARGIN"
        if _HOLDING.search(text):
            return "HOLDING"
        if error.code == 403:
            return "ACCOUNT"
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), "REFUSED")


def words(error: BaseException) -> str:
    """The broker's words, shortened."""
    text = " ".join(str(error).split())
    return text if len(text) <= WORDS else f"{text[:WORDS]}…"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it wraps: its cause, urllib3's reason, requests' arguments. Not its context, which may be
    an older trouble that was already dealt with."""
    seen: set[int] = set()
    open_: list[object] = [error]
    while open_:
        one = open_.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        open_ += [one.__cause__, getattr(one, "reason", None), *one.args]
