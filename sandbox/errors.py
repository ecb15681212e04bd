"""Kite's refusals: status code, error_type and the words. Texts marked (real) are Zerodha's own, the others are ours."""

from __future__ import annotations

from decimal import Decimal

from starlette.responses import Response

from sandbox.wire import dumps


class SandboxStartError(Exception):
    """The sandbox cannot start; the message says why and what to do."""


class KiteError(Exception):
    """An error answer: HTTP status, Kite's error_type, message for the trader."""

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message

    def response(self) -> Response:
        body = {"status": "error", "message": self.message, "data": None, "error_type": self.error_type}
        return Response(dumps(body), status_code=self.status, media_type="application/json")


def bad_input(message: str) -> KiteError:
    return KiteError(400, "InputException", message)


def missing(field: str) -> KiteError:
    return bad_input(f"Missing or empty field `{field}`")


def invalid(field: str) -> KiteError:
    return bad_input(f"Invalid `{field}`.")


def bad_order(message: str) -> KiteError:
    return KiteError(400, "OrderException", message)


def bad_token() -> KiteError:
    return KiteError(403, "TokenException", "Incorrect `api_key` or `access_token`.")  # real


def dead_request_token() -> KiteError:
    return KiteError(403, "TokenException", "Token is invalid or has expired.")  # real


def bad_checksum() -> KiteError:
    return KiteError(403, "TokenException", "Invalid `checksum`.")  # real


def too_many_requests() -> KiteError:
    return KiteError(429, "NetworkException", "Too many requests")  # real


def too_many_orders() -> KiteError:
    return KiteError(429, "NetworkException", "Maximum allowed order requests exceeded.")  # real


def too_many_modifications() -> KiteError:
    return bad_order("Maximum allowed order modifications exceeded.")  # real


def no_market_protection() -> KiteError:
    return bad_input(  # real
        "Market orders without market protection are not allowed via API. "
        "Please set market protection or use a Limit order."
    )


def off_tick(tick_size: Decimal) -> KiteError:
    return bad_input(  # real
        f"Tick size for this script is {tick_size:.2f}. Kindly enter price in the multiple of tick size for this script"
    )


def being_processed(what: str) -> KiteError:
    """`what` is "cancelled" or "modified"."""
    return bad_order(f"Order cannot be {what} as it is being processed. Try later.")  # real


def unknown_instrument() -> KiteError:
    return bad_input("The instrument you are placing an order for has either expired or does not exist.")


def no_such_order() -> KiteError:
    return KiteError(404, "GeneralException", "Couldn't find that `order_id`.")


def no_holding(symbol: str, wanted: int, held: int) -> KiteError:
    return KiteError(
        400, "HoldingException", f"Insufficient holdings of {symbol}: {wanted} asked to be sold, {held} available."
    )


def method_not_allowed() -> KiteError:
    return KiteError(405, "GeneralException", "Requested method not allowed")  # real


def no_route() -> KiteError:
    return KiteError(404, "GeneralException", "Route not found")
