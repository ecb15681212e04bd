"""Faults of orders: what brokers, exchanges and the user's own app do to an order behind the client's back.

What is planned for an order is on disk before anyone hears of the order again, so a restart goes through with it. The ledger
and the store always hold what truly happened; only what is shown (book, trades) may lag.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from decimal import Decimal

from core.trading.types import Side
from sandbox.board import Board
from sandbox.errors import KiteError
from sandbox.exchange import Exchange, Interference
from sandbox.fault_engine import Choice, Facts, FaultEngine
from sandbox.fault_kinds import Family, FaultKind
from sandbox.orders import API, APP, RMS, Change, Order, Status
from sandbox.store import Store
from sandbox.validation import parse_place

log = logging.getLogger("sandbox.faults")
_AT_ACCEPTANCE = frozenset({
    FaultKind.LATE_IN_BOOK, FaultKind.STUCK_RECEIVED, FaultKind.REJECT_AFTER_OPEN, FaultKind.PARTIAL_THEN_CANCEL,
    FaultKind.TRADES_LAG, FaultKind.MODIFIED_IN_APP, FaultKind.CANCELLED_IN_APP, FaultKind.RMS_SQUARE_OFF,
    FaultKind.FOREIGN_ORDER,
})  # fmt: skip
_AFTER_LIVE = frozenset({FaultKind.REJECT_AFTER_OPEN, FaultKind.MODIFIED_IN_APP, FaultKind.CANCELLED_IN_APP})
_RESTING = frozenset({Status.OPEN, Status.TRIGGER_PENDING})


@dataclass(slots=True)
class Deed:
    """Something that will be done to an order. `due` is epoch seconds; None: when the order goes live (after `delay`)."""

    kind: FaultKind
    rule: str
    delay: float
    due: float | None = None
    quantity: int | None = None
    price: str | None = None
    product: str | None = None
    message: str | None = None
    side: str | None = None


@dataclass(slots=True)
class Plan:
    """What faults have in store for one order. Times are epoch seconds."""

    visible_at: float = 0.0
    stuck_s: float = 0.0
    trades_lag_s: float = 0.0
    trades_lag_until: float = 0.0
    withheld: bool = False
    """It may not fill: it is to be rejected."""

    cap: int | None = None
    """Units that may still fill before the rest is cancelled."""

    cap_rule: str = ""
    cap_delay: float = 0.0
    deeds: list[Deed] = field(default_factory=list)

    def doc(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_doc(cls, text: str) -> Plan:
        values = json.loads(text)
        values["deeds"] = [Deed(**{**deed, "kind": FaultKind(deed["kind"])}) for deed in values["deeds"]]
        return cls(**values)


class OrderFaults(Interference):
    """The exchange's `faults`."""

    def __init__(self, engine: FaultEngine, exchange: Exchange, board: Board, store: Store) -> None:
        self._engine = engine
        self._exchange = exchange
        self._board = board
        self._store = store
        self._plans = {order_id: Plan.from_doc(doc) for order_id, doc in store.fault_plans().items()}
        self._armed: set[str] = set()
        self._hiding, self._lagging = set(self._plans), set(self._plans)
        """Orders that may be hidden, or have late trades: so that a reading need not look at every plan."""

    def resume(self) -> None:
        """After a start: go through with what was planned, forget what belonged to another day's orders."""
        for order_id, plan in list(self._plans.items()):
            if order_id not in self._exchange.orders:
                self._forget(order_id)
                continue
            for deed in plan.deeds:
                self._arm(order_id, deed)
        self.arm_account_rules()

    # What the exchange asks -----------------------------------------------------------------------------------

    def accepted(self, order: Order) -> None:
        if order.source != API or not self._engine.any(Family.ORDER):
            return
        chosen = self._engine.choose_all(Family.ORDER, Facts.of(order), _AT_ACCEPTANCE)
        if not chosen:
            return
        plan = self._plans.setdefault(order.order_id, Plan())
        for choice in chosen:
            self._plan(order, plan, choice)
        self._save(order.order_id, plan)

    def extra_latency(self, order: Order) -> float:
        plan = self._plans.get(order.order_id)
        return plan.stuck_s if plan is not None and order.status is Status.RECEIVED else 0.0

    def went_live(self, order: Order) -> None:
        plan = self._plans.get(order.order_id)
        if plan is None:
            return
        for deed in plan.deeds:
            if deed.due is None:
                deed.due = time.time() + deed.delay
                self._arm(order.order_id, deed)
        self._save(order.order_id, plan)

    def fill_limit(self, order: Order) -> int | None:
        plan = self._plans.get(order.order_id)
        if plan is None:
            return None
        return 0 if plan.withheld else plan.cap

    def filled(self, order: Order, quantity: int) -> None:
        plan = self._plans.get(order.order_id)
        if plan is None or (plan.cap is None and not plan.trades_lag_s):
            return
        if plan.trades_lag_s:  # the wire carries whole seconds: a fill may seem up to one older than it is
            plan.trades_lag_until = time.time() + plan.trades_lag_s + 1
            self._lagging.add(order.order_id)
        plan.cap = None if plan.cap is None else max(0, plan.cap - quantity)
        if plan.cap == 0 and not order.status.is_end:
            deed = Deed(FaultKind.PARTIAL_THEN_CANCEL, plan.cap_rule, plan.cap_delay, time.time() + plan.cap_delay)
            plan.deeds.append(deed)
            self._arm(order.order_id, deed)
        self._save(order.order_id, plan)

    def before_cancelled(self, order: Order) -> None:
        if order.source != API:
            return
        choice = self._engine.choose(Family.ORDER, Facts.of(order), {FaultKind.FILL_RACES_CANCEL})
        if choice is not None:
            self._exchange.force_fill(order, choice.value("quantity") or order.pending)
            self._engine.record(choice, f"{order.filled} filled, {order.status}")

    def ended(self, order: Order) -> None:
        if order.status is not Status.CANCELLED or not order.pending or order.source != API:
            return
        choice = self._engine.choose(Family.ORDER, Facts.of(order), {FaultKind.FILL_AFTER_CANCELLED})
        if choice is None:
            return
        plan = self._plans.setdefault(order.order_id, Plan())
        deed = self._deed(choice)
        deed.due = time.time() + deed.delay
        plan.deeds.append(deed)
        self._save(order.order_id, plan)
        self._arm(order.order_id, deed)

    # What the views ask ---------------------------------------------------------------------------------------

    def hidden(self) -> frozenset[str]:
        """Ids of orders the book does not show yet."""
        at = time.time()
        self._hiding = {each for each in self._hiding if each in self._plans and self._plans[each].visible_at > at}
        return frozenset(self._hiding)

    def lagging_orders(self) -> dict[str, float]:
        """Order id to seconds its trades come late; only those that may miss one now."""
        at = time.time()
        self._lagging = {
            each for each in self._lagging if each in self._plans and self._plans[each].trades_lag_until > at
        }
        return {order_id: self._plans[order_id].trades_lag_s for order_id in self._lagging}

    # What the admin asks --------------------------------------------------------------------------------------

    def act_now(self, choice_of: Callable[[Facts], Choice | None], kind: FaultKind, symbol: str | None) -> int:
        """A rule with `now`: on `symbol` alone, or on every working order of ours that `choice_of` takes; how many."""
        if kind in {FaultKind.FOREIGN_ORDER, FaultKind.RMS_SQUARE_OFF}:
            choice = choice_of(Facts(symbol=symbol))
            if choice is not None:
                self._do(None, self._deed(choice), choice)
            return int(choice is not None)
        done = 0
        late = kind is FaultKind.FILL_AFTER_CANCELLED
        for order in list(self._exchange.orders.values()):
            wanted = order.status is Status.CANCELLED and order.pending if late else not order.status.is_end
            if order.source != API or not wanted:
                continue
            choice = choice_of(Facts.of(order))
            if choice is None:
                continue
            done += 1
            plan = self._plans.setdefault(order.order_id, Plan())
            self._plan(order, plan, choice)
            if order.live:
                self.went_live(order)
            self._save(order.order_id, plan)
        return done

    def arm_account_rules(self) -> None:
        """Set the clock for rules that look at nothing but it."""
        for rule, due in self._engine.asleep(Family.ACCOUNT):
            if str(rule.id) in self._armed:
                continue
            self._armed.add(str(rule.id))
            asyncio.get_running_loop().call_later(max(0.0, due - time.time()), self._account, str(rule.id))

    def _account(self, rule_id: str) -> None:
        self._armed.discard(rule_id)
        for rule, due in self._engine.asleep(Family.ACCOUNT):
            if rule.id != rule_id or due > time.time() + 0.01:
                continue
            choice = self._engine.take(rule, Facts(symbol=rule.symbol))
            if choice is None:
                return
            if rule.kind is FaultKind.DAY_ROLLED:
                self._exchange.roll_day_now()
                self._engine.record(choice, f"the day is {self._exchange.day}")
            else:
                self._engine.record(choice, self._carry(choice))
            return

    def _carry(self, choice: Choice) -> str:
        market = self._board.find(str(choice.rule.symbol))
        if market is None:
            return "no such instrument"
        price = choice.value("price")
        paise = market.last if price is None else int(price * 100)
        self._exchange.carry(market.instrument, str(choice.value("product")), choice.value("quantity"), paise)
        return f"{choice.value('quantity')} carried at {Decimal(paise) / 100}"

    # Plans ----------------------------------------------------------------------------------------------------

    def _plan(self, order: Order, plan: Plan, choice: Choice) -> None:
        kind, delay = choice.kind, choice.delay()
        match kind:
            case FaultKind.LATE_IN_BOOK:
                plan.visible_at = max(plan.visible_at, time.time() + delay)
                self._hiding.add(order.order_id)
            case FaultKind.STUCK_RECEIVED:
                plan.stuck_s = max(plan.stuck_s, delay)
            case FaultKind.TRADES_LAG:
                plan.trades_lag_s = max(plan.trades_lag_s, delay)
            case FaultKind.PARTIAL_THEN_CANCEL:
                if order.pending < 2:
                    return
                plan.cap = min(choice.value("quantity") or order.pending // 2, order.pending - 1)
                plan.cap_rule, plan.cap_delay = str(choice.rule.id), delay
                return
            case _:
                deed = self._deed(choice)
                plan.withheld = plan.withheld or kind is FaultKind.REJECT_AFTER_OPEN
                plan.deeds.append(deed)
                if kind not in _AFTER_LIVE:
                    deed.due = time.time() + delay
                    self._arm(order.order_id, deed)
                return
        self._engine.record(choice, f"{delay:.3f} s")

    def _deed(self, choice: Choice) -> Deed:
        price, product, side = choice.value("price"), choice.value("product"), choice.value("side")
        return Deed(
            choice.kind, str(choice.rule.id), choice.delay(), None, choice.value("quantity"),
            None if price is None else str(price), None if product is None else str(product), choice.value("message"),
            None if side is None else str(side),
        )  # fmt: skip

    def _arm(self, order_id: str, deed: Deed) -> None:
        if deed.due is not None:
            asyncio.get_running_loop().call_later(max(0.0, deed.due - time.time()), self._due, order_id, deed)

    def _due(self, order_id: str, deed: Deed) -> None:
        order, plan = self._exchange.orders.get(order_id), self._plans.get(order_id)
        if self._exchange.halted or plan is None or deed not in plan.deeds:
            return
        plan.deeds.remove(deed)
        if order is not None:
            self._do(order, deed, None)
        self._save(order_id, plan)

    def _save(self, order_id: str, plan: Plan) -> None:
        self._store.save_fault_plan(order_id, plan.doc())

    def _forget(self, order_id: str) -> None:
        self._plans.pop(order_id, None)
        self._store.delete_fault_plan(order_id)

    # Deeds ----------------------------------------------------------------------------------------------------

    def _do(self, order: Order | None, deed: Deed, choice: Choice | None) -> None:
        """Do it if it still can be done, and count it only then."""
        symbol = choice.rule.symbol if choice is not None else None
        if order is not None:
            symbol = f"{order.request.exchange}:{order.request.tradingsymbol}"
        try:
            detail = self._deeds(order, deed, choice, str(symbol))
        except KiteError as error:
            log.info("fault %s came to nothing: %s", deed.kind, error.message)
            return
        if detail is not None:
            order_id, tag = (None, None) if order is None else (order.order_id, order.request.tag)
            self._engine.record_kind(deed.kind, deed.rule, detail, order_id, tag, symbol=symbol)

    def _deeds(self, order: Order | None, deed: Deed, choice: Choice | None, symbol: str) -> str | None:
        if deed.kind is FaultKind.FOREIGN_ORDER:
            return self._place(
                symbol, Side(deed.side or Side.BUY), deed.quantity or 1, deed.product or "MIS", deed.price, APP
            )
        if deed.kind is FaultKind.RMS_SQUARE_OFF:
            return self._square_off(symbol, deed.product)
        assert order is not None
        match deed.kind:
            case FaultKind.REJECT_AFTER_OPEN:
                self._plans[order.order_id].withheld = False
                if order.status.is_end:
                    return None
                order.status_message = deed.message or "Order rejected by the exchange"
                order.status_message_raw = "16387 : Security is not allowed to trade in this market"
                self._exchange.finish(order, Status.REJECTED)
                return "rejected"
            case FaultKind.PARTIAL_THEN_CANCEL | FaultKind.CANCELLED_IN_APP:
                if order.status.is_end:
                    return None
                self._exchange.finish(order, Status.CANCELLED)
                return f"cancelled with {order.filled} of {order.terms.quantity} filled"
            case FaultKind.FILL_AFTER_CANCELLED:
                quantity = min(deed.quantity or order.pending, order.pending)
                self._exchange.force_fill(order, quantity)
                return f"{quantity} filled after CANCELLED"
            case FaultKind.MODIFIED_IN_APP:
                return self._modify(order, deed) if order.status in _RESTING else None
            case _:
                raise AssertionError(f"{deed.kind} is no deed")

    def _modify(self, order: Order, deed: Deed) -> str:
        terms, tick = order.terms, self._board.market(order.request.token).instrument.tick_paise
        price = terms.price - order.request.side.sign * tick if deed.price is None else int(Decimal(deed.price) * 100)
        quantity = max(deed.quantity or terms.quantity, order.filled + 1)
        change = Change(
            terms.order_type, terms.validity, quantity, terms.disclosed_quantity, price, terms.trigger_price
        )
        self._exchange.modify(order.order_id, change)
        return f"price {Decimal(price) / 100}, quantity {quantity}"

    def _place(self, symbol: str, side: Side, quantity: int, product: str, price: str | None, source: str) -> str:
        exchange, _, tradingsymbol = symbol.partition(":")
        form = {
            "exchange": exchange, "tradingsymbol": tradingsymbol, "transaction_type": str(side),
            "quantity": str(quantity), "product": product, "validity": "DAY",
            **({"order_type": "LIMIT", "price": price} if price else {"order_type": "MARKET", "market_protection": "-1"}),
        }  # fmt: skip
        request = parse_place("regular", form, self._board.find_instrument, self._board.last_price)
        return f"order {self._exchange.place(request, source)}: {side} {quantity} {symbol} {product}"

    def _square_off(self, symbol: str, product: str | None) -> str | None:
        done: list[str] = []
        for leg in list(self._exchange.portfolio.legs.values()):
            if f"{leg.exchange}:{leg.tradingsymbol}" == symbol and leg.net and product in {None, leg.product}:
                side = Side.SELL if leg.net > 0 else Side.BUY
                done.append(self._place(symbol, side, abs(leg.net), leg.product, None, RMS))
        return "; ".join(done) or None
