"""Writes the two generated parts of docs/an-orders-life.md: the state diagram and the outcome table, from the code that decides.

`python -m core.brokers.order_life_page` writes them; a test fails when the page differs. Never calls a broker.
"""

from __future__ import annotations

from pathlib import Path

import requests
from kiteconnect import exceptions as kite

from core.brokers.zerodha_classify import NeverWritten, classify
from core.errors import BrokerError, NotPlaced, SessionExpired
from core.trading.orders import TRANSITIONS
from core.trading.types import OrderStatus

PAGE = Path(__file__).resolve().parents[2] / "docs" / "an-orders-life.md"

WHY: dict[tuple[str, str], str] = {
    ("PENDING", "SUBMITTED"): "the broker gave an id",
    ("PENDING", "UNKNOWN"): "sent, no answer",
    ("PENDING", "REJECTED"): "refused, for certain",
    ("PENDING", "EXPIRED"): "too old, never sent",
    ("PENDING", "CANCELLED"): "stopped before it was sent",
    ("UNKNOWN", "SUBMITTED"): "its tag is in the book",
    ("UNKNOWN", "PENDING"): "absence proven: an exit's next send",
    ("UNKNOWN", "EXPIRED"): "absence proven: an entry",
    ("UNKNOWN", "REJECTED"): "a late answer refused it",
    ("UNKNOWN", "UNRESOLVED"): "its day is over, no proof",
    ("UNRESOLVED", "SUBMITTED"): "a person, or the book, shows it",
    ("UNRESOLVED", "EXPIRED"): "a person: never placed (entry)",
    ("UNRESOLVED", "PENDING"): "a person: never placed (exit)",
    ("SUBMITTED", "ACKED"): "the book shows it",
    ("PARTIALLY_FILLED", "PARTIALLY_FILLED"): "another fill",
    ("PARTIALLY_FILLED", "PENDING"): "an exit's next send: more to close",
}
"""Words on the arrows; the others speak for themselves."""

SAMPLES: tuple[tuple[str, BaseException, bool | None], ...] = (
    ("connection refused, no such host, connect timeout", requests.exceptions.ConnectTimeout("connect"), None),
    ("our deadline passed before the first byte", NeverWritten("past its deadline"), None),
    ("429 Too many requests", kite.NetworkException("Too many requests", code=429), None),
    ("403 TokenException", kite.TokenException("Incorrect api_key or access_token", code=403), None),
    ("400 InputException", kite.InputException("Invalid tradingsymbol", code=400), None),
    ("400 MarginException", kite.GeneralException("Insufficient funds. Required margin is 1", code=400), None),
    ("400, an address that is not allowed", kite.PermissionException("IP is not allowed to place", code=403), None),
    ("400 OrderException, other words", kite.OrderException("Trading is blocked", code=400), None),
    ('400 that says "timed out", "try again", "processed"', kite.OrderException("Request timed out", code=400), None),
    ("500 with any error type", kite.GeneralException("Something went wrong", code=500), None),
    ("502, 503, 504, an HTML page, an empty or torn body", kite.DataException("Unknown Content-Type", code=502), None),
    ("read timeout after bytes left", requests.exceptions.ReadTimeout("read"), True),
    ("connection reset after bytes left", requests.exceptions.ConnectionError("reset by peer"), True),
)


def states() -> str:
    """The transition table as a diagram (Mermaid)."""
    rows = ["```mermaid", "stateDiagram-v2", "    [*] --> PENDING"]
    for before, afters in TRANSITIONS.items():
        for after in sorted(afters, key=list(OrderStatus).index):
            why = WHY.get((before.value, after.value))
            rows.append(f"    {before} --> {after}" + (f" : {why.replace(':', ' -')}" if why else ""))
        if not afters:
            rows.append(f"    {before} --> [*]")
    return "\n".join([*rows, "```"])


def outcomes() -> str:
    """What each kind of answer to a send is classified as, and what we do: asked of the classifier itself."""
    rows = [
        "| what came back | class | code | what we do |",
        "|---|---|---|---|",
        "| an order id | placed | | `SUBMITTED` |",
    ]
    for told, error, written in SAMPLES:
        verdict = classify(error, written=written)
        code = f"`{verdict.code}`" if isinstance(verdict, NotPlaced) else ""
        rows.append(f"| {told} | {_kind(verdict)} | {code} | {_then(verdict)} |")
    rows.append("| a worker that died between claim and answer | unknown | | `UNKNOWN`: looked up by its tag |")
    return "\n".join(rows)


def _kind(verdict: BrokerError) -> str:
    return "not placed, for certain" if isinstance(verdict, NotPlaced) else "unknown"


def _then(verdict: BrokerError) -> str:
    if isinstance(verdict, SessionExpired):
        return "the claim is given back; waits for `alpha-panda login`, an entry until it is too old"
    if not isinstance(verdict, NotPlaced):
        return "`UNKNOWN`: looked up by its tag"
    if verdict.retryable:
        return "the claim is given back; Temporal tries again, an entry until it is too old"
    return "`REJECTED` with these words"


PARTS = {"states": states, "outcomes": outcomes}


def page(text: str) -> str:
    """The page with its generated parts made anew."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: written by python -m core.brokers.order_life_page -->\n", f"<!-- /{name} -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{PAGE.name} has no place for {name}")
        text = f"{head}{begin}{make()}\n{end}{tail}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
