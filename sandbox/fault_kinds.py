"""The catalogue of faults: what each kind does, where it can fire, which parameters it takes, who says Zerodha does it.

Facts only, read by the parser, the documentation and its test. It never injects anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    """Every way in which the sandbox can fail on demand."""

    ANSWER_LOST = "answer_lost"
    REQUEST_LOST = "request_lost"
    SLOW_ANSWER = "slow_answer"
    SLOW_ACCEPT = "slow_accept"
    RESET_BEFORE_READ = "reset_before_read"
    RESET_AFTER_ACCEPT = "reset_after_accept"
    RESET_MID_BODY = "reset_mid_body"
    HTTP_429 = "http_429"
    HTTP_502 = "http_502"
    HTTP_503 = "http_503"
    HTTP_504 = "http_504"
    HTML_BODY = "html_body"
    EMPTY_BODY = "empty_body"
    TRUNCATED_BODY = "truncated_body"
    TIMED_OUT_400 = "timed_out_400"
    SESSION_KILLED = "session_killed"
    ERROR = "error"
    ERROR_WITHOUT_TYPE = "error_without_type"
    SANDBOX_KILLED = "sandbox_killed"
    EMPTY_BOOK = "empty_book"
    FOREIGN_BOOK = "foreign_book"
    STALE_BOOK = "stale_book"
    HISTORY_DISORDER = "history_disorder"
    LATE_IN_BOOK = "late_in_book"
    STUCK_RECEIVED = "stuck_received"
    REJECT_AFTER_OPEN = "reject_after_open"
    PARTIAL_THEN_CANCEL = "partial_then_cancel"
    FILL_RACES_CANCEL = "fill_races_cancel"
    FILL_AFTER_CANCELLED = "fill_after_cancelled"
    TRADES_LAG = "trades_lag"
    MODIFIED_IN_APP = "modified_in_app"
    CANCELLED_IN_APP = "cancelled_in_app"
    RMS_SQUARE_OFF = "rms_square_off"
    FOREIGN_ORDER = "foreign_order"
    FOREIGN_POSITION = "foreign_position"
    DAY_ROLLED = "day_rolled"
    UPDATE_LOST = "update_lost"
    UPDATE_DUPLICATED = "update_duplicated"
    UPDATE_REORDERED = "update_reordered"
    UPDATE_DELAYED = "update_delayed"
    SOCKET_MUTE = "socket_mute"
    SOCKET_RESET = "socket_reset"
    SOCKET_REFUSED = "socket_refused"
    SOCKET_GARBLED = "socket_garbled"
    CLOCK_SKEW = "clock_skew"


class Family(StrEnum):
    """What a rule of a kind looks at."""

    ANSWER = "answer"
    """one HTTP request; chosen by route, and by order where the request names one"""

    VIEW = "view"
    """one reading of book, trades or history: what is shown differs from what is so"""

    ORDER = "order"
    """one order, at its acceptance (or at the moment the kind names)"""

    ACCOUNT = "account"
    """nothing but the clock: fires once, `after_s` after the rule was given"""

    UPDATE = "update"
    """one order update on one channel"""

    SOCKET = "socket"
    """one frame, one handshake or one socket of the ticker"""


@dataclass(frozen=True)
class KindSpec:
    """One row of the catalogue. `defaults` name every parameter the kind reads; None means it may be left out."""

    family: Family
    what: str
    source: str
    route: str | None = None
    """The routes it fires on unless the rule names others."""

    defaults: dict[str, Any] = field(default_factory=dict)

    def example(self, kind: FaultKind) -> dict[str, Any]:
        """A rule of this kind as one would write it."""
        return {"kind": str(kind), **_EXAMPLES.get(kind, _EXAMPLE_OF[self.family])}


_EXAMPLE_OF: dict[Family, dict[str, Any]] = {
    Family.ANSWER: {"rate": 0.02},
    Family.VIEW: {"for_s": 5},
    Family.ORDER: {"rate": 0.05, "delay_s": 1},
    Family.ACCOUNT: {"after_s": 60},
    Family.UPDATE: {"rate": 0.1, "channel": "frame"},
    Family.SOCKET: {"count": 1, "after_s": 30},
}
_EXAMPLES: dict[FaultKind, dict[str, Any]] = {
    FaultKind.SLOW_ANSWER: {"rate": 0.02, "delay_s": 12},
    FaultKind.SLOW_ACCEPT: {"nth": 10, "delay_s": 12},
    FaultKind.HTTP_429: {"nth": 5},
    FaultKind.HTTP_502: {"rate": 0.02, "accepted": True},
    FaultKind.TRUNCATED_BODY: {"route": "orders", "rate": 0.05},
    FaultKind.TIMED_OUT_400: {"tag": "AB12*", "accepted": True},
    FaultKind.SESSION_KILLED: {"route": "*", "nth": 200},
    FaultKind.ERROR: {"error_type": "MarginException", "message": "Insufficient funds.", "rate": 0.01},
    FaultKind.SANDBOX_KILLED: {"nth": 100, "accepted": True},
    FaultKind.EMPTY_BOOK: {"after_s": 20, "for_s": 10},
    FaultKind.FOREIGN_BOOK: {"nth": 3, "user_id": "ZZ0001"},
    FaultKind.STALE_BOOK: {"rate": 0.1},
    FaultKind.HISTORY_DISORDER: {"rate": 0.5},
    FaultKind.LATE_IN_BOOK: {"rate": 0.05, "delay_s": 0.1, "delay_max_s": 60},
    FaultKind.PARTIAL_THEN_CANCEL: {"rate": 0.02, "quantity": 3},
    FaultKind.FILL_RACES_CANCEL: {"rate": 0.5},
    FaultKind.FILL_AFTER_CANCELLED: {"rate": 0.2, "delay_s": 2},
    FaultKind.MODIFIED_IN_APP: {"symbol": "NSE:INFY", "now": True, "delay_s": 0, "quantity": 5},
    FaultKind.CANCELLED_IN_APP: {"symbol": "NSE:INFY", "now": True, "delay_s": 0},
    FaultKind.RMS_SQUARE_OFF: {"symbol": "NSE:INFY", "now": True},
    FaultKind.FOREIGN_ORDER: {"symbol": "NSE:SBIN", "now": True, "side": "SELL", "quantity": 9, "product": "MIS"},
    FaultKind.FOREIGN_POSITION: {"symbol": "NSE:TCS", "quantity": -5, "product": "MIS", "price": 3000},
    FaultKind.UPDATE_DUPLICATED: {"rate": 0.1, "copies": 2},
    FaultKind.UPDATE_DELAYED: {"rate": 0.1, "delay_s": 0.5, "delay_max_s": 20},
    FaultKind.SOCKET_MUTE: {"count": 1, "after_s": 30, "delay_s": 15},
    FaultKind.CLOCK_SKEW: {"rate": 0.001, "skew_s": -60},
}

_ASSUMED = "assumed"
_LOST = "kite.trade/forum/discussion/9602, /4827, /8124 (orders live although the answer never came)"
_OMS_DOWN = "kite.trade/docs/connect/v3/exceptions; kite.trade/forum comment/41029"
_UPDATES = "kite.trade/forum/discussion/4217, /9855, comment/33954, comment/33971"
_A, _V, _O, _U, _S = Family.ANSWER, Family.VIEW, Family.ORDER, Family.UPDATE, Family.SOCKET
_PLACE = "order.place"

CATALOGUE: dict[FaultKind, KindSpec] = {
    FaultKind.ANSWER_LOST: KindSpec(
        _A,
        "The request is carried out; no byte of the answer comes. The connection closes after `delay_s`.",
        _LOST, _PLACE, {"delay_s": 30.0},
    ),
    FaultKind.REQUEST_LOST: KindSpec(
        _A,
        "The request is read and never carried out; no answer. The connection closes after `delay_s`.",
        _LOST, _PLACE, {"delay_s": 30.0},
    ),
    FaultKind.SLOW_ANSWER: KindSpec(
        _A,
        "Carried out at once, answered `delay_s` later: past the client's deadline if that is shorter.",
        "kite.trade/forum/discussion/9602", _PLACE, {"delay_s": 10.0},
    ),
    FaultKind.SLOW_ACCEPT: KindSpec(
        _A,
        "Carried out only after `delay_s`, whether the client still waits or not.",
        "kite.trade/forum comment/41029 (orders processed minutes late)", _PLACE, {"delay_s": 10.0},
    ),
    FaultKind.RESET_BEFORE_READ: KindSpec(
        _A, "TCP reset before anything is carried out.", _ASSUMED, _PLACE,
    ),
    FaultKind.RESET_AFTER_ACCEPT: KindSpec(
        _A, "Carried out, then TCP reset instead of an answer.", _LOST, _PLACE,
    ),
    FaultKind.RESET_MID_BODY: KindSpec(
        _A, "Carried out; status, headers and half of the body are sent, then TCP reset.", _ASSUMED, _PLACE,
    ),
    FaultKind.HTTP_429: KindSpec(
        _A,
        "429 NetworkException `Too many requests`; never carried out.",
        "kite.trade/docs/connect/v3/exceptions; kite.trade/forum/discussion/4540, /11404", _PLACE, {"message": None},
    ),
    FaultKind.HTTP_502: KindSpec(
        _A, "502 DataException. `accepted` says whether the request was carried out.", _OMS_DOWN, _PLACE,
        {"accepted": False, "message": None},
    ),
    FaultKind.HTTP_503: KindSpec(
        _A, "503 NetworkException. `accepted` as above.", _OMS_DOWN, _PLACE, {"accepted": False, "message": None},
    ),
    FaultKind.HTTP_504: KindSpec(
        _A, "504 NetworkException. `accepted` as above.", _OMS_DOWN, _PLACE, {"accepted": True, "message": None},
    ),
    FaultKind.HTML_BODY: KindSpec(
        _A, "An HTML error page with status `status`. `accepted` as above.",
        "kite.trade/forum comment/41029; the SDK's own handling of non-JSON bodies", _PLACE,
        {"accepted": True, "status": 502},
    ),
    FaultKind.EMPTY_BODY: KindSpec(
        _A, "Status `status`, Content-Type JSON, no body. `accepted` as above.", _ASSUMED, _PLACE,
        {"accepted": True, "status": 200},
    ),
    FaultKind.TRUNCATED_BODY: KindSpec(
        _A, "Carried out; the true answer's first half as if it were whole. On `market.instruments` half a dump.",
        _ASSUMED, _PLACE,
    ),
    FaultKind.TIMED_OUT_400: KindSpec(
        _A, "HTTP 400 OrderException `Order request timed out`. `accepted` as above.",
        "kite.trade/forum/discussion/9215", _PLACE, {"accepted": True, "message": None},
    ),
    FaultKind.SESSION_KILLED: KindSpec(
        _A, "The access token dies (sockets close); this request and all after it get 403 TokenException until a login.",
        "kite.trade/docs/connect/v3/user; kite.trade/forum comment/40134, comment/52288", _PLACE,
    ),
    FaultKind.ERROR: KindSpec(
        _A, "Kite's error envelope with `error_type`, `message` and the type's usual (or the given) `status`.",
        "kite.trade/docs/connect/v3/exceptions; PermissionException for a foreign IP: kite.trade/forum/discussion/15912",
        _PLACE, {"error_type": "GeneralException", "accepted": False, "status": None, "message": None},
    ),
    FaultKind.ERROR_WITHOUT_TYPE: KindSpec(
        _A, "An error envelope without `error_type`: the SDK raises TypeError.",
        "seen in the SDK's parser (kiteconnect 5.2.2), the answer itself is assumed", _PLACE,
        {"accepted": True, "status": 500, "message": None},
    ),
    FaultKind.SANDBOX_KILLED: KindSpec(
        _A, "The sandbox kills itself (SIGKILL) before or, with `accepted`, after carrying the request out. "
        "Whoever supervises it brings it back; its state is on disk.", _ASSUMED, _PLACE, {"accepted": True},
    ),
    FaultKind.EMPTY_BOOK: KindSpec(
        _V, "GET /orders (or the route named) answers an empty list.",
        "kite.trade/forum comment/41029 (books that lag or fail in OMS trouble); the empty list is assumed", "orders",
    ),
    FaultKind.FOREIGN_BOOK: KindSpec(
        _V, "GET /orders answers the book of user `user_id`: that account's rows, none of ours.", _ASSUMED, "orders",
        {"user_id": "ZZ0001"},
    ),
    FaultKind.STALE_BOOK: KindSpec(
        _V, "GET /orders shows the orders (those the rule names, or all) one state behind where they stand.",
        "kite.trade/forum/discussion/9855 (updates out of order); for the book assumed", "orders",
    ),
    FaultKind.HISTORY_DISORDER: KindSpec(
        _V, "GET /orders/{id} lists the states in a shuffled order.", _ASSUMED, "order.info",
    ),
    FaultKind.LATE_IN_BOOK: KindSpec(
        _O, "The order is in no book, history or trade list until `delay_s` (up to `delay_max_s`) after its acceptance.",
        "kite.trade/forum/discussion/8124, comment/41029", None, {"delay_s": 2.0, "delay_max_s": None},
    ),
    FaultKind.STUCK_RECEIVED: KindSpec(
        _O, "The order stays in PUT ORDER REQ RECEIVED for `delay_s`.", "kite.trade/forum comment/41029 (90 s)", None,
        {"delay_s": 10.0, "delay_max_s": None},
    ),
    FaultKind.REJECT_AFTER_OPEN: KindSpec(
        _O, "OPEN for `delay_s` without a fill, then REJECTED by the exchange.",
        "kite.trade/docs/connect/v3/orders (rejections by the exchange)", None,
        {"delay_s": 0.5, "delay_max_s": None, "message": None},
    ),
    FaultKind.PARTIAL_THEN_CANCEL: KindSpec(
        _O, "At most `quantity` (half of it, if not given) fills; `delay_s` later the rest is CANCELLED. Orders of 2 units and more.",
        "kite.trade/docs/connect/v3/orders (cancelled with filled_quantity > 0)", None,
        {"delay_s": 0.5, "delay_max_s": None, "quantity": None},
    ),
    FaultKind.FILL_RACES_CANCEL: KindSpec(
        _O, "A cancellation is accepted and the order fills (`quantity`, or whole) before the exchange takes it.",
        "kite.trade/docs/connect/v3/orders; the race itself is assumed", None, {"quantity": None},
    ),
    FaultKind.FILL_AFTER_CANCELLED: KindSpec(
        _O, "`delay_s` after CANCELLED a fill of `quantity` (or all that was open) is booked; the status stays CANCELLED.",
        _ASSUMED, None, {"delay_s": 1.0, "delay_max_s": None, "quantity": None},
    ),
    FaultKind.TRADES_LAG: KindSpec(
        _O, "The order's fills are missing from the trade lists for `delay_s` after each, while its filled_quantity has them.",
        _ASSUMED, None, {"delay_s": 2.0, "delay_max_s": None},
    ),
    FaultKind.MODIFIED_IN_APP: KindSpec(
        _O, "`delay_s` after it went live somebody modifies the order in the Kite app, to `price` and `quantity` "
        "(else its price moves one tick against it).",
        "kite.trade/docs/connect/v3/postbacks (orders of the user from any platform)", None,
        {"delay_s": 0.5, "delay_max_s": None, "price": None, "quantity": None},
    ),
    FaultKind.CANCELLED_IN_APP: KindSpec(
        _O, "`delay_s` after it went live somebody cancels the order in the Kite app.",
        "kite.trade/docs/connect/v3/postbacks (orders of the user from any platform)", None,
        {"delay_s": 0.5, "delay_max_s": None},
    ),
    FaultKind.RMS_SQUARE_OFF: KindSpec(
        _O, "`delay_s` later the broker's risk desk closes the net position in that instrument and product, without our tag.",
        "support.zerodha.com (MIS square-off at 15:20); its row's look is assumed", None,
        {"delay_s": 0.5, "delay_max_s": None, "product": None},
    ),
    FaultKind.FOREIGN_ORDER: KindSpec(
        _O, "An order from the Kite app without our tag: `side`, `quantity`, `product`, LIMIT at `price` or, without, at the market.",
        "kite.trade/docs/connect/v3/postbacks (orders of the user from any platform)", None,
        {"delay_s": 0.0, "side": "BUY", "quantity": 1, "product": "MIS", "price": None},
    ),
    FaultKind.FOREIGN_POSITION: KindSpec(
        Family.ACCOUNT, "A position carried over from before: signed `quantity` of `symbol` in `product` at `price` (else the last).",
        "kite.trade/docs/connect/v3/portfolio (overnight_quantity)", None,
        {"quantity": 1, "product": "MIS", "price": None},
    ),
    FaultKind.DAY_ROLLED: KindSpec(
        Family.ACCOUNT, "The trading day ends: open orders are cancelled, the book is emptied, positions carried.",
        "kite.trade/docs/connect/v3/orders (the book is the day's)",
    ),
    FaultKind.UPDATE_LOST: KindSpec(_U, "The update is never sent.", _UPDATES),
    FaultKind.UPDATE_DUPLICATED: KindSpec(
        _U, "The update is sent `copies` times more.", _UPDATES, None, {"copies": 1},
    ),
    FaultKind.UPDATE_REORDERED: KindSpec(
        _U, "The update waits for the next one of the channel and comes after it (or alone after `delay_s`).",
        _UPDATES, None, {"delay_s": 5.0},
    ),
    FaultKind.UPDATE_DELAYED: KindSpec(
        _U, "The update comes `delay_s` (up to `delay_max_s`) late.", _UPDATES, None,
        {"delay_s": 5.0, "delay_max_s": None},
    ),
    FaultKind.SOCKET_MUTE: KindSpec(
        _S, "Every socket stays open and says nothing, not even a heartbeat, for `delay_s`; ticks and updates of that time are lost.",
        "github.com/zerodha/pykiteconnect/issues/229, /237", "ticker", {"delay_s": 15.0},
    ),
    FaultKind.SOCKET_RESET: KindSpec(
        _S, "The socket ends in a TCP reset instead of its next frame.", "kite.trade/forum/discussion/8996", "ticker",
    ),
    FaultKind.SOCKET_REFUSED: KindSpec(
        _S, "The handshake is refused with 403 although the token is good.",
        "kite.trade/docs/connect/v3/websocket (403 for a bad token); with a good one assumed", "ticker.handshake",
    ),
    FaultKind.SOCKET_GARBLED: KindSpec(
        _S, "A tick frame is cut in the middle of a packet.", _ASSUMED, "ticker",
    ),
    FaultKind.CLOCK_SKEW: KindSpec(
        _S, "The exchange timestamps of a tick frame are `skew_s` off (negative: stale).", _ASSUMED, "ticker",
        {"skew_s": -60.0},
    ),
}  # fmt: skip

STATUS_OF = {
    # error_type: HTTP status it usually comes with (kite.trade/docs/connect/v3/exceptions)
    "TokenException": 403,
    "UserException": 403,
    "PermissionException": 403,
    "InputException": 400,
    "OrderException": 400,
    "MarginException": 400,
    "HoldingException": 400,
    "NetworkException": 503,
    "DataException": 502,
    "GeneralException": 500,
}
