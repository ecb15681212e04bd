"""The order management system and the exchange behind it: accepts, advances, matches, ends orders. One account, one day.

Every change is on disk before anyone is told of it, in one transaction a step. It never invents a fill: each one comes from
`core.trading.matching` against the book of that moment, but for those a fault asks for by `force_fill`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Container
from datetime import date, datetime, timedelta
from decimal import Decimal

from core.trading.matching import Execution, match
from core.trading.types import OrderType, Side
from sandbox import errors
from sandbox.board import Board
from sandbox.config import SandboxConfig
from sandbox.instruments import Instrument
from sandbox.orders import API, UPDATE, Change, Order, OrderRequest, Status, ledger_entry, trade_row
from sandbox.portfolio import Portfolio
from sandbox.prices import Market
from sandbox.store import Store
from sandbox.wire import dumps, now

log = logging.getLogger("sandbox.exchange")
MAX_MODIFICATIONS = 25
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
"""Zerodha's 19-digit order ids count milliseconds from here, shifted left by 22 bits."""

Listener = Callable[[Order, str], None]


class Interference:
    """What may meddle with orders on their way. This one leaves them alone; `fault_orders` has the other."""

    def accepted(self, order: Order) -> None:
        """It has an id and is on disk."""

    def extra_latency(self, order: Order) -> float:
        """Seconds more in the present state."""
        return 0.0

    def went_live(self, order: Order) -> None:
        """The exchange has it."""

    def fill_limit(self, order: Order) -> int | None:
        """Most units that may fill now; None is no limit."""
        return None

    def filled(self, order: Order, quantity: int) -> None:
        """So much was just filled."""

    def before_cancelled(self, order: Order) -> None:
        """A cancellation is about to be taken by the exchange."""

    def ended(self, order: Order) -> None:
        """Called inside the transaction of the end."""


