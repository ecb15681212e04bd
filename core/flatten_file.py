"""The file that `alpha-panda flatten --direct` keeps of what it sends: one JSON line a fact, on disk before a byte leaves.

Only ever appended to. Reconciliation books these sends from it. A line torn by a crash was never on disk, so its send never left.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from core import logging
from core.clock import trading_day, utc_now
from core.errors import StopTheStart
from core.trading.orders import SeenFill
from core.trading.types import Exchange, Product, Side

FOLDER = "flatten"

log = logging.get(__name__)


class Outcome(StrEnum):
    """What is known of a send. Only ABSENT and REFUSED say that nothing is at the broker."""

    SENDING = "SENDING"
    """The line is on disk; whether the send left only the book can tell."""
    SENT = "SENT"
    REFUSED = "REFUSED"
    ABSENT = "ABSENT"
    ENDED = "ENDED"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SendLine(_Line):
    """An exit about to leave. Quantity in units, times UTC; past `deadline_at` no byte may leave."""

    tag: str
    at: datetime
    deadline_at: datetime
    account: str
    target: str
    trading_day: date
    exchange: Exchange
    tradingsymbol: str
    instrument_token: int
    product: Product
    side: Side
    quantity: int


class SeenLine(_Line):
    """Orders that the day's book has shown: a later book without one of them is no evidence."""

    at: datetime
    broker_order_ids: tuple[str, ...]


class OutcomeLine(_Line):
    """What became of a send. `trades` and `status` are the broker's own, once it ended there."""

    tag: str
    at: datetime
    outcome: Outcome
    broker_order_id: str | None = None
    said: str = ""
    status: str | None = None
    filled_quantity: int = 0
    trades: tuple[SeenFill, ...] = ()


@dataclass(frozen=True, slots=True)
class FlattenSend:
    """One send with the last that is known of it."""

    line: SendLine
    outcome: Outcome = Outcome.SENDING
    broker_order_id: str | None = None
    said: str = ""
    status: str | None = None
    filled_quantity: int = 0
    trades: tuple[SeenFill, ...] = ()

    @property
    def key(self) -> tuple[str, Product]:
        return f"{self.line.exchange}:{self.line.tradingsymbol}", self.line.product

    @property
    def is_open(self) -> bool:
        """Something of it may still be taken at the broker."""
        return self.outcome in {Outcome.SENDING, Outcome.SENT}


def new_tag() -> str:
    """A tag of its own for every send: 20 characters of [A-Z2-7], never used before."""
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(20))


def read_sends(home: Path) -> list[FlattenSend]:
    """Every send of every flatten ever run in this home folder, oldest first, with the last that is known of each."""
    folder = home / "var" / FOLDER
    return [send for path in sorted(folder.glob("*.jsonl")) for send in _fold(_lines(path))]


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    for number, text in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found = json.loads(text)
        except ValueError:
            if text.strip():
                log.warning("a torn line: its send never left", file=path.name, line=number)
            continue
        if isinstance(found, dict):
            yield found


def _fold(lines: Iterable[dict[str, Any]]) -> list[FlattenSend]:
    sends: dict[str, FlattenSend] = {}
    for found in lines:
        try:
            if found.get("kind") == "send":
                line = SendLine.model_validate(found)
                sends.setdefault(line.tag, FlattenSend(line))
            elif found.get("kind") == "outcome":
                news = OutcomeLine.model_validate(found)
                if news.tag in sends:
                    sends[news.tag] = _told(sends[news.tag], news)
        except ValidationError as error:
            log.warning("a line of a flatten file makes no sense", fields=str(error.errors(include_input=False)))
    return list(sends.values())


def _shown(lines: Iterable[dict[str, Any]]) -> set[str]:
    """Broker orders of the day that these lines know of."""
    shown: set[str] = set()
    for found in lines:
        if found.get("kind") == "seen":
            shown |= {str(name) for name in found.get("broker_order_ids", ())}
        elif found.get("kind") == "outcome" and found.get("broker_order_id"):
            shown.add(str(found["broker_order_id"]))
    return shown


def _told(send: FlattenSend, news: OutcomeLine) -> FlattenSend:
    return replace(
        send,
        outcome=news.outcome,
        broker_order_id=news.broker_order_id or send.broker_order_id,
        said=news.said,
        status=news.status,
        filled_quantity=news.filled_quantity,
        trades=news.trades,
    )


class FlattenFile:
    """Today's file of one account, held by one process: `with FlattenFile(var, account, target) as file`."""

    def __init__(self, var: Path, account: str, target: str) -> None:
        self.account, self.target = account, target
        self._folder = var / FOLDER
        self.path = self._folder / f"{target}-{account}-{trading_day(utc_now())}.jsonl"
        self._handle = -1

    def __enter__(self) -> FlattenFile:
        """Raises StopTheStart where another flatten of the account runs."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise StopTheStart(f"Another flatten of {self.account} is running: it holds {self.path}.") from None
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def sends(self) -> list[FlattenSend]:
        return _fold(_lines(self.path))

    def seen(self) -> set[str]:
        """Every broker order that any run of this day has met."""
        return _shown(_lines(self.path))

    def saw(self, broker_order_ids: Sequence[str]) -> None:
        """Keep orders met for the first time."""
        if broker_order_ids:
            self._append("seen", SeenLine(at=utc_now(), broker_order_ids=tuple(broker_order_ids)))

    def send(
        self, *, exchange: Exchange, tradingsymbol: str, instrument_token: int, product: Product, side: Side,
        quantity: int, deadline_s: float,
    ) -> FlattenSend:  # fmt: skip
        """Write the send; it is on disk when this returns, and only then may it leave. Raises OSError where it cannot be."""
        now = utc_now()
        line = SendLine(
            tag=new_tag(), at=now, deadline_at=now + timedelta(seconds=deadline_s), account=self.account,
            target=self.target, trading_day=trading_day(now), exchange=exchange, tradingsymbol=tradingsymbol,
            instrument_token=instrument_token, product=product, side=side, quantity=quantity,
        )  # fmt: skip
        self._append("send", line)
        return FlattenSend(line)

    def outcome(self, tag: str, outcome: Outcome, **known: Any) -> None:
        """Write what became of a send."""
        self._append("outcome", OutcomeLine(tag=tag, at=utc_now(), outcome=outcome, **known))

    def _append(self, kind: str, line: _Line) -> None:
        text = json.dumps({"kind": kind} | line.model_dump(mode="json"))
        size = os.fstat(self._handle).st_size
        torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"
        data = (("\n" if torn else "") + text + "\n").encode()
        while data:
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)
