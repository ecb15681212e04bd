"""The Zerodha broker through the official SDK, run in threads: every call is wrapped, bounded and classified.

Never sends after its deadline, never sends twice, and never calls an order refused that may exist.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

from kiteconnect import KiteConnect

from core import logging
from core.brokers import zerodha_rows as rows
from core.brokers.kite_http import kite_client
from core.brokers.port import Book, BookRow, BrokerPosition, BrokerProfile, Funds, PlaceRequest, Trade
from core.brokers.zerodha_classify import classify
from core.brokers.zerodha_http import Call, CheckedAdapter, present
from core.brokers.zerodha_session import Session, SessionWatcher
from core.clock import trading_day, utc_now
from core.config import Settings
from core.errors import BrokerError, NotPlaced, OutcomeUnknown, SessionExpired, Transient
from core.trading.commands import MODIFICATIONS
from core.trading.types import Broker, OrderType

T = TypeVar("T")

TOTAL_S = 7.0
"""Most one call may take, from the wait for a thread to the last byte of the answer, in seconds."""

THREADS = 16
VARIETY = "regular"

AUTO_PROTECTION = -1
"""MARKET and SL-M orders without market protection are refused since 2026-04-01 (kite.trade/docs/connect/v3/orders)."""

LIMITS = BrokerProfile(
    per_second=8,
    per_second_reserved=2,
    per_minute=400,
    per_minute_reserved=80,
    per_day=5000,
    per_day_reserved=1000,
    modifications=MODIFICATIONS,
    read_spacing_s=0.25,
    delivers=True,
    commands_per_second=2,
)
"""Zerodha's order limits, with room to spare in the second (10 there), and what only exits and cancels may use. Reads of orders and
trades (4 a second each) leave 2 of the 10 a second that all other endpoints share for cancels and modifies."""

PART = "zerodha"

log = logging.get(__name__)


def limits(settings: Settings) -> BrokerProfile:
    """Zerodha's, except on `local`: there the day has as many orders as the sandbox was told to take, a fifth of them kept."""
    if not settings.simulated:
        return LIMITS
    day = settings.sandbox_orders_per_day
    return replace(LIMITS, per_day=day, per_day_reserved=day // 5)


class ZerodhaTrader:
    """The port of the Zerodha account. Waits for no session: without one, calls raise SessionExpired at once."""

    broker = Broker.ZERODHA

    def __init__(self, settings: Settings) -> None:
        self.profile = limits(settings)
        self._settings = settings
        self._watcher = SessionWatcher(settings)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="zerodha")
        self._client: tuple[Session, KiteConnect] | None = None
        self._account: tuple[Session, str] | None = None

    async def start(self) -> None:
        """Nothing to do: a session that is missing now may come later."""

    async def close(self) -> None:
        """Let go of the threads; a call that still hangs ends at its own deadline."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def waits_for(self) -> str | None:
        """The login, while there is no session or Zerodha refused the one there is."""
        return None if self._watcher.session is not None else "no valid Zerodha session: run `alpha-panda login`"

    async def account(self) -> str:
        """The user id GET /user/profile reports, asked once a session."""
        session = self._session("profile")
        if self._account is None or self._account[0] is not session:
            profile = await self._read("profile", lambda kite: kite.profile())
            self._account = (session, _text(profile, "user_id"))
        return self._account[1]

    async def place(self, request: PlaceRequest) -> str:
        """Send once. A duplicate tag is a second order: Zerodha knows no idempotency."""
        answer = await self._call(
            f"place {request.tag}",
            lambda kite: kite.place_order(variety=VARIETY, **_order(request)),
            write_by=request.deadline,
            leaves=request.leaves,
        )
        if not answer or not isinstance(answer, str | int):
            raise OutcomeUnknown(f"place {request.tag}: the answer names no order: {answer!r}")
        return str(answer)

    async def modify(
        self,
        broker_order_id: str,
        *,
        quantity: int | None,
        price: Decimal | None,
        trigger_price: Decimal | None,
        order_type: OrderType | None,
        deadline: float,
    ) -> None:
        """Ask for a change of a working order; the book tells what came of it. 25 an order at most."""
        changes: dict[str, Any] = {
            "quantity": quantity,
            "price": _plain(price),
            "trigger_price": _plain(trigger_price),
            "order_type": None if order_type is None else order_type.value,
        }
        if order_type in {OrderType.MARKET, OrderType.SL_M}:
            changes["market_protection"] = AUTO_PROTECTION
        await self._call(
            f"modify {broker_order_id}",
            lambda kite: kite.modify_order(VARIETY, broker_order_id, **changes),
            write_by=deadline,
        )

    async def cancel(self, broker_order_id: str, *, variety: str = VARIETY) -> None:
        """Ours are all of one variety; `variety` is for orders made in Kite (cover, iceberg, after market)."""
        await self._call(f"cancel {broker_order_id}", lambda kite: kite.cancel_order(variety, broker_order_id))

    async def book(self) -> Book:
        """The whole book, if it is one day's and this account's.

        Raises:
            Transient: also for a book that is not evidence: of another account, unreadable, or over the day's roll.
        """
        return await self._book()

    async def _book(self, wanted: Collection[str] | None = None) -> Book:
        """The book, or of it the rows of these orders."""
        account = await self.account()
        requested_at = utc_now()
        found = await self._read("orders", lambda kite: rows.book_rows(kite.orders(), account, wanted))
        received_at = utc_now()
        day = trading_day(requested_at)
        if trading_day(received_at) != day:
            raise Transient("orders: asked for before the day's roll and answered after it", part=PART)
        return Book(account, day, requested_at, received_at, found)

    async def orders(self, broker_order_ids: Sequence[str]) -> dict[str, BookRow]:
        wanted = set(broker_order_ids)
        if not wanted:
            return {}
        return {row.broker_order_id: row for row in (await self._book(wanted)).rows}

    async def trades(self, broker_order_ids: Sequence[str]) -> dict[str, tuple[Trade, ...]]:
        wanted = set(broker_order_ids)
        if not wanted:
            return {}
        found: dict[str, list[Trade]] = {}
        for trade in await self._read("trades", lambda kite: rows.trades(kite.trades(), wanted)):
            found.setdefault(trade.broker_order_id, []).append(trade)
        return {key: tuple(sorted(one, key=lambda t: (t.filled_at, t.trade_id))) for key, one in found.items()}

    async def positions(self) -> tuple[BrokerPosition, ...]:
        """Net positions; closed ones are left out."""
        return await self._read("positions", lambda kite: rows.positions(kite.positions()))

    async def left_out(self) -> tuple[str, ...]:
        """Working orders and open positions in words we do not trade in, which `book` and `positions` leave out: for a person."""
        orders = await self._read("orders", lambda kite: rows.odd_orders(kite.orders()))
        return orders + await self._read("positions", lambda kite: rows.odd_positions(kite.positions()))

    async def funds(self) -> Funds:
        return await self._read("margins", lambda kite: rows.funds(kite.margins(segment="equity")))

    # One call --------------------------------------------------------------------------------------------------

    def _session(self, what: str) -> Session:
        session = self._watcher.session
        if session is None:
            raise SessionExpired(f"{what}: {self.waits_for()}")
        return session

    def _kite(self, session: Session) -> KiteConnect:
        if self._client is None or self._client[0] is not session:
            kite = kite_client(self._settings, session, timeout_s=TOTAL_S)
            adapter = CheckedAdapter(pool_connections=4, pool_maxsize=THREADS)
            kite.reqsession.max_redirects = 0  # a redirected POST would be a second send
            kite.reqsession.trust_env = False  # no proxy, no .netrc: orders leave from our own address
            for scheme in ("http://", "https://"):
                kite.reqsession.mount(scheme, adapter)
            self._client = (session, kite)
        return self._client[1]

    async def _call(
        self,
        what: str,
        run: Callable[[KiteConnect], T],
        *,
        write_by: float | None = None,
        leaves: Callable[[], None] | None = None,
    ) -> T:
        """Run one SDK call in a thread, within TOTAL_S.

        Raises:
            NotPlaced, OutcomeUnknown, SessionExpired: as `classify` judges; a call not yet sent when time is up never is.
        """
        session = self._session(what)
        kite = self._kite(session)
        answer_by = time.monotonic() + TOTAL_S
        call = Call(what, min(answer_by, write_by or answer_by), answer_by, leaves)
        future = asyncio.get_running_loop().run_in_executor(self._threads, _in_thread, call, run, kite)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any more
        try:
            await asyncio.wait({future}, timeout=answer_by - time.monotonic())
        finally:
            written = call.give_up()
        if not future.done():
            future.cancel()
            if written:
                raise OutcomeUnknown(f"{what}: no answer within {TOTAL_S:g} s")
            raise NotPlaced(f"{what}: not sent within {TOTAL_S:g} s", code="NOT_SENT", retryable=True)
        try:
            return future.result()
        except Exception as error:
            verdict = classify(error, written=call.written)
            if isinstance(verdict, SessionExpired):
                self._watcher.refused(session)
            raise verdict from error

    async def _read(self, what: str, run: Callable[[KiteConnect], T]) -> T:
        """A call that changes nothing: whatever goes wrong, except a dead session, may be tried again."""
        try:
            return await self._call(what, run)
        except SessionExpired:
            raise
        except BrokerError as error:
            raise Transient(f"Zerodha {what}: {error}", part=PART) from error


def _in_thread(call: Call, run: Callable[[KiteConnect], T], kite: KiteConnect) -> T:
    with present(call):
        return run(kite)


def _order(request: PlaceRequest) -> dict[str, Any]:
    protected = request.order_type in {OrderType.MARKET, OrderType.SL_M}
    priced = request.order_type in {OrderType.LIMIT, OrderType.SL}
    stop = request.order_type in {OrderType.SL, OrderType.SL_M}
    return {
        "exchange": request.exchange.value,
        "tradingsymbol": request.tradingsymbol,
        "transaction_type": request.side.value,
        "quantity": request.quantity,
        "product": request.product.value,
        "order_type": request.order_type.value,
        "price": _plain(request.price) if priced else None,
        "trigger_price": _plain(request.trigger_price) if stop else None,
        "validity": request.validity.value,
        "tag": request.tag,
        "market_protection": AUTO_PROTECTION if protected else None,
    }


def _plain(price: Decimal | None) -> str | None:
    """A price as Kite reads it: no exponent, no trailing zeros."""
    if price is None:
        return None
    text = format(price, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(body: Any, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value:
        raise Transient(f"Zerodha: the answer has no {name}", part=PART)
    return value