class Exchange:
    """The day's order book. Single-threaded: call only from the event loop."""

    def __init__(self, config: SandboxConfig, store: Store, board: Board, portfolio: Portfolio, day: date) -> None:
        self._config = config
        self._store = store
        self._board = board
        self.portfolio = portfolio
        self.day = day
        self.paused = bool(store.get("paused"))
        self.orders: dict[str, Order] = {}
        self.trades: list[bytes] = []
        self._trades_of: dict[str, list[bytes]] = {}
        self._working: dict[int, dict[str, Order]] = {}
        self._arriving: dict[str, Order] = {}
        self.halted = False
        counts = store.counts()
        self._order_count, self._trade_count = counts["orders"], counts["trades"]
        self._requests_today = int(store.get("requests_today") or 0)
        self._last_id = 0
        self._fill_caps: list[tuple[int | None, int]] = [(token, cap) for token, cap in store.get("fill_caps") or []]
        self._listener: Listener = lambda order, status: None
        self.faults: Interference = Interference()
        self._load()

    def listen(self, listener: Listener) -> None:
        """`listener(order, status)` is called after the commit, with the status Kite's postback carries."""
        self._listener = listener

    # What the trader asks -------------------------------------------------------------------------------------

    def place(self, request: OrderRequest, source: str = API) -> str:
        """Accept an order: on disk and in the ledger when this returns its id.

        Raises:
            KiteError: a CNC sale of more than is held.
        """
        if request.product == "CNC" and request.side == "SELL":
            held = self._free_to_sell(request)
            if request.quantity > held:
                raise errors.no_holding(request.tradingsymbol, request.quantity, held)
        at = now()
        self._order_count += 1
        terms = Change(
            request.order_type, request.validity, request.quantity, request.disclosed_quantity,
            request.price, request.trigger_price,
        )  # fmt: skip
        order = Order(
            self._next_id(at),
            self._order_count,
            self.day,
            self._config.user_id,
            request,
            Status.RECEIVED,
            terms,
            at,
            at,
            source=source,
        )
        with self._store.transaction():
            self._store.append_ledger(order.order_id, self.day, request.tag, ledger_entry(order))
            self._record(order, Status.RECEIVED, at)
        self.orders[order.order_id] = self._arriving[order.order_id] = order
        self.faults.accepted(order)
        self._later(order)
        return order.order_id

    def modify(self, order_id: str, change: Change) -> None:
        """Ask for new terms; they bind when the exchange has taken them, and a fill before that wins.

        Raises:
            KiteError: the order is not OPEN or TRIGGER PENDING, or was modified 25 times.
        """
        order = self.editable(order_id, "modified")
        if order.modifications >= MAX_MODIFICATIONS:
            raise errors.too_many_modifications()
        order.modifications += 1
        order.change = change
        self._commit(order, Status.MODIFY_VALIDATION_PENDING)
        self._later(order)

    def cancel(self, order_id: str) -> None:
        """Ask for the end of an order; a fill before the exchange took it wins.

        Raises:
            KiteError: the order is not OPEN or TRIGGER PENDING.
        """
        order = self.editable(order_id, "cancelled")
        self._commit(order, Status.CANCEL_PENDING)
        self._later(order)

    def editable(self, order_id: str, what: str) -> Order:
        """The order, if it can be modified or cancelled now."""
        order = self.orders.get(order_id)
        if order is None:
            raise errors.no_such_order()
        if order.status not in {Status.OPEN, Status.TRIGGER_PENDING}:
            raise errors.being_processed(what)
        return order

    def book_json(self, hidden: Container[str] = ()) -> bytes:
        """The day's book, without the orders whose ids are `hidden`."""
        rows = [order.row_json() for order in self.orders.values() if order.order_id not in hidden]
        return b"[" + b",".join(rows) + b"]"

    def history_json(self, order_id: str) -> bytes:
        if order_id not in self.orders:
            raise errors.no_such_order()
        return b"[" + b",".join(self._store.history(order_id)) + b"]"

    def trades_json(self, order_id: str | None = None) -> bytes:
        if order_id is not None and order_id not in self.orders:
            raise errors.no_such_order()
        rows = self.trades if order_id is None else self._trades_of.get(order_id, [])
        return b"[" + b",".join(rows) + b"]"

    # What the market does -------------------------------------------------------------------------------------

    def on_market(self, market: Market) -> None:
        """A market moved: look at every order resting there, oldest acceptance first."""
        working = self._working.get(market.token)
        if not working or self.paused:
            return
        for order in list(working.values()):
            self._look(order, market)

    def working_tokens(self) -> set[int]:
        return {token for token, orders in self._working.items() if orders}

    def set_paused(self, paused: bool) -> None:
        """A paused market takes orders and fills none."""
        self.paused = paused
        self._store.put("paused", paused)
        for token in self.working_tokens():
            self.on_market(self._board.market(token))

    def cap_next_fill(self, quantity: int, token: int | None) -> None:
        """The next execution (in that instrument) fills at most `quantity`; the rest rests until the next look."""
        self._fill_caps.append((token, quantity))
        self._store.put("fill_caps", self._fill_caps)

    def roll_day(self, day: date) -> None:
        """End the day: open orders are cancelled, the book is emptied, trades archived, positions carried."""
        at = now()
        ended: list[Order] = []
        with self._store.transaction():
            for order in self.orders.values():
                if not order.status.is_end:
                    order.status_message = "Cancelled by the exchange at the end of the day"
                    self._end(order, Status.CANCELLED, at)
                    ended.append(order)
            self._board.new_day(at)
            self._board_roll(day, at)
            self._store.put("portfolio", self.portfolio.state())
            self._store.put("day", day.isoformat())
            self._store.put("requests_today", 0)
        self.day, self._requests_today = day, 0
        self.orders, self.trades, self._trades_of, self._working, self._arriving = {}, [], {}, {}, {}
        for order in ended:
            self._listener(order, order.status)
        log.info("the trading day is now %s", day)

    def roll_day_now(self) -> None:
        """End the day before its time; the next one begins at once."""
        self.roll_day(self.day + timedelta(days=1))

    def count_request(self) -> int:
        """Count one placement request of the day, good or bad, durably; the number so far."""
        self._requests_today += 1
        self._store.put("requests_today", self._requests_today)
        return self._requests_today

    # An order's way -------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """After a restart: send on what was on its way, look again at what rests. Needs the running event loop."""
        for order in self.orders.values():
            if not order.status.is_end and order.status not in {Status.OPEN, Status.TRIGGER_PENDING}:
                self._later(order)
        for token in self.working_tokens():  # a kill may have come between OPEN and the first look
            self.on_market(self._board.market(token))

    def halt(self) -> None:
        """The server stops: what is on its way waits on disk for the next start."""
        self.halted = True

    def _later(self, order: Order) -> None:
        latency = self._config.step_latency + self.faults.extra_latency(order)
        asyncio.get_running_loop().call_later(latency, self._advance, order)

    def _advance(self, order: Order) -> None:
        """One step along PUT ORDER REQ RECEIVED → … → OPEN, or through a modification or a cancellation."""
        if self.halted:
            return
        match order.status:
            case Status.RECEIVED:
                self._commit(order, Status.VALIDATION_PENDING)
                self._later(order)
            case Status.VALIDATION_PENDING:
                if self._rms_passes(order):
                    self.portfolio.block(order)
                    self._commit(order, Status.OPEN_PENDING)
                    self._later(order)
            case Status.OPEN_PENDING:
                self._go_live(order)
            case Status.MODIFY_VALIDATION_PENDING:
                self._commit(order, Status.MODIFY_PENDING)
                self._later(order)
            case Status.MODIFY_PENDING:
                self._apply_change(order)
            case Status.CANCEL_PENDING:
                self.faults.before_cancelled(order)
                if not order.status.is_end:
                    self.finish(order, Status.CANCELLED)
            case _:  # filled or rolled away meanwhile
                return

    def _rms_passes(self, order: Order) -> bool:
        """The risk management system's look: circuit limits and margin. A refusal is a REJECTED row."""
        market, price = self._board.market(order.request.token), order.terms.price
        needed = self.portfolio.required(order.request, order.terms.quantity, price)
        available = self.portfolio.available()
        if price < market.lower_circuit:
            limit = Decimal(market.lower_circuit) / 100
            order.status_message = f"Your order price is lower than the current lower circuit limit of {limit:.2f}."
            order.status_message_raw = f"RMS:Rule: Check circuit limit including square off order exceeds: {limit:.2f}"
        elif price > market.upper_circuit:
            limit = Decimal(market.upper_circuit) / 100
            order.status_message = f"Your order price is higher than the current upper circuit limit of {limit:.2f}."
            order.status_message_raw = f"RMS:Rule: Check circuit limit including square off order exceeds: {limit:.2f}"
        elif needed > available:
            order.status_message = (
                f"Insufficient funds. Required margin is {needed:.2f} but available margin is {available:.2f}. "
                "Check the orderbook for open orders."
            )
            order.status_message_raw = (
                f"RMS:Margin Exceeds,Required:{needed:.2f}, Available:{available:.2f} for entity "
                f"account-{order.user_id} across exchange across segment across product "
            )
        else:
            return True
        self.finish(order, Status.REJECTED)
        return False

    def _go_live(self, order: Order) -> None:
        at = now()
        self._arriving.pop(order.order_id, None)
        order.accepted_at = order.exchange_at = at
        order.exchange_order_id = f"13{order.seq:014d}"
        stop = order.terms.order_type is OrderType.SL
        self._commit(order, Status.TRIGGER_PENDING if stop else Status.OPEN, at)
        self._working.setdefault(order.request.token, {})[order.order_id] = order
        self.faults.went_live(order)
        if not self.paused:
            self._look(order, self._board.market(order.request.token))

    def _apply_change(self, order: Order) -> None:
        change = order.change
        assert change is not None
        at = now()
        order.change = None
        if change.quantity <= order.filled:  # filled while the modification was on its way
            self._commit(order, self._resting_status(order), at)
            return
        worse_place = change.price != order.terms.price or change.quantity > order.terms.quantity
        order.terms, order.modified, order.accepted_at = change, True, at
        if change.order_type is OrderType.SL:
            order.triggered = False
        self.portfolio.block(order)
        with self._store.transaction():
            self._record(order, Status.MODIFIED, at)
            self._record(order, self._resting_status(order), at)
        self._listener(order, UPDATE)
        working = self._working[order.request.token]
        if worse_place:
            working[order.order_id] = working.pop(order.order_id)
        if not self.paused:
            self._look(order, self._board.market(order.request.token))

    def _look(self, order: Order, market: Market) -> None:
        """Match one live order against the book of this moment and book what comes of it."""
        limit = self.faults.fill_limit(order)
        if limit == 0:
            return
        at = now()
        resting, snapshot = order.resting(), market.snapshot(at)
        cap = next((entry for entry in self._fill_caps if entry[0] in {None, market.token}), None)
        limits = [each for each in (limit, cap[1] if cap else None) if each is not None]
        result = match(resting, snapshot, max_quantity=min(limits, default=None))
        newly_triggered = result.triggered and not order.triggered
        if not (result.executions or result.cancel_remainder or newly_triggered):
            return
        with self._store.transaction():
            if newly_triggered:
                order.triggered = True
                if order.status is Status.TRIGGER_PENDING:
                    self._record(order, Status.OPEN, at)
            if result.executions:
                if cap:
                    self._fill_caps.remove(cap)
                    self._store.put("fill_caps", self._fill_caps)
                self._fill(order, market, result.executions, at)
            if not order.pending:
                self._end(order, Status.COMPLETE, at)
            elif result.cancel_remainder:
                self._end(order, Status.CANCELLED, at)
            elif result.executions:
                self._record(order, order.status, at)
        if order.status.is_end:
            self._listener(order, order.status)
        elif result.executions:
            self._listener(order, UPDATE)
        if result.executions:
            self.faults.filled(order, order.filled - resting.filled_quantity)

    def force_fill(self, order: Order, quantity: int) -> None:
        """A fault fills it at the last price, or at its limit where that is better; a cancelled one stays CANCELLED."""
        market, at, terms = self._board.market(order.request.token), now(), order.terms
        price = min(market.last, terms.price) if order.request.side is Side.BUY else max(market.last, terms.price)
        quantity = min(quantity, order.pending)
        with self._store.transaction():
            self._fill(order, market, (Execution(Decimal(price) / 100, quantity),), at)
            if order.status is Status.CANCELLED:
                order.cancelled -= quantity
                self._record(order, order.status, at)
            elif order.pending:
                self._record(order, order.status, at)
            else:
                self._end(order, Status.COMPLETE, at)
        self._listener(order, order.status if order.status.is_end else UPDATE)
        self.faults.filled(order, quantity)

    def carry(self, instrument: Instrument, product: str, quantity: int, paise: int) -> None:
        """A position of `quantity` units (signed) that was there when the day began, at `paise` a unit."""
        self.portfolio.carry(instrument, product, quantity, paise)
        self._store.put("portfolio", self.portfolio.opening_state())

    def _fill(self, order: Order, market: Market, executions: tuple[Execution, ...], at: datetime) -> None:
        market.take(order.request.side, executions)
        self._board.save(market)
        for execution in executions:
            paise = int(execution.price * 100)
            order.filled += execution.quantity
            order.filled_value += paise * execution.quantity
            self._trade_count += 1
            trade = dumps(trade_row(order, str(10_000_000 + self._trade_count), paise, execution.quantity, at))
            self._store.save_trade(str(10_000_000 + self._trade_count), self.day, order.order_id, trade)
            self.trades.append(trade)
            self._trades_of.setdefault(order.order_id, []).append(trade)
            self.portfolio.apply(order.request, execution.quantity, paise)
        self.portfolio.block(order)

    def finish(self, order: Order, status: Status) -> None:
        with self._store.transaction():
            self._end(order, status, now())
        self._listener(order, status)

    def _end(self, order: Order, status: Status, at: datetime) -> None:
        if status is Status.CANCELLED:
            order.cancelled = order.pending
        order.change = None
        self._record(order, status, at)
        self._arriving.pop(order.order_id, None)
        self._working.get(order.request.token, {}).pop(order.order_id, None)
        self.portfolio.block(order)
        self.faults.ended(order)

    def _commit(self, order: Order, status: Status, at: datetime | None = None) -> None:
        with self._store.transaction():
            self._record(order, status, at or now())

    def _record(self, order: Order, status: Status, at: datetime) -> None:
        """Write a state: the order as it is now, and a row of its history."""
        order.status = status
        order.updated_at = at
        if order.exchange_order_id is not None:
            order.exchange_updated_at = at
        order.touched()
        self._store.append_history(order.order_id, order.states, order.row_json())
        order.states += 1
        self._store.save_order(order.order_id, order.day, order.seq, order.doc())

    # Helpers --------------------------------------------------------------------------------------------------

    def _resting_status(self, order: Order) -> Status:
        waits = order.terms.order_type is OrderType.SL and not order.triggered
        return Status.TRIGGER_PENDING if waits else Status.OPEN

    def _free_to_sell(self, request: OrderRequest) -> int:
        """Units a delivery sale may still take, less what other open sales have asked for."""
        asked = sum(
            order.pending
            for order in (*self._arriving.values(), *self._working.get(request.token, {}).values())
            if order.request.token == request.token and order.request.product == "CNC" and order.request.side == "SELL"
        )
        return max(0, self.portfolio.sellable(request.token) - asked)

    def _board_roll(self, day: date, at: datetime) -> None:
        self.portfolio.roll(lambda token: not _expired(self._board.market(token), day))
        self._board.open_day(day, at)

    def _next_id(self, at: datetime) -> str:
        stamp = (int(at.timestamp() * 1000) - _SNOWFLAKE_EPOCH_MS) << 22
        self._last_id = max(stamp, self._last_id + 1)
        return str(self._last_id)

    def _load(self) -> None:
        state = self._store.get("portfolio")
        if state is not None:
            self.portfolio.restore(state)
        for text in self._store.orders(self.day):
            order = Order.from_doc(text)
            self.orders[order.order_id] = order
            self._last_id = max(self._last_id, int(order.order_id))
        self._load_trades()
        for order in sorted(self.orders.values(), key=lambda each: each.accepted_at or each.placed_at):
            if not order.status.is_end and not order.live:
                self._arriving[order.order_id] = order
            if order.live:
                self._working.setdefault(order.request.token, {})[order.order_id] = order
            if not order.status.is_end and order.status not in {Status.RECEIVED, Status.VALIDATION_PENDING}:
                self.portfolio.block(order)

    def _load_trades(self) -> None:
        for trade in self._store.trades(self.day):
            row = json.loads(trade)
            self.trades.append(trade)
            self._trades_of.setdefault(row["order_id"], []).append(trade)
            paise = round(Decimal(str(row["average_price"])) * 100)
            self.portfolio.apply(self.orders[row["order_id"]].request, row["quantity"], paise)


def _expired(market: Market, day: date) -> bool:
    expiry = market.instrument.expiry
    return expiry is not None and expiry < day
